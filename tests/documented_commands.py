"""The shell commands that the pages show, taken out of their Markdown."""

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Kept with the commands that made them.
RESULTS = sorted((ROOT / "benchmarks" / "results").rglob("*.md"))

SHELLS = ("", "bash", "console", "sh", "shell")
PROGRAMS = ("mypy", "pip", "pytest", "python", "ruff", "tensorboard")


@dataclass(frozen=True)
class Line:
    """A line of a page that is meant to be typed.

    Attributes:
        page: where it stands.
        text: as it would be typed, remarks left out.
        inline: whether it stands within a sentence, and not by itself.
    """

    page: str
    text: str
    inline: bool = False

    @property
    def commands(self) -> list[list[str]]:
        """The words of each of its commands; `&&` parts them."""
        lexer = shlex.shlex(self.text, posix=True, punctuation_chars="&")
        lexer.whitespace_split = True
        commands: list[list[str]] = [[]]
        for word in lexer:
            if word == "&&":
                commands.append([])
            else:
                commands[-1].append(word)
        return commands

    @property
    def programs(self) -> set[str]:
        """Those of Python: scripts, and modules after `-m`."""
        ours = [words for words in self.commands if words[0] == "python"]
        return {words[2] if words[1] == "-m" else words[1] for words in ours}


def all_lines() -> list[Line]:
    """Of README, pages and results, each once. In the latter, what is no command may be shown."""
    lines = [line for page in PAGES for line in lines_of(page)]
    more = [line for page in RESULTS for line in lines_of(page)]
    return list(dict.fromkeys([*lines, *(line for line in more if line.text.startswith(PROGRAMS))]))


def lines_of(page: Path) -> list[Line]:
    """The lines of a page's code blocks that are not of another language, and inline commands.

    A code block is fenced, or indented by four blanks after an empty line.
    """
    name, text = os.path.relpath(page, ROOT), page.read_text()
    found = [Line(name, line) for line in _block_lines(text)]
    for span in inline_code(text):
        words = span.split()
        if words and words[0] in PROGRAMS and len(words) > 1:
            found.append(Line(name, " ".join(words), inline=True))
    return found


def inline_code(text: str) -> list[str]:
    """What stands in backticks within the sentences of a page."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"`([^`]+)`", prose)


def _block_lines(text: str) -> list[str]:
    lines: list[str] = []
    fence: str | None = None
    before, in_block = "", False
    for line in text.splitlines():
        opened = re.match(r"```(\w*)$", line)
        in_block = line.startswith("    ") and (in_block or before == "")
        if fence is not None:
            if line == "```":
                fence = None
            elif fence in SHELLS:
                lines.append(line)
        elif opened:
            fence = opened[1]
        elif in_block:
            lines.append(line)
        before = line
    whole = "\n".join(lines).replace("\\\n", " ")
    bare = (re.sub(r"(^|\s)#.*", "", line).removeprefix("$ ").strip() for line in whole.split("\n"))
    return [line for line in bare if line]
