"""For all tests: one thread, as the program runs, the same random numbers, sorted event files.

pytest-xdist runs the tests in two processes. Those that start, kill or time processes stay together
in one of them, so that no two of them compete; of the others, the tests of a file stay together.
"""

import logging
import signal
import sys
from pathlib import Path

import pytest
import torch
from xdist.scheduler import LoadScopeScheduling

torch.set_num_threads(1)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    # Under nohup. Programs that tests start would ignore it, too; a handler is not inherited.
    signal.signal(signal.SIGHUP, lambda *_: None)

ROOT = Path(__file__).parent
WITH_PROCESSES = (
    *("agents/training/", "agents/system/", "agents/cluster/"),
    *("agents/a3c/test_learner.py", "agents/test_browser.py"),
)


class Groups(LoadScopeScheduling):
    """A group of tests runs in one process, in its order."""

    def _split_scope(self, nodeid):
        path = Path(nodeid.partition("::")[0]).relative_to(ROOT.name)
        alone = len(path.parts) == 1 or path.as_posix().startswith(WITH_PROCESSES)
        return "processes" if alone else path.as_posix()


# Not `--dist loadgroup`, which writes groups into the ids of tests: pytest 9.2 ignores that
# (pytest-xdist's issue 1386).
def pytest_xdist_make_scheduler(config, log):
    return Groups(config, log)


@pytest.fixture(autouse=True)
def same_random_numbers_every_time():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def event_files_sort_by_age():
    """Start TensorBoard's counter of event files at 0.

    Readers sort files of one second and process by this counter as text, so the 10th would be read
    before the 9th. Sessions of a run differ in second and process; tests do not.
    """
    module = sys.modules.get("tensorboard.summary.writer.event_file_writer")
    if module is not None:
        module._global_uid = module.AtomicCounter(0)


@pytest.fixture(autouse=True)
def log_propagates():
    """Undo that training keeps its log to itself.

    pytest reads loggers that do not propagate, too; one that begins to in a test is read twice.
    """
    yield
    logging.getLogger("train").propagate = True
