"""Whatever is typed, it is a valid configuration or one line that names the flag."""

import contextlib
import dataclasses
import io
import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agents.cli import parse_args
from agents.config import TrainConfig, flag
from tests.agents.fuzz import fuzz

SPECS = dataclasses.fields(TrainConfig)
FLAGS = [flag(spec.name) for spec in SPECS]
FLAGS += ["--no-" + flag(spec.name)[2:] for spec in SPECS if spec.type is bool]
STRANGE = [
    *("", " ", "-", "--", "=", "%", "%s", "%(default)s", "{}", "\0", "\n", "\r\n", "\x1b[2J"),
    *("nan", "-nan", "inf", "-inf", "Infinity", "-0", "-0.0", "0x10", "1_000", "٣", "1e400"),
    *("1e-400", "9" * 400, "9" * 5000, "-" + "9" * 5000, "1" + "0" * 5000 + ".5", "True", "None"),
    *("/", ".", "..", "../..", "~", "/dev/null", "/dev/zero", "/etc/passwd", "/proc/self/mem"),
    *("x" * 300, "x" * 5000, "/x" * 2000, "a/\0/b", "\ud800", "\u2028", "a\u202eb", "pong"),
    *(
        "@file",
        "--game",
        "--no-quiet",
        "runs/latest",
        "linear",
        "neurocoder",
        "Montezuma's Revenge",
    ),
]
TYPED = (
    st.sampled_from(STRANGE)
    | st.sampled_from([str(spec.default) for spec in SPECS])
    | st.text(max_size=20)
    | st.integers().map(str)
    | st.floats().map(str)
)
WORDS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(FLAGS), TYPED),
        st.builds(lambda name, value: (f"{name}={value}",), st.sampled_from(FLAGS), TYPED),
        st.tuples(st.sampled_from(FLAGS)),
    ),
    min_size=1,
    max_size=4,
).map(lambda pairs: [word for pair in pairs for word in pair])
HELP = {"-h", "--help"}


def parse(argv):
    """Return the settings, or the message of the exit with code 2."""
    said, code = io.StringIO(), None
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            return parse_args(argv)
        except SystemExit as stop:
            code = stop.code
    assert code == 2
    return said.getvalue()


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left_behind(tmp_path_factory):
    folder = tmp_path_factory.mktemp("empty")
    before = Path.cwd()
    os.chdir(folder)
    yield
    os.chdir(before)
    assert list(folder.iterdir()) == []


NO_HELP = WORDS.filter(lambda words: not HELP & set(words))


@fuzz(600)
@given(argv=NO_HELP)
@example(argv=["--resume", "a\0b"])
@example(argv=["--run-dir", "x" * 5000])
@example(argv=["--col\nour"])
def test_any_flags_give_valid_settings_or_one_line_that_names_one_of_them(argv):
    assert_valid_or_named(argv)


@pytest.mark.slow
@fuzz(2500)
@given(argv=NO_HELP)
def test_many_more_flags_do(argv):
    assert_valid_or_named(argv)


def assert_valid_or_named(argv):
    answer = parse(argv)
    if isinstance(answer, TrainConfig):
        assert TrainConfig(**dataclasses.asdict(answer)) == answer
        return
    assert answer.startswith("train_a3c.py: error: ")
    assert len(answer.splitlines()) == 1
    assert len(answer) < 1100
    named = [name for name in FLAGS if name in answer]
    assert named or "unrecognized arguments" in answer


@fuzz(100)
@given(value=TYPED.filter(lambda value: value not in HELP))
@pytest.mark.parametrize("name", ["workers", "learning_rate", "game", "head", "run_dir", "resume"])
def test_a_single_flag_that_is_refused_is_the_one_that_is_named(name, value):
    answer = parse([f"{flag(name)}={value}"])
    assert isinstance(answer, TrainConfig) or flag(name) in answer
