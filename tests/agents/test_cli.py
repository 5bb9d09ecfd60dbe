"""What the parser of all commands answers."""

import pytest

from agents.cli import CommandParser, parse_args


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


def test_help_ends_with_the_default_where_there_is_one():
    parser = CommandParser(prog="command", description="A line\n    and an example.")
    parser.add_argument("--number", default=3, help="how many")
    parser.add_argument("--names", nargs="+", default=["a", "b"], help="which")
    parser.add_argument("--share", default=0.5, help="of 100 %%")
    parser.add_argument("--file", help="where")
    parser.add_argument("--title", default="", help="above")
    parser.add_argument("--quick", action="store_true", help="less")
    text = parser.format_help()
    assert "A line\n    and an example.\n" in text
    assert " ".join(text.partition("--help")[2].split()).endswith(
        "--number NUMBER how many (default: 3) --names NAMES [NAMES ...] which (default: a b) "
        "--share SHARE of 100 % (default: 0.5) --file FILE where --title TITLE above --quick less"
    )
