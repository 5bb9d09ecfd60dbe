"""The page's template escapes what it is given, and its scripts are all there."""

import json
import math

import pytest

from agents.analysis.report.page import FOLDER, SCRIPTS, template_environment


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


def test_every_script_is_in_the_page_and_has_no_long_line():
    assert sorted(SCRIPTS) == sorted((FOLDER / "charts").glob("*.js"))
    for path in SCRIPTS:
        assert all(len(line) <= 100 for line in path.read_text().splitlines()), path
