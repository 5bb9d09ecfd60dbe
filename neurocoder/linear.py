"""`NeurocoderLinear`: a linear layer that composes its weights for every input.

Follows section 2 of the paper; lines that implement an equation carry its number. B is the batch
size, P the number of slots, K the key size, H the number of heads, J the number of steps, and
r = J * H the number of components.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.parametrize import is_parametrized

from neurocoder import fused
from neurocoder._checks import (
    check_dtype,
    check_input,
    check_parameters_are_stored,
    is_eager,
    is_transformed,
    positive_integers,
)
from neurocoder._precision import (
    WideLinear,
    in_full_precision,
    like_output,
    widen,
    without_autocast,
)
from neurocoder.attention import content_attention, recurrent_attention, unit_length
from neurocoder.controller import CompositionNetwork, SingleStepNetwork
from neurocoder.memory import ProgramMemory, make_key_network, singular_values
from neurocoder.readings import (
    AUTHORS_MULTI_STEP,
    AUTHORS_SINGLE_STEP,
    DEFAULT_READINGS,
    FirstStep,
    GateSource,
    Initialisation,
    InitialState,
    KeySource,
    LeastUsedWeight,
    Orthogonality,
    QuerySource,
    Readings,
    SingularValueOrder,
    UsageOver,
    state_size,
)


@dataclass(frozen=True)
class Composition:
    """Output of the program controller for each input; leading dimensions are those of the input.

    Attributes:
        u_attention: w^u of eq. 11, shape (..., r, P); component n = j * H + h, counted from 0.
        v_attention: w^v, shape (..., r, P).
        s_attention: w^sigma, shape (..., r, P).
        singular_values: sigma of eq. 5, shape (..., r), positive and strictly decreasing
            (increasing with singular_value_order="forward").
        residual_gate: w^r of eq. 12, shape (..., 1), or None without a residual program.
    """

    u_attention: Tensor
    v_attention: Tensor
    s_attention: Tensor
    singular_values: Tensor
    residual_gate: Tensor | None


class NeurocoderLinear(nn.Module):
    """A linear layer y = x W + b whose W is composed for each x (Neurocoder, eq. 1 to 12).

    An LSTM queries a program memory of singular vectors and values J times with H heads. The
    r = J * H attended components form an active program of rank at most r, to which a shared
    residual program is added, scaled by at most the smallest singular value. The layer is
    differentiable end to end; add `orthogonality_loss()`, weighted, to the loss to keep the stored
    vectors close to orthogonal.

    The forward pass never builds W. The factored product costs O(P (in + out) + r P) per input,
    plus in * out for the residual, instead of O(r * in * out).

    Sharp attention and the selection of slots magnify rounding errors. So the layer computes in
    float32 even under autocast or with 16-bit parameters, and only its output has the dtype that
    `nn.Linear`'s would have. Under autocast, outputs then differ from float32 only by their own
    rounding, 0.2 % in bfloat16. Converted parameters, however, have already lost digits: with
    `.to(torch.bfloat16)` outputs differ by some 3 % on average (float16: 0.4 %; docs/layers.md),
    and by up to 90 % for single inputs whose least-used slots change.

    Where the paper is ambiguous, the readings are arguments too, from `keys` on. The two layers in
    its authors' public continual-learning code are `authors_single_step` and `authors_multi_step`.

    >>> import torch
    >>> layer = NeurocoderLinear(64, 10)
    >>> layer(torch.randn(32, 64)).shape
    torch.Size([32, 10])
    >>> layer.compose(torch.randn(32, 64)).u_attention.shape
    torch.Size([32, 10, 20])

    Args:
        in_features: Size of each input.
        out_features: Size of each output. With 1 the program is a single column, of rank one
            for any number of components.
        slots: P, the number of slots of each memory.
        key_size: K, the size of a key.
        heads: H, the number of components retrieved in parallel.
        steps: J, the number of sequential retrievals; 1 is the paper's single-step Neurocoder.
        least_used: l_I of eq. 10, from 1 to slots; only used with usage_attention.
        hidden_size: Size of the composition network's LSTM state; not used with queries="input".
        usage_attention: If False, only content attention is used: w = c, without gates.
        residual: If False, there is no residual program (eq. 12).
        bias: Whether to add b, which is shared by all inputs.
        sharpness: Inverse temperature of eq. 8. The paper has none, that is, 1.0. The authors'
            multi-step layer has a factor of 10, our default; their single-step layer has none. But
            their similarity is the cosine divided by K, so their effective sharpness is 10 / K and
            1 / K.
        keys: Where the keys of eq. 7 come from, one word or three, for M_U, M_V and M_S. "network":
            a network with a hidden layer, applied to the slot; our reading of the paper's "neural
            network". "linear": a linear map of the slot. "slot": the key is part of the slot. The
            authors have ("linear", "linear", "slot") in their single-step layer, "slot" in the
            multi-step one.
        queries: Source of the queries of eq. 6. "projection": a linear map of the LSTM's state, our
            reading. "state": the state itself, which then also holds the residual's gate, with
            hidden_size = 3 H K + 1 (the authors' multi-step layer). "input": a linear map of x,
            without an LSTM, in a single step (their single-step layer).
        gates: Source of the gates of eq. 11. "state": a linear map of the LSTM's state, with a gate
            for each slot, step and head, as the paper's indices say. "input": a linear map of x,
            with a gate for each slot (the authors).
        initial_state: "zero": h_0 of eq. 6 is zero, as the paper says. "learned": h_0 and c_0 are
            parameters (the authors).
        divide_by_maximum: Whether c of eq. 8 is divided by its largest entry, so that one slot has
            the weight 1. Not in the paper; the authors do it in their multi-step layer.
        usage_over: What the maximum of eq. 9 is taken over. "head": the earlier steps of the same
            head, as in the paper. "all": the earlier steps of all heads (the authors).
        least_used_weight: "maximum": max m - m in eq. 10, as in the paper. "one": 1 - m (the
            authors).
        first_step: l of eq. 10 at the first step, before any slot has been used. "unused": zero, as
            eq. 10 gives for zero usage. "first_slots": 1 for the first least_used slots (the
            authors).
        singular_value_order: Direction of the sum of eq. 5. "backward": from the last component, as
            in the paper. "forward": from the first, so that singular values increase (the authors'
            single-step layer). "turned": those of "forward" in reverse order (their multi-step
            layer).
        orthogonality: What L_o of eq. 2 spans. "vectors": the singular vectors, as in the paper.
            "slots": whole slots, including their keys, used or not (the authors).
        initialisation: "scaled": ours, for outputs and input gradients near `nn.Linear`'s scale.
            "authors": Xavier's rule for the memories with their keys, for R and for linear maps of
            x, and wide uniform weights for the LSTM.
        device: Device of the parameters.
        dtype: Data type of the parameters.

    Attributes:
        fused: Whether calls run as one operation with a hand-written gradient (the default), which
            is faster on small inputs. It does not call the layer's submodules, nor their hooks; set
            it to False if you need those. (Hooks of submodules that compute parameters, such as
            those of `torch.nn.utils.prune`, raise an error.) `torch.compile`, `torch.export`,
            tracing and `torch.func` never use it, nor do layers with non-default readings.
        memory: The `ProgramMemory`, with parameters `u`, `v` and `s`.
        residual: R of eq. 12, shape (in_features, out_features), or None.
        bias: b, shape (out_features,), or None.
        readings: The arguments from `keys` to `initialisation`, as a `Readings`.

    Raises:
        ValueError: if a size is not a positive integer, least_used is used and larger than slots,
            sharpness is not positive and finite, or a reading is unknown or conflicts with the
            other arguments.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        slots: int = 20,
        key_size: int = 8,
        heads: int = 2,
        steps: int = 5,
        least_used: int = 5,
        hidden_size: int = 64,
        usage_attention: bool = True,
        residual: bool = True,
        bias: bool = True,
        sharpness: float = 10.0,
        keys: KeySource | Sequence[KeySource] = "network",
        queries: QuerySource = "projection",
        gates: GateSource = "state",
        initial_state: InitialState = "zero",
        divide_by_maximum: bool = False,
        usage_over: UsageOver = "head",
        least_used_weight: LeastUsedWeight = "maximum",
        first_step: FirstStep = "unused",
        singular_value_order: SingularValueOrder = "backward",
        orthogonality: Orthogonality = "vectors",
        initialisation: Initialisation = "scaled",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        (
            in_features,
            out_features,
            slots,
            key_size,
            heads,
            steps,
            least_used,
            hidden_size,
        ) = positive_integers(
            in_features=in_features,
            out_features=out_features,
            slots=slots,
            key_size=key_size,
            heads=heads,
            steps=steps,
            least_used=least_used,
            hidden_size=hidden_size,
        )
        if usage_attention and least_used > slots:
            raise ValueError(f"least_used must be at most slots ({slots}), got {least_used}")
        if not 0 < sharpness < math.inf:
            raise ValueError(f"sharpness must be positive and finite, got {sharpness}")
        self.readings = readings = Readings(
            keys,
            queries,
            gates,
            initial_state,
            divide_by_maximum,
            usage_over,
            least_used_weight,
            first_step,
            singular_value_order,
            orthogonality,
            initialisation,
        )
        readings.check(
            steps=steps,
            heads=heads,
            key_size=key_size,
            hidden_size=hidden_size,
            gates=usage_attention,
        )
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.in_features, self.out_features = in_features, out_features
        self.least_used, self.usage_attention = least_used, usage_attention
        self.sharpness = sharpness

        self.memory = ProgramMemory(
            in_features,
            out_features,
            slots,
            steps * heads,
            attention_mass=0.5 if usage_attention else 1.0,
            stored_keys=readings.stored_key_sizes(key_size),
            readings=readings,
            **factory,
        )
        self.key_networks = nn.ModuleList(
            make_key_network(source, size, key_size, **factory)
            for source, size in zip(
                readings.key_sources, (in_features, out_features, 1), strict=True
            )
        )
        sizes: dict[str, Any] = {
            "slots": slots,
            "key_size": key_size,
            "heads": heads,
            "gates": usage_attention,
            "readings": readings,
            **factory,
        }
        self.composition_network: CompositionNetwork | SingleStepNetwork
        if queries == "input":
            self.composition_network = SingleStepNetwork(in_features, **sizes)
        else:
            self.composition_network = CompositionNetwork(
                in_features, steps=steps, hidden_size=hidden_size, **sizes
            )
        # With queries="state", the LSTM's state also holds the residual's gate.
        self.integration_network = (
            WideLinear(in_features, 1, **factory) if residual and queries != "state" else None
        )
        if residual:
            self.residual = nn.Parameter(torch.empty(in_features, out_features, **factory))
        else:
            self.register_parameter("residual", None)
        if bias:
            self.bias = nn.Parameter(torch.empty(out_features, **factory))
        else:
            self.register_parameter("bias", None)
        self.fused = True
        self._frozen: tuple[_Frozen, ...] = ()  # one for every open block of `frozen_keys`
        self.reset_parameters()

    @classmethod
    def authors_single_step(
        cls,
        in_features: int,
        out_features: int,
        *,
        slots: int = 50,
        key_size: int = 5,
        heads: int = 10,
        **arguments: Any,
    ) -> "NeurocoderLinear":
        """Return the single-step layer of the authors' public code, which they use for MNIST.

        They train it with a = 1 in eq. 2. It has no residual program and no bias. Its sharpness is
        1 / K, so that attention is nearly uniform.

        Args:
            in_features: Size of each input.
            out_features: Size of each output.
            slots: P.
            key_size: K.
            heads: H, the number of components.
            **arguments: Arguments of the constructor, instead of the authors'.

        Raises:
            ValueError: as the constructor does.
        """
        given: dict[str, Any] = {
            **AUTHORS_SINGLE_STEP,
            "slots": slots,
            "key_size": key_size,
            "heads": heads,
            "sharpness": 1 / max(key_size, 1),
        }
        return cls(in_features, out_features, **{**given, **arguments})

    @classmethod
    def authors_multi_step(
        cls,
        in_features: int,
        out_features: int,
        *,
        slots: int = 20,
        key_size: int = 5,
        heads: int = 8,
        steps: int = 10,
        least_used: int = 10,
        **arguments: Any,
    ) -> "NeurocoderLinear":
        """Return the multi-step layer of the authors' public code, at its default sizes.

        Sharpness is 10 / K. Slots that tie with the last of the least used are selected here, but
        not in that code.

        Args:
            in_features: Size of each input.
            out_features: Size of each output.
            slots: P.
            key_size: K.
            heads: H.
            steps: J.
            least_used: l_I.
            **arguments: Arguments of the constructor, instead of the authors'.

        Raises:
            ValueError: as the constructor does.
        """
        given: dict[str, Any] = {
            **AUTHORS_MULTI_STEP,
            "slots": slots,
            "key_size": key_size,
            "heads": heads,
            "steps": steps,
            "least_used": least_used,
            "hidden_size": state_size(heads, key_size),
            "sharpness": 10 / max(key_size, 1),
        }
        return cls(in_features, out_features, **{**given, **arguments})

    def reset_parameters(self) -> None:
        """Draw new parameters, by default at a scale close to that of `torch.nn.Linear`."""
        self.memory.reset_parameters()
        self.composition_network.reset_parameters()
        for network, memory in zip(self.key_networks, self._memories(), strict=True):
            network.reset_for(memory)  # type: ignore[operator]
        authors, bound = self.readings.initialisation == "authors", self.in_features**-0.5
        if self.integration_network is not None:
            self.integration_network.reset_parameters()
            if authors:
                nn.init.xavier_uniform_(self.integration_network.weight)
                nn.init.normal_(self.integration_network.bias, std=0.01)
        if self.residual is not None:
            if authors:
                nn.init.xavier_uniform_(self.residual)
            else:
                nn.init.uniform_(self.residual, -bound, bound)
        if self.bias is not None:
            if authors:
                nn.init.zeros_(self.bias)
            else:
                nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """Return y, shape (..., out_features), for x of shape (..., in_features).

        Raises:
            ValueError: if the last dimension of x is not in_features.
            RuntimeError: if x and the layer differ in dtype, or a submodule's parameters are
                computed by a hook.
        """
        check_input(x, self.in_features)
        check_dtype(x, self.memory.u)
        flat = x.reshape(-1, self.in_features)
        y = self._run_fused(flat) if self._can_be_fused(flat) else self._run(flat)
        return like_output(y, x).reshape(*x.shape[:-1], self.out_features)

    def forward_groups(self, x: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return y, shape (G, ..., out_features), with separate gradients for G groups of inputs.

        As fast as one call of `forward` with all inputs.

        Args:
            x: Inputs, shape (G, ..., in_features), the same number in each group.
            parameters: The layer's parameters by name, each repeated for every group
                (`parameter.expand(G, *parameter.shape)`). Their gradients have shape (G, ...), one
                per group.

        Raises:
            ValueError: if the last dimension of x is not in_features, or `parameters` are not all
                of the layer's own for as many groups as x has.
            RuntimeError: if x and the layer differ in dtype, or the layer is parametrized.
        """
        check_input(x, self.in_features)
        check_dtype(x, self.memory.u)
        self._check_groups(x, parameters)
        flat = x.reshape(len(x), -1, self.in_features)
        y = self._run_groups(flat, *(parameters.get(name) for name in self._parameter_names()))
        return like_output(y, x).reshape(*x.shape[:-1], self.out_features)

    def compose(self, x: Tensor) -> Composition:
        """Return the controller's output for x, shape (..., in_features).

        Raises:
            ValueError: if the last dimension of x is not in_features.
        """
        check_input(x, self.in_features)
        check_dtype(x, self.memory.u)
        program = self._compose(x.reshape(-1, self.in_features))

        def unflatten(t: Tensor) -> Tensor:
            return t.reshape(*x.shape[:-1], *t.shape[1:])

        return Composition(
            unflatten(program.u_attention),
            unflatten(program.v_attention),
            unflatten(program.s_attention),
            unflatten(program.singular_values),
            None if program.residual_gate is None else unflatten(program.residual_gate),
        )

    def active_program(self, x: Tensor) -> Tensor:
        """Return P of eq. 1, shape (..., in_features, out_features), for x (..., in_features)."""
        return like_output(self._active_program(self.compose(x)), x)

    def working_program(self, x: Tensor) -> Tensor:
        """Return W of eq. 12, shape (..., in_features, out_features), for x (..., in_features).

        For inspection: `forward(x)` equals x W + b, but does not build W, which takes in * out
        numbers per input.
        """
        program = self.compose(x)
        working = self._active_program(program)
        if self.residual is not None and program.residual_gate is not None:
            scale = program.residual_gate * self._smallest(program.singular_values)
            working = working + scale.unsqueeze(-1) * self.residual  # eq. 12
        return like_output(working, x)

    def orthogonality_loss(self) -> Tensor:
        """L_o of eq. 2, a scalar; see `ProgramMemory.orthogonality_loss` for its lower bound."""
        return self.memory.orthogonality_loss()

    def program_keys(self) -> Tensor:
        """Eq. 7 for M_U, M_V and M_S: keys of unit length for eq. 8, shape (3, P, K).

        Inside `frozen_keys`, calls without any kind of derivative get the cached keys.
        """
        if self._frozen and not torch.is_grad_enabled() and not is_transformed():
            return self._frozen[-1].keys
        return self._program_keys()

    def _program_keys(self) -> Tensor:
        """`program_keys`, always computed."""
        with without_autocast(self.memory.u):
            compressed = self.memory.compressed(self.readings.key_sources)
            keys = [
                network(widen(part))
                for network, part in zip(self.key_networks, compressed, strict=True)
            ]
            return unit_length(torch.stack(keys))

    def fused_parameters(self) -> tuple[fused.Parameters, fused.Sizes]:
        """Arguments of `fused.run`: all parameters except those of the key networks, and sizes.

        Raises:
            RuntimeError: if the layer has non-default readings, or parameters that a hook of a
                submodule computes.
        """
        check_parameters_are_stored(self)
        controller = self.composition_network
        if not self.has_default_readings:
            raise RuntimeError(f"the fused equations are not those of {self.readings}")
        assert isinstance(controller, CompositionNetwork)
        assert controller.query_projection is not None
        sizes = fused.Sizes(controller.heads, controller.steps, self.least_used, self.sharpness)
        gates, memory = controller.gate_projection, self.memory
        # Without a residual, its gate scales nothing.
        integration = None if self.residual is None else self.integration_network
        parameters = fused.Parameters(
            u=widen(memory.u),
            v=widen(memory.v),
            s=widen(memory.s),
            input_weight=widen(controller.input_projection.weight),
            input_bias=widen(controller.input_projection.bias),
            recurrent_weight=widen(controller.recurrent_projection.weight),
            query_weight=widen(controller.query_projection.weight),
            query_bias=widen(controller.query_projection.bias),
            gate_weight=None if gates is None else widen(gates.weight),
            gate_bias=None if gates is None else widen(gates.bias),
            integration_weight=None if integration is None else widen(integration.weight),
            integration_bias=None if integration is None else widen(integration.bias),
            residual=None if self.residual is None else widen(self.residual),
            bias=None if self.bias is None else widen(self.bias),
        )
        return parameters, sizes

    def extra_repr(self) -> str:
        """Describe the layer's sizes."""
        controller = self.composition_network
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"slots={len(self.memory.u)}, heads={controller.heads}, steps={controller.steps}, "
            f"least_used={self.least_used}, usage_attention={self.usage_attention}, "
            f"residual={self.residual is not None}, bias={self.bias is not None}, "
            f"sharpness={self.sharpness}"
        ) + (f", {self.readings}" if str(self.readings) else "")

    def __getstate__(self) -> dict[str, Any]:
        # A copy's parameters may change, so it must not keep this layer's cache.
        return {**self.__dict__, "_frozen": ()}

    def _check_groups(self, x: Tensor, parameters: Mapping[str, Tensor]) -> None:
        """Raise an error unless `forward_groups` can compute with these arguments."""
        if any(is_parametrized(module) for module in self.modules()):
            raise RuntimeError("a parametrized layer cannot compute with groups of parameters")
        own = {name for name, _ in self.named_parameters()}
        if wrong := parameters.keys() ^ own:
            names = ", ".join(sorted(wrong))
            raise ValueError(f"parameters must be the layer's own; missing or unknown: {names}")
        if x.dim() < 2 or len(x) == 0:
            raise ValueError(
                f"expected an input of shape (G, ..., {self.in_features}) with G at least 1, "
                f"got {tuple(x.shape)}"
            )
        for name, parameter in parameters.items():
            if len(parameter) != len(x):
                raise ValueError(f"{name} has {len(parameter)} groups, x has {len(x)}")

    def _memories(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.memory.u, self.memory.v, self.memory.s

    @in_full_precision
    def _compose(self, x: Tensor) -> Composition:
        """`compose` for x of shape (B, in_features)."""
        check_parameters_are_stored(self)
        readings = self.readings
        # eq. 6: (B, J, 3, H, K), (B, J, 3, H, P)
        queries, gates, residual_gate = self.composition_network(x)
        keys = self.program_keys()  # eq. 7: (3, P, K)
        attention = content_attention(  # eq. 8: (3, B, J, H, P)
            queries, keys, self.sharpness, divide_by_maximum=readings.divide_by_maximum
        )
        if gates is not None:  # eq. 9 to 11
            attention = recurrent_attention(
                attention,
                gates.permute(2, 0, 1, 3, 4),
                self.least_used,
                usage_over=readings.usage_over,
                least_used_weight=readings.least_used_weight,
                first_step=readings.first_step,
            )
        u, v, s = attention.flatten(2, 3).unbind()
        attended = (s @ widen(self.memory.s)).squeeze(-1)
        sigma = singular_values(attended, readings.singular_value_order)  # eq. 5
        if self.integration_network is not None:
            residual_gate = self.integration_network(x)
        if residual_gate is not None:
            residual_gate = None if self.residual is None else torch.sigmoid(residual_gate)
        return Composition(u, v, s, sigma, residual_gate)

    @in_full_precision
    def _run(self, x: Tensor) -> Tensor:
        """The reference implementation of the equations, for x of shape (B, in_features)."""
        program = self._compose(x)
        sigma = program.singular_values

        # x P = ((w^u . (x M_U^T)) sigma) w^v M_V: eq. 1, 3 and 4 in the cheapest order.
        on_slots = x @ widen(self.memory.u).T
        components = (program.u_attention @ on_slots.unsqueeze(-1)).squeeze(-1) * sigma
        retrieved = (components.unsqueeze(-2) @ program.v_attention).squeeze(-2)
        y = retrieved @ widen(self.memory.v)
        if self.residual is not None and program.residual_gate is not None:
            scale = program.residual_gate * self._smallest(sigma)
            y = y + scale * (x @ widen(self.residual))  # eq. 12
        return y if self.bias is None else y + self.bias

    def _run_with(self, x: Tensor, *parameters: Tensor | None) -> Tensor:
        """`_run` with the given parameters, in the order of `_parameter_names`."""
        if any(is_parametrized(module) for module in self.modules()):
            raise RuntimeError(
                "second derivatives of a parametrized layer need layer.fused = False"
            )
        given = zip(self._parameter_names(), parameters, strict=True)
        tensors = {f"layer.{name}": tensor for name, tensor in given if tensor is not None}
        return functional_call(_Readable(self), tensors, (x,))

    @property
    def has_default_readings(self) -> bool:
        """Whether all readings are at their defaults, as `neurocoder.fused` requires."""
        return self.readings == DEFAULT_READINGS

    def _parameter_names(self) -> tuple[str, ...]:
        """All parameter names that a layer with these readings can have, in a fixed order."""
        if self.has_default_readings:
            return _FUSED_NAMES
        return tuple(name for name, _ in self.named_parameters())

    def _smallest(self, sigma: Tensor) -> Tensor:
        """The smallest of the singular values (..., r), shape (..., 1)."""
        return (
            sigma[..., :1] if self.readings.singular_value_order == "forward" else sigma[..., -1:]
        )

    def _can_be_fused(self, x: Tensor) -> bool:
        """Whether `_run_fused` may replace `_run`: for plain tensors, in eager mode."""
        return self.fused and self.has_default_readings and is_eager(x) and x.numel() > 0

    @in_full_precision
    def _run_fused(self, x: Tensor) -> Tensor:
        """Equal to `_run`, with a hand-written gradient; see `neurocoder.fused`."""
        if not torch.is_grad_enabled():
            frozen = self._frozen[-1] if self._frozen else self._freeze()
            assert frozen.arguments is not None
            return fused.run(x, *frozen.arguments)[0]
        parameters, sizes = self.fused_parameters()
        key_parameters = (
            widen(getattr(getattr(network, part), kind))
            for part in ("hidden", "output")
            for kind in ("weight", "bias")
            for network in self.key_networks
        )
        return fused.Fused.apply(self._run_with, sizes, x, *parameters, *key_parameters)

    @in_full_precision
    def _run_groups(self, x: Tensor, *parameters: Tensor | None) -> Tensor:
        """`forward_groups` for x of shape (G, B, in_features), as `_run_with` for each group."""
        if not self._can_be_fused(x):
            return fused.run_each_group(self._run_with, x, *parameters)
        _, sizes = self.fused_parameters()
        wide = (None if parameter is None else widen(parameter) for parameter in parameters)
        return fused.Fused.apply(self._run_with, sizes, x, *wide)

    @torch.no_grad()
    def _freeze(self) -> "_Frozen":
        """Compute what depends on parameters alone."""
        keys = self._program_keys()
        if not self.has_default_readings:
            return _Frozen(keys, None)
        parameters, sizes = self.fused_parameters()
        return _Frozen(keys, (fused.arrange(keys, parameters, sizes), parameters, sizes))

    def _active_program(self, program: Composition) -> Tensor:
        with without_autocast(self.memory.u):
            u = program.u_attention @ widen(self.memory.u)  # eq. 3
            v = program.v_attention @ widen(self.memory.v)  # eq. 4
            return (program.singular_values.unsqueeze(-1) * u).transpose(-1, -2) @ v  # eq. 1


class _Frozen(NamedTuple):
    """What a layer computes from its parameters alone: keys, and the arguments of `fused.run`.

    The arguments are None for a layer with non-default readings, which cannot be fused.
    """

    keys: Tensor
    arguments: tuple[fused.Weights, fused.Parameters, fused.Sizes] | None


class _Readable(nn.Module):
    """Wraps a layer so that calling it runs the reference implementation."""

    def __init__(self, layer: NeurocoderLinear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer._run(x)


_frozen_lock = Lock()  # blocks of `frozen_keys` may be opened and closed by several threads

# Parameter names in the order of `fused.Parameters` and `fused.KeyParameters`.
_FUSED_NAMES = (
    "memory.u",
    "memory.v",
    "memory.s",
    "composition_network.input_projection.weight",
    "composition_network.input_projection.bias",
    "composition_network.recurrent_projection.weight",
    "composition_network.query_projection.weight",
    "composition_network.query_projection.bias",
    "composition_network.gate_projection.weight",
    "composition_network.gate_projection.bias",
    "integration_network.weight",
    "integration_network.bias",
    "residual",
    "bias",
    *(
        f"key_networks.{memory}.{part}.{kind}"
        for part in ("hidden", "output")
        for kind in ("weight", "bias")
        for memory in range(3)
    ),
)


@contextmanager
def frozen_keys(module: nn.Module) -> Iterator[None]:
    """Cache what every `NeurocoderLinear` of a module computes from its parameters alone.

    These are the keys, and the weights as `neurocoder.fused` arranges them. An agent that acts many
    times between two updates computes them only once. Calls that are differentiated, or transformed
    by `torch.func`, do not use the cache. If parameters change inside the block, or a call brings
    its own (`functional_call`), outputs mix old and new ones.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, NeurocoderLinear)]
    own = [layer._freeze() for layer in layers]
    with _frozen_lock:
        for layer, frozen in zip(layers, own, strict=True):
            layer._frozen = (*layer._frozen, frozen)
    try:
        yield
    finally:
        with _frozen_lock:
            for layer, frozen in zip(layers, own, strict=True):
                layer._frozen = tuple(other for other in layer._frozen if other is not frozen)
