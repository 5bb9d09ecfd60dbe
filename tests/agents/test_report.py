"""The report's page: that it says what was played, and needs nothing but itself."""

import base64
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from agents import report
from agents.analysis.report.chart_data import read_points
from agents.analysis.report.data import by_action, project, strongest
from agents.analysis.report.episode import show_episode, thumbnail
from agents.cli import run_command
from agents.evaluation.load_agent import load_agent
from agents.evaluation.results import EVALUATIONS, EvaluationRow, Summary, append_evaluation
from agents.evaluation.runner import episode_seeds, evaluate_policy
from agents.evaluation.video import enlarge
from agents.run_folder import open_run
from tests.agents.curve_runs import write_progress
from tests.agents.episode_log import EpisodeLog
from tests.agents.report_pages import read_data, unpack
from tests.agents.runs import make_config, make_run, rewrite_json

ROOT = Path(__file__).parents[2]
# A folder's name cannot hold the slash of a closing tag; one that looks like it serves as well.
NAME = "<script>alert(1)<∕script> & {{data}}"
SHORT = make_config(max_frames=24)
VOID = {"meta", "input", "br", "img", "hr", "link"}


class Page(HTMLParser):
    """Collects what a page holds; fails where an element is not closed in its turn."""

    def __init__(self, text):
        super().__init__()
        self.open, self.attributes, self.texts, self.tags = [], [], {}, []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        key = self.open[-1] if self.open else ""
        self.texts.setdefault(key, []).append(data)

    @property
    def ids(self):
        return {value for name, value in self.attributes if name == "id"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / NAME, SHORT)


@pytest.fixture(scope="module")
def page(run):
    write_progress(run, ((1000, 10.0), (2000, 21.5)))
    for step, mode, mean in ((1000, "sampled", 12.0), (1000, "greedy", 3.0)):
        summary = Summary(mode, 2, mean, 0.0, mean, mean, mean, 20.0, None)
        append_evaluation(run, EvaluationRow(0.0, "training", "", step, summary, 1))
    before = (run / EVALUATIONS).read_bytes()
    assert report.main([str(run), "--episodes", "3"]) == 0
    assert (run / EVALUATIONS).read_bytes() == before
    return (run / "report.html").read_text()


@pytest.fixture(scope="module")
def shown(run):
    """The episode that the page must show, found without the page's own code."""
    folder, config = open_run(run)
    network = load_agent(folder, config).network
    episodes = evaluate_policy(network, config, "sampled", episode_seeds(1, 3))
    middle = sorted(episodes, key=lambda episode: episode.score)[1]
    return show_episode(network, config, "sampled", middle.seed)


def test_the_page_is_well_formed_and_has_every_place_that_its_script_draws_in(page):
    parsed = Page(page)
    wanted = set(re.findall(r'\$\("([\w-]+)"\)|canvas\("(\w+)"\)', page))
    assert {name for names in wanted for name in names if name} <= parsed.ids
    assert "{{" not in page.replace("{{data}}", "")
    assert "<!--" not in page


def test_the_page_asks_for_nothing_outside_itself(page):
    assert not re.search(r"https?:|@import|//cdn|import\(|fetch\(|XMLHttp", page)
    for name, value in Page(page).attributes:
        if name in {"src", "href", "srcset", "poster", "action"}:
            assert value.startswith("data:")
    assert "default-src 'none'" in page


def test_a_runs_name_is_text_wherever_it_stands(page):
    parsed = Page(page)
    assert parsed.texts["title"] == [f"Frostbite, neurocoder head: {NAME}"]
    assert NAME in parsed.texts["p"]
    assert parsed.tags.count("script") == 2


