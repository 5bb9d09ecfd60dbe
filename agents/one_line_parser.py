"""The command lines' common parser. Imports nothing heavy: replaying needs no torch."""

import argparse
import unicodedata
from typing import NoReturn

# Control characters, halves of characters, and what else starts a new line.
_UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")


class OneLineParser(argparse.ArgumentParser):
    """Reports an error in one line, without the page of usage; exit code 2."""

    def error(self, message: str) -> NoReturn:
        """End the process."""
        self.exit(2, f"{self.prog}: error: {one_line(message)}\n")


def one_line(text: str, most: int = 1000) -> str:
    """The text with escapes for what would break its line, and without the middle of a long one."""
    shown = "".join(c if is_plain(c) else ascii(c)[1:-1] for c in text)
    return shown if len(shown) <= most else f"{shown[: most // 2]} ... {shown[-most // 2 :]}"


def is_plain(text: str) -> bool:
    """Whether all characters of a text can be shown in a line, and written to a file."""
    return not any(unicodedata.category(c) in _UNPRINTABLE for c in text)
