"""Attention to slots: the readings of eq. 8 to 11 that the library settles on."""

import math

import pytest
import torch
import torch.nn.functional as F

from neurocoder.attention import content_attention, least_used_attention, recurrent_attention
from tests.neurocoder import oracle


def random_content_and_gate(*lead, steps, heads, slots):
    content = torch.softmax(2 * torch.randn(*lead, steps, heads, slots, dtype=torch.float64), -1)
    return content.requires_grad_(), torch.randn_like(content).requires_grad_()


def random_query_and_key(*, slots=20, key_size=4):
    query = 5 * torch.randn(6, 2, 3, 2, key_size, dtype=torch.float64)
    return query, F.normalize(torch.randn(3, slots, key_size, dtype=torch.float64), dim=-1)


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 10.0])
def test_content_attention_is_the_softmax_of_sharpened_cosines_and_sums_to_one(sharpness):
    query, key = random_query_and_key(slots=5)
    got = content_attention(query, key, sharpness)
    assert got.shape == (3, 6, 2, 2, 5)
    torch.testing.assert_close(got.sum(-1), torch.ones_like(got[..., 0]))
    for m, b, j, h in ((0, 0, 0, 0), (1, 2, 1, 0), (2, 5, 0, 1)):
        expected = oracle.content_weights(query[b, j, m, h], list(key[m]), sharpness)
        torch.testing.assert_close(got[m, b, j, h], torch.stack(expected))


def test_content_attention_does_not_depend_on_the_length_of_the_query():
    query, key = random_query_and_key()
    torch.testing.assert_close(
        content_attention(query, key, 10.0), content_attention(0.01 * query, key, 10.0)
    )


def test_a_sharpness_of_one_is_the_papers_softmax():
    query, key = random_query_and_key()
    cosine = F.cosine_similarity(query[0, 0, 0, 0], key[0], dim=-1)
    got = content_attention(query, key, 1.0)[0, 0, 0, 0]
    torch.testing.assert_close(got, cosine.exp() / cosine.exp().sum())


def test_over_20_slots_the_papers_softmax_never_gives_a_slot_more_than_28_percent():
    bound = math.e / (math.e + 19 / math.e)
    assert bound == pytest.approx(0.28, abs=1e-4)
    query, key = random_query_and_key(slots=20, key_size=2)
    assert content_attention(query, key, 1.0).max() < bound
    # The bound is reached by a query that meets one key and is opposed to all the others.
    key = -torch.ones(1, 20, 1, dtype=torch.float64)
    key[0, 3] = 1.0
    most = content_attention(torch.ones(1, 1, 1, 1, 1, dtype=torch.float64), key, 1.0).max()
    assert most.item() == pytest.approx(bound)


def test_before_the_first_step_nothing_is_used_so_attention_is_gated_content():
    content, gate = random_content_and_gate(3, steps=4, heads=2, slots=5)
    first = recurrent_attention(content, gate, 2)[:, 0]
    torch.testing.assert_close(first, torch.sigmoid(gate[:, 0]) * content[:, 0])


def test_usage_is_the_maximum_over_the_earlier_steps_of_the_same_head():
    content, gate = random_content_and_gate(steps=5, heads=3, slots=6)
    w = recurrent_attention(content, gate, 6)
    for j in range(1, 5):
        for h in range(3):
            usage = [max(w[earlier, h, i].item() for earlier in range(j)) for i in range(6)]
            for i in range(6):
                opened = torch.sigmoid(gate[j, h, i]).item()
                least = max(usage) - usage[i]
                expected = opened * content[j, h, i].item() + (1 - opened) * least
                assert w[j, h, i].item() == pytest.approx(expected, abs=1e-12)


def test_neither_later_steps_nor_other_heads_change_attention():
    content, gate = random_content_and_gate(steps=5, heads=3, slots=6)
    before = recurrent_attention(content, gate, 2)
    changed = content.detach().clone()
    changed[2, 1] = changed[2, 1].flip(-1)
    after = recurrent_attention(changed, gate, 2)
    same = torch.ones(5, 3, dtype=torch.bool)
    same[2:, 1] = False
    torch.testing.assert_close(after[same], before[same], rtol=0, atol=0)
    assert (after[~same] != before[~same]).any(-1).all()


