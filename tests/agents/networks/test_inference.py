"""The inference-only heads against the layers that learn."""

import copy
import errno
import importlib.util

import numpy as np
import pytest
import torch
from numba.core import caching
from torch import nn

from agents.networks import neurocoder_kernel
from agents.networks.inference import CompiledNeurocoderHead, InferenceHead, inference_head
from neurocoder import NeurocoderLinear
from neurocoder.attention import least_used_attention
from tests.neurocoder import test_fused

VARIANTS = {**test_fused.VARIANTS, "sharp attention": {"sharpness": 30.0}}


def make_layer(seed=0, **forced):
    """A layer with no parameter left at a special value."""
    torch.manual_seed(seed)
    sizes = {"in_features": 13, "out_features": 4, "slots": 7, "key_size": 3, "hidden_size": 5}
    layer = NeurocoderLinear(**{**sizes, "steps": 4, "least_used": 3} | forced)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


def plainly(layer, x):
    """What the readable way returns, in float64."""
    exact = copy.deepcopy(layer).double()
    exact.fused = False
    return exact(x.double()).detach().float()


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
@pytest.mark.parametrize("batch", [1, 4, 7])
def test_the_compiled_head_returns_what_the_readable_way_does(variant, batch):
    layer = make_layer(**variant)
    head = inference_head(layer)
    assert isinstance(head, CompiledNeurocoderHead)
    for _ in range(3):
        x = torch.randn(batch, layer.in_features)
        torch.testing.assert_close(head(x), plainly(layer, x), rtol=1e-4, atol=2e-5)


def test_the_sizes_of_an_atari_agent_lose_no_more_to_rounding_than_torch_does():
    torch.manual_seed(0)
    layer, x = NeurocoderLinear(256, 18), 3 * torch.randn(16, 256)
    exact = plainly(layer, x)
    lost = (inference_head(layer)(x) - exact).abs().max()
    assert lost <= 3 * (layer(x) - exact).abs().max()


def test_slots_that_tie_are_chosen_alike():
    usage = torch.tensor([0.5, 0.1, 0.3, 0.3, 0.3, 0.9, 0.0])
    content, gate = torch.rand(2, 7)
    for least_used in range(1, 8):
        got, used = np.empty(7, np.float32), usage.numpy().copy()
        neurocoder_kernel._blend(content.numpy(), gate.numpy(), used, least_used, got)
        expected = gate * content + (1 - gate) * least_used_attention(usage, least_used)
        torch.testing.assert_close(torch.from_numpy(got), expected)
        torch.testing.assert_close(torch.from_numpy(used), torch.maximum(usage, expected))


def test_exponentials_are_right_wherever_float32_can_say_them():
    x = np.linspace(-87, 88, 100_001, dtype=np.float32)
    got = x.copy()
    neurocoder_kernel._exp_inplace(got, np.empty(x.size, np.int32))
    np.testing.assert_allclose(got, np.exp(x.astype(np.float64)), rtol=3e-7)
    far = np.array([-1e30, 1e30, np.nan], np.float32)
    neurocoder_kernel._exp_inplace(far, np.empty(3, np.int32))
    assert 0 < far[0] < 1e-37
    assert 1e38 < far[1] < np.inf


def test_tanh_keeps_the_digits_of_numbers_of_any_size():
    sizes = np.geomspace(1e-30, 30, 10_001)
    x = np.concatenate([-sizes, sizes, [0.0]]).astype(np.float32)
    got = x.copy()
    neurocoder_kernel._tanh(got, np.empty_like(x), np.empty(x.size, np.int32))
    np.testing.assert_allclose(got, np.tanh(x.astype(np.float64)), rtol=1e-6)


def test_an_input_that_is_not_finite_is_not_hidden():
    layer = make_layer()
    for value in (np.nan, np.inf):
        x = torch.ones(2, layer.in_features)
        x[1, 3] = value
        y = inference_head(layer)(x)
        assert y[0].isfinite().all()
        assert not y[1].isfinite().any()


def test_no_input_gives_no_output():
    assert inference_head(make_layer())(torch.zeros(0, 13)).shape == (0, 4)


def test_parameters_are_read_anew_except_inside_cached_weights():
    layer = make_layer()
    head, x = inference_head(layer), torch.randn(2, 13)
    before = head(x)
    with torch.no_grad():
        layer.memory.v.add_(1.0)
    torch.testing.assert_close(head(x), plainly(layer, x), rtol=1e-4, atol=2e-5)
    layer.memory.v.data = layer.memory.v.data - 1.0  # elsewhere in memory
    torch.testing.assert_close(head(x), before, rtol=1e-4, atol=2e-5)
    with head.cached_weights():
        keys = head._cached[0]
        torch.testing.assert_close(head(x), before, rtol=1e-4, atol=2e-5)
        assert head._cached[0] is keys
    assert head._cached is None


def test_what_was_returned_is_not_written_over_by_the_next_call():
    layer = make_layer()
    head = inference_head(layer)
    with head.cached_weights():
        first = head(torch.ones(1, 13))
        kept = first.clone()
        assert not torch.equal(head(-torch.ones(1, 13)), kept)
    assert torch.equal(first, kept)


def test_what_is_not_compiled_for_is_called_as_it_is():
    layer = make_layer().double()
    x = torch.randn(3, 13, dtype=torch.float64)
    with inference_head(layer).cached_weights():
        torch.testing.assert_close(inference_head(layer)(x), layer(x).detach())
    plain = nn.Linear(13, 4)
    head = inference_head(plain)
    assert type(head) is InferenceHead
    x = torch.randn(3, 13)
    y = head(x)
    torch.testing.assert_close(y, plain(x).detach())
    assert not y.requires_grad


def test_inputs_need_not_be_contiguous_and_may_have_a_gradient():
    layer = make_layer()
    x = torch.randn(13, 3).requires_grad_().t()
    y = inference_head(layer)(x)
    torch.testing.assert_close(y, plainly(layer, x.detach()), rtol=1e-4, atol=2e-5)
    assert not y.requires_grad


@pytest.fixture
def compile_anew(tmp_path):
    """Compiles, or loads, the same function as a program that starts would."""
    source = tmp_path / "twice.py"
    source.write_text("def twice(x):\n    return x + x\n")

    def compile_it():
        spec = importlib.util.spec_from_file_location("twice", source)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return neurocoder_kernel._compile(module.twice, "float32(float32)")

    return compile_it


def test_what_was_compiled_is_loaded(compile_anew):
    assert compile_anew()(21.0) == 42.0
    loaded = compile_anew()
    assert loaded(21.0) == 42.0
    assert loaded.stats.cache_hits


@pytest.mark.parametrize("ending", ["nbi", "nbc"])
def test_damage_to_what_was_compiled_costs_a_warning_and_time(compile_anew, tmp_path, ending):
    compile_anew()
    (kept,) = tmp_path.rglob(f"*.{ending}")
    kept.write_bytes(kept.read_bytes()[:20])
    with pytest.warns(RuntimeWarning, match="compiled code is not kept"):
        assert compile_anew()(21.0) == 42.0


def test_a_full_disk_costs_a_warning(compile_anew, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(caching.IndexDataCacheFile, "_save_data", full)
    with pytest.warns(RuntimeWarning, match="No space left on device"):
        assert compile_anew()(21.0) == 42.0
