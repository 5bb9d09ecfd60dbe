"""Shared set-up of the experiments' tests."""

import pytest

from experiments.common.study import Study


@pytest.fixture
def no_pictures(monkeypatch):
    """Figures are drawn but not written: most of the time of a quick run goes into PNGs."""
    monkeypatch.setattr(Study, "figure", lambda *_: None)
