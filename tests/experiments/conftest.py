"""Shared set-up of the experiments' tests."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _same_random_numbers_every_time():
    torch.manual_seed(0)
