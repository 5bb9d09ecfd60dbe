"""Measures of how well changes tell boundaries, against the same by counting."""

import math
from itertools import pairwise

import pytest
import torch

from experiments.auto_regression import boundaries


def signal(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)))


def some_starts(rows=4, points=12):
    starts = torch.zeros(rows, points, dtype=torch.bool)
    starts[:, 0] = True
    starts[0, 4] = starts[0, 9] = starts[1, 7] = starts[3, 2] = starts[3, 11] = True
    return starts


def test_the_area_counts_pairs_of_a_boundary_and_another_step():
    change, starts = signal(4, 11), some_starts()
    inside = [change[i, t - 1].item() for i in range(4) for t in range(1, 12) if starts[i, t]]
    outside = [change[i, t - 1].item() for i in range(4) for t in range(1, 12) if not starts[i, t]]
    wins = sum((a > b) + 0.5 * (a == b) for a in inside for b in outside)
    area = boundaries.area_under_curve(change, starts)
    assert area == pytest.approx(wins / (len(inside) * len(outside)))
    assert boundaries.area_under_curve(torch.ones(4, 11), starts) == 0.5
    assert boundaries.area_under_curve(starts[:, 1:].float(), starts) == 1.0


def test_precision_is_averaged_over_the_boundaries_in_the_order_of_changes():
    change, starts = signal(4, 11), some_starts()
    steps = [(change[i, t - 1].item(), bool(starts[i, t])) for i in range(4) for t in range(1, 12)]
    found, precisions = 0, []
    for rank, (_, is_boundary) in enumerate(sorted(steps, reverse=True), start=1):
        if is_boundary:
            found += 1
            precisions.append(found / rank)
    expected = sum(precisions) / len(precisions)
    assert boundaries.average_precision(change, starts) == pytest.approx(expected)


def test_only_the_steps_asked_for_count():
    change, starts = signal(4, 11), some_starts()
    where = torch.zeros(4, 11, dtype=torch.bool)
    where[0] = True
    assert boundaries.area_under_curve(change, starts, where) == pytest.approx(
        boundaries.area_under_curve(change[:1], starts[:1])
    )
    where[:] = False
    assert math.isnan(boundaries.area_under_curve(change, starts, where))
    assert math.isnan(boundaries.average_precision(change, starts, where))


@pytest.mark.parametrize("score", [boundaries.area_under_curve, boundaries.average_precision])
def test_changes_that_are_not_finite_find_nothing(score):
    starts = torch.tensor([[True, False, True, False]])
    assert math.isnan(score(torch.tensor([[0.0, 1.0, torch.nan]]), starts))


def test_attention_changes_by_the_share_that_moves_to_other_slots():
    a = torch.tensor([[[1.0, 0.0, 0.0]], [[0.0, 2.0, 0.0]], [[0.0, 0.5, 0.5]]]).unsqueeze(0)
    assert boundaries.attention_change(a).tolist() == [[1.0, 0.5]]
    # A component that stands still halves the mean; scale does not count.
    still = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1) * torch.ones(3)
    both = torch.cat([a, still], dim=2)
    torch.testing.assert_close(boundaries.attention_change(both), torch.tensor([[0.5, 0.25]]))


def test_quiet_steps_are_the_smaller_half_of_those_inside_chunks():
    y, starts = signal(4, 12), some_starts()
    quiet = boundaries.quiet_steps(y, starts)
    inside = quiet[~starts[:, 1:]]
    assert inside.float().mean() == pytest.approx(0.5, abs=0.02)
    steps = y.diff(dim=1).abs()
    assert steps[quiet].max() < steps[~quiet].min()


def test_changes_around_boundaries_are_cut_out_at_their_places():
    starts = torch.zeros(2, 12, dtype=torch.bool)
    starts[:, 0] = starts[0, 5] = starts[1, 1] = starts[1, 11] = True
    change = torch.arange(22.0).reshape(2, 11)
    # Only point 5 of the first row has steps enough on both sides; its step has index 4.
    expected = torch.tensor([2.0, 3, 4, 5, 6, 7]) / change.mean()
    torch.testing.assert_close(boundaries.around_boundaries(change, starts, 2, 3), expected)


def test_what_chunks_explain_is_the_variance_of_their_means():
    x, starts = signal(4, 12, 3).double(), some_starts()
    between = total = 0.0
    for row in range(4):
        centre = x[row].mean(0)
        edges = [*starts[row].nonzero().flatten().tolist(), 12]
        for begin, end in pairwise(edges):
            chunk = x[row, begin:end]
            between += (end - begin) * (chunk.mean(0) - centre).square().sum().item()
            total += (chunk - centre).square().sum().item()
    assert boundaries.explained_by_chunks(x, starts) == pytest.approx(between / total)

    steady = torch.cumsum(starts.double(), dim=1).unsqueeze(-1)
    assert boundaries.explained_by_chunks(steady, starts) == pytest.approx(1.0)
    others = boundaries.others_boundaries(starts)
    assert boundaries.explained_by_chunks(steady, others) < 0.9