@pytest.mark.parametrize("least_used", range(1, 7))
def test_recurrent_attention_and_its_gradients_are_the_papers(least_used):
    content, gate = random_content_and_gate(2, steps=4, heads=2, slots=6)
    got = recurrent_attention(content, gate, least_used)
    expected = torch.empty_like(got)
    for b in range(2):
        for h in range(2):
            steps = oracle.head_attention(content[b, :, h], gate[b, :, h], least_used)
            expected[b, :, h] = torch.stack([torch.stack(w) for w in steps])
    torch.testing.assert_close(got, expected)
    weight = torch.randn_like(got)
    for a, b in zip(
        torch.autograd.grad((got * weight).sum(), (content, gate)),
        torch.autograd.grad((expected * weight).sum(), (content, gate)),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_gradients_of_recurrent_attention_are_those_of_finite_differences():
    content, gate = random_content_and_gate(2, steps=4, heads=2, slots=6)
    assert torch.autograd.gradcheck(lambda c, g: recurrent_attention(c, g, 2), (content, gate))


def test_an_open_gate_leaves_content_alone_and_a_closed_one_least_used_slots_alone():
    content, gate = random_content_and_gate(steps=3, heads=1, slots=5)
    opened = recurrent_attention(content, torch.full_like(gate, 50.0), 2)
    torch.testing.assert_close(opened, content)
    gate = torch.full_like(gate, 50.0)
    gate[1] = -50.0
    closed = recurrent_attention(content, gate, 2)[1, 0]
    assert (closed > 1e-3).sum() == 2
    assert set(closed.topk(2).indices.tolist()) == set((-content[0, 0]).topk(2).indices.tolist())


def test_the_least_used_slots_weigh_what_they_lack_to_the_most_used_and_others_nothing():
    usage = torch.tensor([0.1, 0.5, 0.2, 0.4, 0.3])
    expected = {
        1: [0.4, 0.0, 0.0, 0.0, 0.0],
        2: [0.4, 0.0, 0.3, 0.0, 0.0],
        3: [0.4, 0.0, 0.3, 0.0, 0.2],
        5: [0.4, 0.0, 0.3, 0.1, 0.2],
    }
    for least_used, weights in expected.items():
        torch.testing.assert_close(least_used_attention(usage, least_used), torch.tensor(weights))


def test_slots_that_tie_with_the_last_one_chosen_are_chosen_too():
    usage = torch.tensor([0.2, 0.1, 0.2, 0.2, 0.6])
    expected = torch.tensor([0.4, 0.5, 0.4, 0.4, 0.0])
    for least_used in (2, 3, 4):
        torch.testing.assert_close(least_used_attention(usage, least_used), expected)
    torch.testing.assert_close(
        least_used_attention(usage, 1), torch.tensor([0.0, 0.5, 0.0, 0.0, 0.0])
    )


@pytest.mark.parametrize("least_used", [1, 2, 4])
def test_slots_that_are_all_used_alike_get_no_weight(least_used):
    assert not least_used_attention(torch.full((3, 4), 0.25), least_used).any()


@pytest.mark.parametrize("least_used", [1, 3, 8])
def test_the_least_used_slots_of_a_batch_are_those_found_by_sorting(least_used):
    # Few distinct values, so that there are many ties.
    usage = torch.randint(0, 4, (50, 2, 8)).double() / 4
    got = least_used_attention(usage, least_used)
    for b in range(50):
        for h in range(2):
            expected = oracle.least_used_weights(list(usage[b, h]), least_used)
            torch.testing.assert_close(got[b, h], torch.stack(expected))


def test_gradients_flow_through_usage_and_its_maximum_but_not_through_the_choice():
    usage = torch.tensor([0.1, 0.5, 0.2, 0.4, 0.3], dtype=torch.float64, requires_grad=True)
    cotangent = torch.tensor([1.0, 10.0, 100.0, 1000.0, 10000.0], dtype=torch.float64)
    (gradient,) = torch.autograd.grad((least_used_attention(usage, 2) * cotangent).sum(), usage)
    # Slots 0 and 2 are chosen; each weighs m_1 - m_i. Slots 3 and 4 take part in the choice alone.
    expected = torch.tensor([-1.0, 101.0, -100.0, 0.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(gradient, expected)


def test_what_a_step_attends_to_reaches_later_steps_in_the_gradient():
    content, gate = random_content_and_gate(steps=3, heads=1, slots=4)
    last = recurrent_attention(content, gate, 4)[2]
    (gradient,) = torch.autograd.grad((last * torch.randn_like(last)).sum(), content)
    assert gradient[0].any()
    assert gradient[1].any()