def test_the_arrays_in_the_page_are_those_of_the_median_episode(page, shown):
    data, programs = read_data(page), shown.trajectory
    assert data["actionNames"] == list(programs.action_names)
    for name in ("actions", "rewards", "values", "probabilities"):
        np.testing.assert_array_equal(unpack(data[name]), getattr(programs, name))
    assert [head["name"] for head in data["heads"]] == ["actor", "critic"]
    for head in data["heads"]:
        program = getattr(programs, head["name"])
        arrays = [program.u_attention, program.v_attention, program.s_attention]
        for selection, name, array in zip(head["selections"], "UVS", arrays, strict=True):
            assert selection["name"] == name
            there = unpack(selection["weights"])
            assert there.shape == array.shape
            np.testing.assert_allclose(there / 255, array, atol=0.5 / 255 + 1e-6)
            mean = array.mean(axis=1)
            np.testing.assert_allclose(selection["usage"], mean.mean(axis=0), atol=1e-5)
            matrix = by_action(mean, programs.actions, 18)
            for row, expected in zip(selection["byAction"], matrix, strict=True):
                if np.isnan(expected).any():
                    assert row is None
                else:
                    np.testing.assert_allclose(row, expected, atol=1e-5)
        length = len(programs.actions)
        plane, parts = project(np.concatenate([a.reshape(length, -1) for a in arrays], axis=1))
        np.testing.assert_array_equal(unpack(head["plane"]), plane)
        assert head["explained"] == pytest.approx(parts)
    attention = programs.actor.u_attention.mean(axis=1)
    for slot, steps in enumerate(strongest(attention, 3, apart=15)):
        assert [picture["t"] for picture in data["gallery"][slot]] == steps
        for picture in data["gallery"][slot]:
            jpeg = base64.b64decode(picture["picture"].removeprefix("data:image/jpeg;base64,"))
            assert jpeg == shown.thumbnails[picture["t"]]
            assert picture["weight"] == pytest.approx(attention[picture["t"], slot], abs=1e-4)


def test_the_thumbnail_of_a_step_is_what_was_on_the_screen_before_it(run, shown):
    folder, config = open_run(run)
    log = EpisodeLog(needs_frames=True)
    network = load_agent(folder, config).network
    episode = shown.trajectory.episode
    evaluate_policy(network, config, "sampled", [episode.seed], [log])
    screens = [step.info["screens"] for step in log.steps]
    for t in range(1, episode.length):
        before = np.maximum(screens[t - 1][-2], screens[t - 1][-1])
        assert shown.thumbnails[t] == thumbnail(enlarge(before))
    decoded = cv2.imdecode(np.frombuffer(shown.thumbnails[5], np.uint8), cv2.IMREAD_COLOR)
    assert decoded.shape == (72, 96, 3)


def test_the_video_in_the_page_shows_every_step(page, shown, tmp_path):
    (source,) = (
        value
        for name, value in Page(page).attributes
        if (name, value[:10]) == ("src", "data:video")
    )
    path = tmp_path / "game.mp4"
    path.write_bytes(base64.b64decode(source.removeprefix("data:video/mp4;base64,")))
    frames = cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT)
    assert frames == 2 * len(shown.trajectory.actions)


def test_the_curve_is_that_of_progress_csv_and_the_evaluations(page):
    curve = read_data(page)["curve"]
    assert curve["lines"] == {
        "training": [[1000, 2000], [10.0, 21.5]],
        "sampled": [[1000], [12.0]],
        "greedy": [[1000], [3.0]],
    }
    assert (curve["random"], curve["human"]) == (65.2, 4334.7)


def test_the_table_has_every_mode_played_now_and_the_published_scores(page, run):
    folder, config = open_run(run)
    scores, _, milestones = page.partition("Table of milestones")
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', scores)
    cells = {name: re.findall("<td>(.*?)</td>", row) for name, row in rows}
    # No agent enters the igloo.
    reached = r'<th scope="row">(.*?)</th><td>[0-9]+%</td><td>0%</td><td>1</td>'
    assert re.findall(reached, milestones) == ["Agent, sampled", "Agent, greedy", "Random play"]
    assert list(cells) == [
        "Agent, sampled",
        "Agent, greedy",
        "Random play",
        "Published, random",
        "Published, human",
    ]
    network = load_agent(folder, config).network
    for mode, name in zip(("sampled", "greedy", "random"), cells, strict=False):
        scores = [
            episode.score for episode in evaluate_policy(network, config, mode, episode_seeds(1, 3))
        ]
        mean, _, median, _, episodes, _ = cells[name]
        assert float(mean.split(" ")[0]) == pytest.approx(np.mean(scores), abs=0.05)
        assert (float(median), episodes) == (np.median(scores), "3")
    assert cells["Published, human"] == ["4,334.7", "100%", "–", "–", "–", "–"]


