"""`NeurocoderLinear` compiled into one function, for few inputs and without a gradient.

For a handful of inputs the layer is about a hundred operations on a few numbers each, and calling
them costs far more than computing. Here numba compiles the equations as loops. Arithmetic is
float32. B is the batch, P the slots, K the key size, H the heads, J the steps, S the size of the
LSTM's state; a query, gate or attention is one row for each memory and head, of M * H = 3 H. What
an ablation leaves out is an array of length zero.

Importing this module compiles, which takes seconds, or loads what was compiled before.
"""

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

MEMORIES = 3
# Sums may be reordered, and so vectorised; NaN stays NaN.
_OPTIONS: dict[str, Any] = {
    "fastmath": {"reassoc", "contract", "arcp", "nsz"},
    "error_model": "numpy",
}
_ZERO, _HALF, _ONE, _TWO = np.float32(0), np.float32(0.5), np.float32(1), np.float32(2)
_TINY = np.float32(1e-24)
# exp(z) = 2^n exp(r) with z = n ln 2 + r. The logarithm is given in two parts, of which n times the
# first is exact; the coefficients are those of Taylor's series, r being at most ln(2) / 2.
_EXP_MAX, _EXP_MIN = np.float32(88), np.float32(-87)
_LOG2_E = np.float32(math.log2(math.e))
_LN_2_HIGH = np.float32(0.693359375)
_LN_2_LOW = np.float32(math.log(2) - 0.693359375)
_C3, _C4, _C5, _C6, _C7 = (np.float32(1 / math.factorial(n)) for n in range(3, 8))
# The coefficients of tanh(z) / z in z^2, and where the next one is below float32's precision.
_T3, _T5, _T7, _T9 = (np.float32(c) for c in (-1 / 3, 2 / 15, -17 / 315, 62 / 2835))
_NEAR_ZERO = np.float32(0.09)
_BIAS, _MANTISSA = np.int32(127), np.int32(23)


@njit(**_OPTIONS)
def _exp_inplace(x, powers):  # type: ignore[no-untyped-def]
    """Replace x by exp(x); `powers` is scratch memory, int32, of the same size."""
    factors = powers.view(np.float32)
    for i in range(x.size):
        z = min(max(x[i], _EXP_MIN), _EXP_MAX)
        n = np.floor(z * _LOG2_E + _HALF)
        r = z - n * _LN_2_HIGH
        r -= n * _LN_2_LOW
        sum_from_3 = _C3 + r * (_C4 + r * (_C5 + r * (_C6 + r * _C7)))
        x[i] = _ONE + r * (_ONE + r * (_HALF + r * sum_from_3))
        powers[i] = (np.int32(n) + _BIAS) << _MANTISSA  # the bits of 2^n
    for i in range(x.size):
        x[i] *= factors[i]


@njit(**_OPTIONS)
def _sigmoid(x, powers):  # type: ignore[no-untyped-def]
    for i in range(x.size):
        x[i] = -x[i]
    _exp_inplace(x, powers)
    for i in range(x.size):
        x[i] = _ONE / (_ONE + x[i])


@njit(**_OPTIONS)
def _tanh(x, sigmoids, powers):  # type: ignore[no-untyped-def]
    """Replace x by tanh(x); the others are scratch memory of the same size."""
    for i in range(x.size):
        sigmoids[i] = _TWO * x[i]
    _sigmoid(sigmoids, powers)
    for i in range(x.size):
        # Near zero, 2 sigmoid(2 z) - 1 would lose the digits of z: there, Taylor's series.
        square = x[i] * x[i]
        series = _ONE + square * (_T3 + square * (_T5 + square * (_T7 + square * _T9)))
        x[i] = x[i] * series if square < _NEAR_ZERO else _TWO * sigmoids[i] - _ONE


