"""The shared state."""

import torch
from torch import nn

from agents.networks.flat_parameters import flatten
from agents.training.shared_state import SharedState


def make_module():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def test_the_shared_state_lives_in_shared_memory_and_starts_from_the_module():
    module = make_module()
    shared = SharedState.create(module, num_state_tensors=2, learners=3)
    for tensor in (shared.parameters, shared.optimizer_state, shared.counters, shared.stop):
        assert tensor.is_shared()
    torch.testing.assert_close(shared.parameters, flatten(module))
    assert shared.optimizer_state.shape == (2, shared.parameters.numel())


def test_totals_are_sums_over_the_workers_and_what_was_before():
    shared = SharedState.create(make_module(), num_state_tensors=1, learners=3)
    shared.counters.copy_(torch.tensor([[10, 1, 0], [20, 2, 0], [30, 3, 4], [5, 5, 5]]))
    assert (shared.global_step, shared.updates, shared.skipped_updates) == (65, 11, 9)


def test_an_update_is_counted_as_applied_or_skipped_and_its_agent_steps_in_both_cases():
    shared = SharedState.create(make_module(), num_state_tensors=1, learners=2)
    shared.count(0, is_applied=True, agent_steps=7)
    shared.count(1, is_applied=False, agent_steps=5)
    assert (shared.global_step, shared.updates, shared.skipped_updates) == (12, 1, 1)
    assert shared.counters.tolist() == [[7, 1, 0], [5, 0, 1], [0, 0, 0]]