def test_a_linear_head_has_scores_and_a_player_but_no_programs(tmp_path, capsys):
    run = make_run(
        tmp_path / "run", make_config(game="Pong", head="linear", core="lstm", max_frames=24)
    )
    out = tmp_path / "page.html"
    arguments = [str(run), "--episodes", "1", "--mode", "greedy", "--out", str(out)]
    assert report.main(arguments) == 0
    captured = capsys.readouterr()
    assert captured.out == f"written to {out} ({out.stat().st_size / 1e6:.1f} MB)\n"
    assert "greedy 1/1: score" in captured.err
    text = out.read_text()
    parsed, data = Page(text), read_data(text)
    assert {"video", "policy", "value", "seek"} <= parsed.ids
    assert not {"attention", "matrix", "plane", "gallery", "curve"} & parsed.ids
    assert (data["heads"], data["gallery"], data["curve"]) == ([], None, None)
    assert unpack(data["probabilities"]).shape == (6, 6)
    assert "linear head, nips torso, LSTM" in text
    assert "--actor-gain 10.0" in text


def test_the_page_is_utf8_whatever_the_locale_and_the_name_of_the_run(tmp_path):
    run = make_run(tmp_path / "not UTF-8: \udcff", make_config(head="linear", max_frames=24))
    command = [sys.executable, "-m", "agents.report", str(run), "--episodes", "1"]
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run(command, cwd=ROOT, env=os.environ | ascii_only, check=True)
    text = (run / "report.html").read_text("utf-8")
    assert r"not UTF-8: \udcff</p>" in text
    assert '.replace("-", "\N{MINUS SIGN}")' in text


def test_a_hypernet_shows_its_embedding(tmp_path, capsys):
    config = make_config(head="hypernet", max_frames=24)
    run = make_run(tmp_path / "run", config)
    rewrite_json(run / "config.json", lambda settings: settings.pop("gamma"))
    assert report.main([str(run), "--episodes", "1"]) == 0
    assert "--gamma" in capsys.readouterr().err  # it is assumed
    text = (run / "report.html").read_text()
    data, parsed = read_data(text), Page(text)
    folder, config = open_run(run)
    seed = evaluate_policy(None, config, "random", episode_seeds(1, 1))[0].seed
    programs = show_episode(load_agent(folder, config).network, config, "sampled", seed).trajectory
    for head in data["heads"]:
        (z,) = head["selections"]
        assert (z["name"], z["signed"]) == ("z", True)
        embedding = getattr(programs, head["name"]).embedding
        np.testing.assert_array_equal(unpack(z["weights"])[:, 0], embedding)
    assert "memory" not in parsed.ids
    assert {"attention", "head", "plane", "gallery"} <= parsed.ids


def test_an_episode_too_large_for_a_page_is_shown_as_far_as_it_fits(run, shown):
    folder, config = open_run(run)
    network = load_agent(folder, config).network
    seed = shown.trajectory.episode.seed
    part = show_episode(network, config, "sampled", seed, max_steps=4)
    assert len(shown.thumbnails) == part.trajectory.episode.length == 6
    assert len(part.thumbnails) == len(part.trajectory.actions) == 4
    np.testing.assert_array_equal(
        part.trajectory.actor.u_attention, shown.trajectory.actor.u_attention[:4]
    )
    limit = len(part.video)
    small = show_episode(network, config, "sampled", seed, max_video_bytes=limit)
    assert len(small.video) <= limit
    assert len(small.thumbnails) == len(small.trajectory.values) <= 4


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["--out", "page.txt"], "must end in .html"),
        (["--out", "nowhere/page.html"], "there is no folder nowhere"),
        (["--checkpoint", "none.pt"], "none.pt: neither latest, nor best, nor a file here or in"),
        (["--episodes", "0"], "--episodes"),
        (["--mode", "random"], "--mode"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_exit_code_2(run, change, says, capsys):
    with pytest.raises(SystemExit) as caught:
        run_command(lambda: report.main([str(run), *change]), "report")
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert says in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_what_is_no_run_is_one_line_and_exit_code_2(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        run_command(lambda: report.main([str(tmp_path)]), "report")
    assert caught.value.code == 2
    assert "has no config.json" in capsys.readouterr().err


def test_a_damaged_progress_file_costs_a_warning_not_the_report(tmp_path, capsys):
    run = make_run(tmp_path / "run")
    (run / "progress.csv").write_text("nonsense\n")
    assert read_points(run) == {}
    assert "warning: no learning curve" in capsys.readouterr().err