@njit(**_OPTIONS)
def _add_matmul(x, weight, y):  # type: ignore[no-untyped-def]
    """Y += x weight^T, for x of shape (B, in) and weight of shape (out, in)."""
    batch, size = x.shape
    b = 0
    while b + 4 <= batch:  # a weight is read once for four inputs
        for o in range(weight.shape[0]):
            y0 = y1 = y2 = y3 = _ZERO
            for i in range(size):
                w = weight[o, i]
                y0 += x[b, i] * w
                y1 += x[b + 1, i] * w
                y2 += x[b + 2, i] * w
                y3 += x[b + 3, i] * w
            y[b, o] += y0
            y[b + 1, o] += y1
            y[b + 2, o] += y2
            y[b + 3, o] += y3
        b += 4
    while b < batch:
        for o in range(weight.shape[0]):
            y0 = _ZERO
            for i in range(size):
                y0 += x[b, i] * weight[o, i]
            y[b, o] += y0
        b += 1


@njit(**_OPTIONS)
def _step_lstm(total, cell, state, scratch, powers):  # type: ignore[no-untyped-def]
    """Eq. 6, of one input: gates before their sigmoid, and candidate before its tanh, in total."""
    size = cell.size
    _sigmoid(total[: 3 * size], powers)
    _tanh(total[3 * size :], scratch, powers)
    for i in range(size):
        cell[i] = total[i] * total[3 * size + i] + total[size + i] * cell[i]
        state[i] = cell[i]
    _tanh(state, scratch, powers)
    for i in range(size):
        state[i] *= total[2 * size + i]


