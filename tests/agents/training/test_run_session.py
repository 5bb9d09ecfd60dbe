"""The log of a run's session."""

import logging
from pathlib import Path

import pytest

from agents.training.run_session import _LogFile

FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="needs a device that is always full")
def test_on_a_full_disk_the_log_loses_messages_and_prints_nothing(capsys):
    file = _LogFile(FULL)
    for _ in range(2):
        file.handle(logging.LogRecord("train", logging.INFO, "", 0, "a message", None, None))
    file.close()
    assert capsys.readouterr().err == ""
