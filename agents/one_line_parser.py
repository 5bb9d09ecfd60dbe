"""The command lines' common parser. Imports nothing heavy: replaying needs no torch."""

import argparse
from typing import NoReturn


class OneLineParser(argparse.ArgumentParser):
    """Reports an error in one line, without the page of usage; exit code 2."""

    def error(self, message: str) -> NoReturn:
        """End the process."""
        self.exit(2, f"{self.prog}: error: {message}\n")