@njit(**_OPTIONS)
def _attend_by_content(query, keys, heads, sharpness, content, powers):  # type: ignore[no-untyped-def]
    """Eq. 8, of one input and step: from query, (M * H * K,), to content attention, (M * H, P)."""
    slots, key_size = keys.shape[1:]
    for row in range(len(content)):
        own = query[row * key_size : (row + 1) * key_size]
        square = _TINY
        for k in range(key_size):
            square += own[k] * own[k]
        scale = sharpness / math.sqrt(square)
        key = keys[row // heads]
        highest = -sharpness
        for p in range(slots):
            cosine = _ZERO
            for k in range(key_size):
                cosine += key[p, k] * own[k]
            content[row, p] = scale * cosine
            highest = max(highest, content[row, p])
        for p in range(slots):
            content[row, p] -= highest
    _exp_inplace(content.reshape(-1), powers)
    for row in range(len(content)):
        total = _ZERO
        for p in range(slots):
            total += content[row, p]
        for p in range(slots):
            content[row, p] /= total


@njit(**_OPTIONS)
def _blend(content, gate, usage, least_used, attention):  # type: ignore[no-untyped-def]
    """Eq. 9 to 11, of one row after the first step; usage is brought up to date."""
    slots = usage.size
    highest = usage[0]
    for p in range(slots):
        highest = max(highest, usage[p])
    for p in range(slots):
        less = 0
        for q in range(slots):
            less += usage[q] < usage[p]
        # Fewer than l_I slots are used less than the l_I-th slot, or one that ties with it.
        weight = highest - usage[p] if less < least_used else _ZERO
        attention[p] = gate[p] * content[p] + (_ONE - gate[p]) * weight
    for p in range(slots):
        usage[p] = max(usage[p], attention[p])


@njit(**_OPTIONS)
def _apply(x, on_u, attention, v, s, residual, gate, y):  # type: ignore[no-untyped-def]
    """Eq. 1, 3, 4, 5 and 12, of one input: add to y what attention, (J, M * H, P), makes of x.

    on_u, shape (P,), is M_U x; gate is that of the residual.
    """
    steps, heads, slots = len(attention), attention.shape[1] // MEMORIES, on_u.size
    sigma = last_sigma = _ZERO
    on_v = np.zeros(slots, np.float32)
    for n in range(steps * heads - 1, -1, -1):
        j, h = n // heads, n % heads
        component, raw = _ZERO, _ZERO
        for p in range(slots):
            component += attention[j, h, p] * on_u[p]
            raw += attention[j, 2 * heads + h, p] * s[p, 0]
        sigma += max(raw, _ZERO) + math.log1p(math.exp(-abs(raw)))  # eq. 5: softplus, summed
        if n == steps * heads - 1:
            last_sigma = sigma
        weight = component * sigma
        for p in range(slots):
            on_v[p] += weight * attention[j, heads + h, p]
    scale = gate * last_sigma
    for i in range(len(residual)):
        weight = scale * x[i]
        for o in range(y.size):
            y[o] += weight * residual[i, o]
    for p in range(slots):
        for o in range(y.size):
            y[o] += on_v[p] * v[p, o]


def _forward(  # type: ignore[no-untyped-def]
    x,
    keys,
    u,
    v,
    s,
    input_weight,
    input_bias,
    recurrent_weight,
    query_weight,
    query_bias,
    gate_weight,
    gate_bias,
    integration_weight,
    integration_bias,
    residual,
    bias,
    heads,
    steps,
    least_used,
    sharpness,
    y,
):
    """Write y, shape (B, out), for x, shape (B, in); the rest is as in `neurocoder.fused`."""
    batch, (slots, key_size), size = len(x), keys.shape[1:], recurrent_weight.shape[1]
    rows = MEMORIES * heads
    from_input = np.empty((batch, 4 * size), np.float32)
    total = np.empty((batch, 4 * size), np.float32)
    cell = np.zeros((batch, size), np.float32)
    state = np.zeros((batch, size), np.float32)
    query = np.empty((batch, rows * key_size), np.float32)
    gate = np.empty((batch, rows * slots), np.float32)
    content = np.empty((rows, slots), np.float32)
    usage = np.empty((batch, rows, slots), np.float32)
    attention = np.empty((batch, steps, rows, slots), np.float32)
    scratch = np.empty(size, np.float32)
    powers = np.empty(max(4 * size, rows * slots), np.int32)

    from_input[:] = input_bias
    _add_matmul(x, input_weight, from_input)
    for j in range(steps):
        total[:] = from_input
        if j > 0:
            _add_matmul(state, recurrent_weight, total)
        for b in range(batch):
            _step_lstm(total[b], cell[b], state[b], scratch, powers)
        query[:] = query_bias
        _add_matmul(state, query_weight, query)
        if gate_weight.size:
            gate[:] = gate_bias
            _add_matmul(state, gate_weight, gate)
        for b in range(batch):
            now = attention[b, j]
            _attend_by_content(query[b], keys, heads, sharpness, content, powers)
            if not gate_weight.size:
                now[:] = content
                continue
            _sigmoid(gate[b], powers)
            gates = gate[b].reshape(rows, slots)
            for row in range(rows):
                if j > 0:
                    _blend(content[row], gates[row], usage[b, row], least_used, now[row])
                    continue
                for p in range(slots):
                    now[row, p] = usage[b, row, p] = gates[row, p] * content[row, p]

    on_u, residual_gate = np.zeros((batch, slots), np.float32), np.zeros((batch, 1), np.float32)
    _add_matmul(x, u, on_u)
    y[:] = _ZERO
    if bias.size:
        y[:] = bias
    if residual.size:
        residual_gate[:] = integration_bias
        _add_matmul(x, integration_weight, residual_gate)
    for b in range(batch):
        _sigmoid(residual_gate[b], powers)
        _apply(x[b], on_u[b], attention[b], v, s, residual, residual_gate[b, 0], y[b])


def _compile(function: Callable[..., Any], signature: str) -> Callable[..., Any]:
    """Compile, or load what was compiled before; unusable files only cost seconds."""
    try:
        return njit(signature, cache=True, **_OPTIONS)(function)
    except Exception as error:
        where = f"{Path(__file__).parent / '__pycache__'}/*.nb?"
        message = f"compiled code is not kept ({error!r}); if this comes again, remove {where}"
        warnings.warn(message, RuntimeWarning, stacklevel=2)
        return njit(signature, **_OPTIONS)(function)


_MATRIX, _VECTOR, _SIZE = "float32[:, ::1]", "float32[::1]", "int64"
neurocoder_forward = _compile(
    _forward,
    ", ".join(
        [
            *(_MATRIX, "float32[:, :, ::1]", _MATRIX, _MATRIX, _MATRIX),
            *(_MATRIX, _VECTOR, _MATRIX),
            *(_MATRIX, _VECTOR, _MATRIX, _VECTOR),
            *(_MATRIX, _VECTOR, _MATRIX, _VECTOR),
            *(_SIZE, _SIZE, _SIZE, "float32", _MATRIX),
        ]
    ).join(["void(", ")"]),
)
