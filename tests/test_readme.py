"""What the README says is so."""

import re
from pathlib import Path

from agents.command_line import flag_table

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_it_opens_with_the_two_commands():
    commands = [line.strip() for line in README.splitlines() if line.startswith("    ")][:2]
    assert commands == [
        "pip install -e . && python train_a3c.py --game Frostbite --workers 16",
        'pip install -e ".[test]" && pytest',
    ]


def test_the_table_of_settings_is_the_programs():
    assert flag_table() in README


def test_its_python_runs():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = {}
    exec(code, names)
    assert names["y"].shape == (32, 10)
    assert names["weights"].shape == (32, 64, 10)
