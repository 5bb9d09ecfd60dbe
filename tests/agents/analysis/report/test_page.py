"""The page's template escapes what it is given, and its scripts are all there."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from agents.analysis.report.data import median_episode
from agents.analysis.report.page import FOLDER, SCRIPTS, describe_episode, template_environment
from agents.evaluation.episode import EpisodeResult
from agents.evaluation.results import summarise
from envs import AtariConfig


def test_data_cannot_end_the_script_that_holds_it():
    data = {"name": "</script><!--", "numbers": [1, 2.5]}
    text = template_environment().from_string("{{ data | tojson }}").render(data=data)
    assert "<" not in text
    assert json.loads(text) == data


def test_a_number_that_json_does_not_know_is_an_error_and_no_broken_page():
    template = template_environment().from_string("{{ data | tojson }}")
    with pytest.raises(ValueError, match="not JSON compliant"):
        template.render(data=[math.nan])


def test_text_is_escaped_wherever_it_stands():
    template = template_environment().from_string('<p title="{{ name }}">{{ name }}</p>')
    name = '</p><script>"&'
    escaped = "&lt;/p&gt;&lt;script&gt;&#34;&amp;"
    assert template.render(name=name) == f'<p title="{escaped}">{escaped}</p>'


@pytest.mark.parametrize(
    ("scores", "which"),
    [
        ((10.0,), "The episode: score 10"),
        ((30.0, 10.0, 20.0), "The median of 3 sampled episodes: score 20"),
        ((10.0, 20.0), "The lower median of 2 sampled episodes: score 10"),
    ],
)
def test_the_episode_shown_is_named_as_it_was_chosen(scores, which):
    actions = np.zeros(6, np.uint8)
    episodes = [EpisodeResult("sampled", 1, score, 6, actions, "", False) for score in scores]
    trajectory = SimpleNamespace(episode=median_episode(episodes), actions=actions)
    shown = SimpleNamespace(trajectory=trajectory)
    text = describe_episode(AtariConfig("Pong"), shown, [summarise("Pong", episodes)])
    assert text == f"{which}, 6 agent steps (0 s of play), sampled actions, seed 1."


def test_every_script_is_in_the_page_and_has_no_long_line():
    assert sorted(SCRIPTS) == sorted((FOLDER / "charts").glob("*.js"))
    for path in SCRIPTS:
        assert all(len(line) <= 100 for line in path.read_text().splitlines()), path
