"""Shared set-up of the experiments' tests."""

import pytest
import torch

from experiments.common.study import Study


@pytest.fixture
def no_pictures(monkeypatch):
    """Figures are drawn but not written: most of the time of a quick run goes into PNGs."""
    monkeypatch.setattr(Study, "figure", lambda *_: None)


@pytest.fixture(autouse=True)
def _same_random_numbers_every_time():
    torch.manual_seed(0)
