"""What the fuzz tests share: how hypothesis runs, and how bytes are damaged."""

import contextlib
import ctypes
import sys
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, configuration, settings
from hypothesis import strategies as st

# It would leave a folder in the working directory.
configuration.set_hypothesis_home_dir(tempfile.gettempdir() + "/hypothesis")


def fuzz(cases):
    """The same cases every time, and no time limit: other work may run on the machine."""
    return settings(
        max_examples=cases,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def damaged(data):
    """A strategy: the bytes, with a few pieces overwritten, cut out, put in, or cut off."""
    piece = st.binary(min_size=0, max_size=12) | st.sampled_from(
        [b"\0" * 8, b"\xff" * 8, b'"', b"[", b"{", b"-", b"9" * 30, b"1e999", b"null", b"NaN"]
    )
    edit = st.tuples(st.integers(0, len(data)), st.integers(0, 12), piece)

    def apply(edits, length):
        changed = data
        for position, cut, new in edits:
            changed = changed[:position] + new + changed[position + cut :]
        return changed[:length]

    lengths = st.just(None) | st.integers(0, len(data))
    return st.builds(apply, st.lists(edit, min_size=1, max_size=4), lengths)


# Values that JSON, and Python's reader of it, can hold.
NUMBERS = (
    st.sampled_from([0, -1, 2**31, 2**63, 2**64, 10**400, -0.0, 1e300, 1e-300]) | st.integers()
)
SCALARS = st.none() | st.booleans() | NUMBERS | st.floats() | st.text(max_size=20)
VALUES = st.recursive(
    SCALARS, lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(max_size=8), v, max_size=4)
)


@contextlib.contextmanager
def little_memory(most=32):
    """Inside, the process may not grow by so many MiB, however large it has been before.

    Only Linux can tell.
    """
    if sys.platform != "linux":
        yield
        return
    ctypes.CDLL(None).malloc_trim(0)  # or what was freed before would be taken again, unseen
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is used now
    before = peak_memory()
    yield
    grown = peak_memory() - before
    assert grown < most, f"{grown:.0f} MiB"


def peak_memory():
    """The most that this process has used since its peak was cleared, in MiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024
