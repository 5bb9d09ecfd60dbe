"""The progress of an experiment, and the estimated time left."""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.status import Status

Pair = tuple[str, int]


class Progress:
    """Prints a line for each finished job; on a terminal also shows the current one.

    Args:
        pairs: Variant and seed of all jobs.
        done: Seconds taken by the jobs that are done already.
        at_once: How many jobs run at a time.
    """

    def __init__(
        self, pairs: Sequence[Pair], done: Mapping[Pair, float], *, at_once: int = 1
    ) -> None:
        self._at_once = at_once
        self._pairs = list(pairs)
        self._seconds = {pair: done[pair] for pair in self._pairs if pair in done}
        self._console = Console() if sys.stdout.isatty() else None
        self._status: Status | None = None
        if self._seconds:
            self._print(f"{len(self._seconds)} of {len(self._pairs)} are there already")

    def start(self, variant: str, seed: int) -> None:
        """Show the current job."""
        if self._console is not None:
            left = self._left()
            text = f"{self._count(1)} {variant}, seed {seed}" + (f", {left}" if left else "")
            if self._status is None:
                self._status = self._console.status(text)
                self._status.start()
            self._status.update(text)

    def finish(self, variant: str, seed: int, seconds: float, values: Mapping[str, Any]) -> None:
        """Print the result of a job."""
        self._seconds[variant, seed] = seconds
        shown = [
            f"{key} {value:.4g}"
            for key, value in values.items()
            if isinstance(value, float) and key != "seconds"
        ]
        words = [f"{self._count()} {variant}, seed {seed}: {', '.join(shown[:4])}"]
        self._print("; ".join([*words, f"{seconds:.1f} s", *filter(None, [self._left()])]))

    def close(self) -> None:
        """Remove the current job's line from the terminal."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def _count(self, more: int = 0) -> str:
        number = f"{len(self._seconds) + more:{len(str(len(self._pairs)))}d}"
        return f"{time.strftime('%H:%M:%S')} {number}/{len(self._pairs)}"

    def _left(self) -> str:
        """Estimated time left, from the mean time of each variant, or else of all variants."""
        if not self._seconds:
            return ""
        by_variant: dict[str, list[float]] = {}
        for (name, _), seconds in self._seconds.items():
            by_variant.setdefault(name, []).append(seconds)
        known = list(self._seconds.values())
        total = 0.0
        for name, seed in self._pairs:
            if (name, seed) not in self._seconds:
                times = by_variant.get(name, known)
                total += sum(times) / len(times)
        if not total:
            return ""
        total /= self._at_once
        return f"{total / 60:.0f} min left" if total >= 90 else f"{total:.0f} s left"

    def _print(self, line: str) -> None:
        if self._console is not None:
            self._console.print(line, highlight=False, markup=False)
        else:
            print(line, flush=True)
