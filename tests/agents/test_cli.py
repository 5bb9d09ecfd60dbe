"""What the parser of all commands answers."""

import pytest

from agents.cli import parse_args


@pytest.mark.parametrize(
    ("flags", "answer"),
    [
        (["--learnin-rate", "0.1"], "--learnin-rate 0.1; did you mean --learning-rate?"),
        (["--no-lif-loss-ends-return"], "; did you mean --no-life-loss-ends-return?"),
        (["--qqqqq"], "unrecognized arguments: --qqqqq"),
        (["Pong"], "unrecognized arguments: Pong"),
    ],
)
def test_an_unknown_flag_is_answered_with_the_one_that_is_like_it(flags, answer, capsys):
    with pytest.raises(SystemExit, match="2"):
        parse_args(flags)
    assert capsys.readouterr().err.endswith(f"{answer}\n")
