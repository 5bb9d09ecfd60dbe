"""What the README says is so."""

import re
from pathlib import Path

from envs import PUBLISHED_SCORES, list_games
from neurocoder import NeurocoderLinear

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = sorted((ROOT / "docs").glob("*.md"))


def test_it_opens_with_the_two_commands():
    commands = [line.strip() for line in README.splitlines() if line.startswith("    ")][:2]
    assert commands == [
        "pip install -e . && python train_a3c.py --game Frostbite --workers 16",
        'pip install -e ".[test]" && pytest',
    ]


def test_it_counts_the_games_that_can_be_played_and_those_whose_scores_are_known():
    assert f"Any of the {sum(game.playable for game in list_games())} games" in README
    assert f"random play and human for {len(PUBLISHED_SCORES)} games" in README


def test_its_python_is_ten_lines_and_runs():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in code.splitlines() if line]) == 10
    names = {}
    exec(code, names)
    assert names["y"].shape == (32, 10)
    assert names["weights"].shape == (32, 64, 10)
    assert isinstance(names["model"][2], NeurocoderLinear)
    assert names["loss"].requires_grad


def test_it_reads_in_five_minutes():
    assert len(README.split()) < 1400


def test_every_page_is_linked_and_every_link_leads_somewhere():
    for page in [ROOT / "README.md", *PAGES]:
        for link, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", page.read_text()):
            if link.startswith("https://"):
                continue
            target = page.parent / link if link else page
            assert target.exists(), (page.name, link)
            assert not anchor or anchor in anchors(target.read_text()), (page.name, anchor)
    assert [page.name for page in PAGES if f"docs/{page.name}" not in README] == []


def anchors(text):
    """How GitHub names the headings of a page, for links."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}
