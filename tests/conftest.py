"""For all tests: one thread, as the program itself runs, and event files that sort by age."""

import sys

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def event_files_sort_by_age():
    """Start TensorBoard's counter of event files at 0.

    Readers sort files of one second and process by this counter as text, so the 10th would be read
    before the 9th. Sessions of a run differ in second and process; tests do not.
    """
    module = sys.modules.get("tensorboard.summary.writer.event_file_writer")
    if module is not None:
        module._global_uid = module.AtomicCounter(0)
