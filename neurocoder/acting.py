"""`NeurocoderLinear` for those who act: few inputs, no gradient, the same sizes again and again."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from neurocoder.attention import TINY
from neurocoder.fused import MEMORIES, Parameters, Sizes, by_step

# Up to so many inputs, making tensors and views takes longer than what is done with them.
MOST_INPUTS_TO_REPLAY = 32


class Acting:
    """The layer without gradients, for calls of one batch size that come again and again.

    With few inputs, making tensors and views costs as much as computing. Here all are made once;
    a call replays a list of operations on them. Parameters are read at every call, but have to stay
    where they are in memory; keys are those given.

    Args:
        p: the parameters.
        sizes: what their shapes do not say.
        batch: B.
        key_size: K.
    """

    @torch.inference_mode(mode=False)
    @torch.no_grad()
    def __init__(self, p: Parameters, sizes: Sizes, batch: int, key_size: int) -> None:
        self._operations: list[Callable[[], Any]] = []
        self._parameters, self._places = p, _places(p)
        do = self._do
        heads, steps = sizes.heads, sizes.steps
        slots, in_features = p.u.shape
        size = p.recurrent_weight.shape[1]
        new = p.u.new_empty
        self._x, self._y = new(batch, in_features), new(batch, p.v.shape[1])
        self._keys: Tensor | None = None
        self._sharpness = sizes.sharpness
        self._sharp_keys = new(MEMORIES, heads, slots, key_size)
        x = self._x

        # Eq. 6: the LSTM.
        from_input, states = new(batch, 4 * size), new(steps, batch, size)
        total, cell, tanh_cell = new(batch, 4 * size), new(batch, size), new(batch, size)
        sigmoids, candidate = total.split([3 * size, size], dim=1)
        enter, keep, leave = sigmoids.chunk(3, dim=1)
        do(torch.addmm, p.input_bias, x, p.input_weight.t(), out=from_input)
        for j, state in enumerate(states):
            if j == 0:
                do(torch.sigmoid, from_input[:, : 3 * size], out=sigmoids)
                do(torch.tanh, from_input[:, 3 * size :], out=candidate)
                do(torch.mul, enter, candidate, out=cell)
            else:
                do(torch.addmm, from_input, states[j - 1], p.recurrent_weight.t(), out=total)
                do(sigmoids.sigmoid_)
                do(candidate.tanh_)
                do(cell.mul_, keep)
                do(cell.addcmul_, enter, candidate)
            do(torch.tanh, cell, out=tanh_cell)
            do(torch.mul, leave, tanh_cell, out=state)
        rows = states.flatten(0, 1).t()
        queries = new(MEMORIES * heads * key_size, steps * batch)
        do(torch.addmm, p.query_bias.unsqueeze(1), p.query_weight, rows, out=queries)

        # Eq. 8: content attention.
        query = queries.unflatten(0, (-1, key_size))
        squares, length = torch.empty_like(query), new(len(query), 1, steps * batch)
        sharp_keys = self._sharp_keys.flatten(0, 1)
        cosine = new(MEMORIES * heads, slots, steps * batch)
        w = torch.empty_like(cosine)
        do(torch.mul, query, query, out=squares)
        do(torch.sum, squares, 1, keepdim=True, out=length)
        do(length.add_, TINY)
        do(length.rsqrt_)
        do(query.mul_, length)
        do(torch.bmm, sharp_keys, query, out=cosine)
        do(torch.softmax, cosine, 1, out=w)

        # Eq. 9 to 11: usage.
        if p.gate_weight is not None and p.gate_bias is not None:
            opened = new(MEMORIES * heads * slots, steps * batch)
            free = torch.empty_like(opened)
            do(torch.addmm, p.gate_bias.unsqueeze(1), p.gate_weight, rows, out=opened)
            do(opened.sigmoid_)
            do(torch.sub, torch.ones_like(opened[0, 0]), opened, out=free)
            do(w.mul_, opened.view_as(w))
            w_step, free_step = by_step(w, sizes), by_step(free.view_as(w), sizes)
            usage, least, chosen = new(3, MEMORIES * heads, slots, batch)
            highest, threshold = new(2, MEMORIES * heads, 1, batch)
            index = torch.empty_like(threshold, dtype=torch.int64)
            for j in range(1, steps):
                before = w_step[0] if j == 1 else usage
                do(torch.amax, before, 1, keepdim=True, out=highest)
                do(torch.sub, highest, before, out=least)
                if sizes.least_used < slots:
                    kth = (threshold, index)
                    do(torch.kthvalue, before, sizes.least_used, 1, keepdim=True, out=kth)
                    do(torch.le, before, threshold, out=chosen)
                    do(least.mul_, chosen)
                do(w_step[j].addcmul_, free_step[j], least)
                if j < steps - 1:
                    do(torch.maximum, before, w_step[j], out=usage)

        # Eq. 3 and 5.
        w = w.view(MEMORIES, heads, slots, steps, batch)
        factors = new(2, slots, batch)
        products = new(2, heads, slots, steps, batch)
        attended = new(2, heads, steps, batch)
        do(torch.mm, p.u, x.t(), out=factors[0])
        do(factors[1].copy_, p.s.expand(-1, batch))
        do(torch.mul, w[::2], factors.view(2, 1, slots, 1, batch), out=products)
        do(torch.sum, products, 2, out=attended)
        # The running sum of eq. 5 starts at the last component: as a product with a triangle.
        raw, terms = attended[1].transpose(0, 1), new(steps, heads, batch)
        sigma, triangle = (
            new(steps * heads, batch),
            torch.ones_like(p.u[0, 0]).expand(steps * heads, steps * heads).triu(),
        )
        do(terms.copy_, raw)
        do(torch._C._nn.softplus, terms, out=terms)
        do(torch.mm, triangle, terms.flatten(0, 1), out=sigma)

        # Eq. 4 and 1.
        weights, on_v = new(heads, steps, batch), new(slots, batch)
        do(torch.mul, attended[0], sigma.view(steps, heads, batch).transpose(0, 1), out=weights)
        do(torch.mul, w[1], weights.unsqueeze(1), out=products[0])
        do(torch.sum, products[0], (0, 2), out=on_v)
        if p.bias is None:
            do(torch.mm, on_v.t(), p.v, out=self._y)
        else:
            do(torch.addmm, p.bias, on_v.t(), p.v, out=self._y)

        # Eq. 12.
        if p.integration_weight is not None and p.residual is not None:
            gate, on_residual = new(batch, 1), torch.empty_like(self._y)
            do(torch.addmm, p.integration_bias, x, p.integration_weight.t(), out=gate)
            do(gate.sigmoid_)
            do(gate.mul_, sigma[-1].unsqueeze(1))
            do(torch.mm, x, p.residual, out=on_residual)
            do(self._y.addcmul_, gate, on_residual)

    def __call__(self, x: Tensor) -> Tensor:
        """Return y, shape (B, out), of x, shape (B, in)."""
        self._x.copy_(x)
        for operation in self._operations:
            operation()
        return self._y.clone()

    def take(self, keys: Tensor) -> None:
        """Use these keys, eq. 7, of unit length, shape (M, P, K), from now on."""
        self._keys = keys
        self._sharp_keys.copy_(keys.unsqueeze(1)).mul_(self._sharpness)

    def is_for(self, keys: Tensor, u: Tensor) -> bool:
        """Whether these very keys were taken last, and u is still the parameter M_U."""
        return keys is self._keys and u is self._parameters.u

    def sees(self, p: Parameters) -> bool:
        """Whether these are the parameters that calls read."""
        return self._places == _places(p)

    def _do(self, operation: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        self._operations.append(partial(operation, *arguments, **options))


def _places(p: Parameters) -> list[int | None]:
    return [None if t is None else t.data_ptr() for t in p]
