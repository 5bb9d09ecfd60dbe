"""Errors that the user can fix, and text that is safe to show in one line.

Imports nothing heavy: the replay command runs without torch.
"""

import unicodedata

# Control characters, lone surrogates, and line and paragraph separators.
_UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")


class UserError(Exception):
    """Something the user can fix; commands print the message as one line and exit with code 2."""


class MachineError(UserError):
    """This machine lacks something, whatever the settings; the message says what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(escape_to_one_line(message))


def escape_to_one_line(text: str, max_length: int = 1000) -> str:
    """Escape characters that would break the line; cut a long text in the middle."""
    shown = "".join(c if is_printable(c) else ascii(c)[1:-1] for c in text)
    if len(shown) <= max_length:
        return shown
    return f"{shown[: max_length // 2]} ... {shown[-max_length // 2 :]}"


def is_printable(text: str) -> bool:
    """Whether a text can be shown in one line and written to a file.

    Unlike `str.isprintable`, this accepts what is legal in a file name, such as a no-break space.
    """
    return not any(unicodedata.category(c) in _UNPRINTABLE for c in text)
