"""The commands in the README and in `docs/` are understood by their programs, word by word.

Each is given to the real parser, which must know all of its flags and values. Whether they do what
they should is for `test_commands_run.py`.
"""

import argparse
import importlib
import importlib.util
import re
import shlex
import sys

import pytest

from agents import cli as command_line
from agents.config import TrainConfig
from agents.run_folder import create_run_folder
from tests.documented_commands import PAGES, ROOT, all_lines, inline_code, lines_of

LINES = all_lines()

# What a page writes in capitals, by the flag before it.
STAND_INS = {"--game": "Pong", "--head": "linear", "--variants": "linear", "--seed": "2"}


def with_stand_ins(words):
    flags = [None, *words]
    return [
        STAND_INS.get(flag, word) if re.fullmatch("[A-Z]+", word) else word
        for flag, word in zip(flags, words, strict=False)
    ]


def name_of(line):
    return f"{line.page}: {line.text}"


class ParsedError(Exception):
    """A program has got as far as having parsed its command line."""


@pytest.fixture
def parse(monkeypatch, capsys):
    """Has the real parser of a module parse words; fails where it refuses one, or abbreviates."""

    def parse(module, words):
        real = argparse.ArgumentParser.parse_args

        def stop(parser, args=None, namespace=None):
            real(parser, args, namespace)
            raise ParsedError(parser)

        with monkeypatch.context() as patch:
            patch.setattr(argparse.ArgumentParser, "parse_args", stop)
            patch.setattr(sys, "argv", [module, *words])
            try:
                importlib.import_module(module).main()
            except ParsedError as parsed:
                (parser,) = parsed.args
            except SystemExit as end:
                if end.code == 0:  # --help
                    return
                pytest.fail(capsys.readouterr().err)
        names = (word.partition("=")[0] for word in words)
        flags = [name for name in names if re.fullmatch(r"--[a-z]\S*", name)]
        assert set(flags) <= parser._option_string_actions.keys()

    return parse


@pytest.fixture
def train(tmp_path, capsys):
    """Reads a command line as `train_a3c.py` does itself; what is resumed is a run made here."""

    def train(words):
        if "--resume" in words:
            run = create_run_folder(TrainConfig(run_dir=str(tmp_path / "runs")), ())
            words = [str(run) if w.startswith("runs/") or w == "RUN" else w for w in words]
        try:
            command_line.parse_args(words)
        except SystemExit:
            pytest.fail(capsys.readouterr().err)

    return train


def check_python(words, parse, train):
    if words[0] == "train_a3c.py":
        train(words[1:])
        return
    assert words[0] == "-m", words
    module, rest = words[1], words[2:]
    end = rest.index("--") if "--" in rest else len(rest)
    train(rest[end + 1 :])  # what follows is handed on, and so is what is quoted
    for word in rest:
        if " " in word and word.strip().startswith("--"):
            train(shlex.split(word))
    parse(module, rest[:end] if module in ("benchmarks.fig3", "benchmarks.cluster") else rest)


def check_pip(words):
    assert words[:2] == ["install", "-e"]
    (extra,) = re.fullmatch(r"\.(?:\[([\w-]+)\])?", words[2]).groups()
    project = (ROOT / "pyproject.toml").read_text()
    extras = project.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    assert extra is None or re.search(rf"^{extra} = \[", extras, re.M)
    assert len(words) == 3


def check_ray(words):
    scripts = pytest.importorskip("ray.scripts.scripts")
    scripts.cli.commands[words[0]].make_context(words[0], list(words[1:]))


def check_pytest(words):
    while words and words[0] == "-m":
        assert words[1] in ("slow", "gpu")
        words = words[2:]
    assert all((ROOT / word).exists() for word in words)


@pytest.mark.parametrize("line", LINES, ids=name_of)
def test_every_command_is_one_that_its_program_understands(line, parse, train):
    for program, *words in line.commands:
        words = with_stand_ins(words)
        if program == "python" and line.inline and words[0] == "-m" and len(words) == 2:
            assert importlib.util.find_spec(words[1])  # merely mentioned
        elif program == "python":
            check_python(words, parse, train)
        elif program == "pip":
            check_pip(words)
        elif program == "pytest":
            check_pytest(words)
        elif program == "tensorboard":
            assert importlib.util.find_spec("tensorboard")
            assert words[::2] == ["--logdir"]
        elif program == "ray":
            check_ray(words)
        elif program == "cp":
            assert words[0] == "-r"
            assert (ROOT / words[1]).is_dir()
            assert words[2].startswith("runs/")
        else:
            assert [program, *words] in (["ruff", "check", "."], ["ruff", "format", "--check", "."])


def test_models_and_files_that_commands_name_are_there():
    words = {word for line in LINES for words in line.commands for word in words}
    paths = {word for word in words if word.startswith(("models/", "docs/", "tests/"))}
    assert len(paths) >= 4
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_flag_that_a_sentence_mentions_is_one_of_a_program():
    known = {"--check", "--help", "--logdir"}
    for folder in ("agents", "benchmarks", "experiments"):
        for path in (*(ROOT / folder).glob("*.py"), *(ROOT / folder).glob("common/*.py")):
            known |= set(re.findall(r'"(--[a-z0-9-]+)"', path.read_text()))
    known |= set(re.findall(r"--[a-z0-9-]+", command_line.flag_table()))
    for page in PAGES:
        for span in inline_code(page.read_text()):
            for mentioned in re.findall(r"(?<!\S)--[a-z][a-z0-9-]*", span):
                assert mentioned in known, (page.name, mentioned)


def test_a_block_is_what_markdown_takes_for_one(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "1. item\n    that goes on\n\n"
        "    python one.py \\\n        --flag  # remark\n\n    two && three\n\n"
        "```python\nnot = this\n```\n```bash\n$ four '# kept'\n```\n"
        "say `python -m five` now, `six`\n"
    )
    lines = lines_of(page)
    assert [" ".join(line.text.split()) for line in lines] == [
        *("python one.py --flag", "two && three", "four '# kept'", "python -m five")
    ]
    assert [line.inline for line in lines] == [False, False, False, True]
    assert lines[1].commands == [["two"], ["three"]]
