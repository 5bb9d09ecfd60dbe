"""The program memory: singular vectors and values, their keys, and the orthogonality loss."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurocoder._precision import WideLinear, widen, without_autocast
from neurocoder.readings import DEFAULT_READINGS, KeySource, Readings, SingularValueOrder


class ProgramMemory(nn.Module):
    """P slots of left singular vectors, right singular vectors and singular values.

    Attributes:
        u: M_U, shape (P, in_features).
        v: M_V, shape (P, out_features).
        s: M_S, shape (P, 1), the singular values before softplus (eq. 5).
        u_key: The part of each slot of M_U that is its key, shape (P, K), or None.
        v_key: The same for M_V.
        s_key: The same for M_S.

    Args:
        in_features: Length of a left singular vector.
        out_features: Length of a right singular vector.
        slots: P, the number of slots of each memory.
        components: r, the number of components of an active program.
        attention_mass: Sum of the attention weights at initialisation: 1 for content attention,
            half of that with the gate of eq. 11. Like r, it only affects the initial scale.
        stored_keys: Sizes of the keys that are part of the slots of M_U, M_V and M_S; 0 for none.
        readings: What the orthogonality loss spans, and how parameters are drawn.
        device: Device of the parameters.
        dtype: Data type of the parameters.
    """

    u_key: nn.Parameter | None
    v_key: nn.Parameter | None
    s_key: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        slots: int,
        components: int,
        *,
        attention_mass: float = 1.0,
        stored_keys: tuple[int, int, int] = (0, 0, 0),
        readings: Readings = DEFAULT_READINGS,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.components, self.attention_mass = components, attention_mass
        self.orthogonality, self.initialisation = readings.orthogonality, readings.initialisation
        self.u = nn.Parameter(torch.empty(slots, in_features, device=device, dtype=dtype))
        self.v = nn.Parameter(torch.empty(slots, out_features, device=device, dtype=dtype))
        self.s = nn.Parameter(torch.empty(slots, 1, device=device, dtype=dtype))
        for name, size in zip(("u_key", "v_key", "s_key"), stored_keys, strict=True):
            key = torch.empty(slots, size, device=device, dtype=dtype)
            self.register_parameter(name, nn.Parameter(key) if size else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new slots."""
        if self.initialisation == "authors":
            self._draw_as_the_authors()
        else:
            self._draw_to_scale()

    def _draw_as_the_authors(self) -> None:
        """Draw every memory by Xavier's rule for its whole matrix, keys and values alike."""
        for values, key in self._slots():
            parts = [values] if key is None else [key, values]
            bound = math.sqrt(6 / (len(values) + sum(part.shape[1] for part in parts)))
            for part in parts:
                nn.init.uniform_(part, -bound, bound)

    def _draw_to_scale(self) -> None:
        """Draw Xavier vectors, and singular values for which outputs start at `nn.Linear`'s scale.

        With every softplus term of eq. 5 equal to c, the singular values are c, 2c, ... rc, and an
        input of unit variance gives outputs of variance

            c^2 (1 + 4 + ... + r^2) * concentration * (in * var M_U) * var M_V.

        c is chosen so that this is 1/3, the output variance of a new `nn.Linear`. The concentration
        (the fraction of variance kept by a weighted mean over slots, and the similarity of the
        components) was measured at initialisation. Outputs of a new layer then have 1 to 2 times
        the standard deviation of `nn.Linear`'s for layers of 16 to 512 features, and 3 to 17
        times with 100 components.
        """
        nn.init.xavier_normal_(self.u)
        nn.init.xavier_normal_(self.v)
        (slots, in_features), out_features = self.u.shape, self.v.shape[1]
        r = self.components
        energy = r * (r + 1) * (2 * r + 1) / 6
        variance_u = in_features * 2 / (slots + in_features)
        variance_v = 2 / (slots + out_features)
        concentration = 1.1 * self.attention_mass**4
        term = (3 * energy * concentration * variance_u * variance_v) ** -0.5
        # Inverse of softplus(mean) = term, stable for tiny and for huge terms.
        nn.init.normal_(self.s, mean=term + math.log(-math.expm1(-term)), std=1.0)
        for _, key in self._slots():
            if key is not None:
                nn.init.normal_(key)

    def orthogonality_loss(self) -> Tensor:
        """L_o of eq. 2: ||M_U M_U^T - I|| + ||M_V M_V^T - I|| in Frobenius norms, a scalar.

        With orthogonality="slots" the rows of M_U and M_V are whole slots, keys included.

        P vectors of fewer than P dimensions cannot all be orthogonal: each norm is at least
        sqrt(max(0, P - dimensions)).
        """
        u, v, _ = (
            torch.cat([widen(key), widen(values)], dim=1)
            if self.orthogonality == "slots" and key is not None
            else widen(values)
            for values, key in self._slots()
        )
        with without_autocast(u):
            return _distance_from_orthonormal(u) + _distance_from_orthonormal(v)

    def _slots(self) -> list[tuple[nn.Parameter, nn.Parameter | None]]:
        """Values and keys of M_U, M_V and M_S."""
        return [(self.u, self.u_key), (self.v, self.v_key), (self.s, self.s_key)]

    def compressed(self, sources: tuple[KeySource, KeySource, KeySource]) -> list[Tensor]:
        """What keys are computed from: the values of M_U, M_V and M_S, or the keys in the slots."""
        return [
            key if source == "slot" and key is not None else values
            for (values, key), source in zip(self._slots(), sources, strict=True)
        ]


class KeyNetwork(nn.Module):
    """f_varphi of eq. 7: maps every slot of one memory to a key.

    It has a hidden layer because a slot may be a single number (all slots of M_S, and of M_V in a
    layer with one output). A linear map would then put all keys on one line, where cosine
    similarity hardly distinguishes slots.

    Args:
        slot_size: Size of a slot.
        key_size: K, the size of a key.
        hidden_size: Width of the hidden layer.
        device: Device of the parameters.
        dtype: Data type of the parameters.
    """

    def __init__(
        self,
        slot_size: int,
        key_size: int,
        *,
        hidden_size: int = 32,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.hidden = WideLinear(slot_size, hidden_size, device=device, dtype=dtype)
        self.output = WideLinear(hidden_size, key_size, device=device, dtype=dtype)

    @torch.no_grad()
    def reset_for(self, memory: Tensor) -> None:
        """Initialise so that the keys of the given memory, shape (P, slot_size), are spread out.

        Every hidden unit is centred on one slot and scaled by the spread of the slots, so that the
        slots lie in the nonlinear range of its tanh; the output bias gives the keys mean zero.
        """
        slots = memory.shape[0]
        spread = (memory - memory.mean(dim=0)).norm(dim=1).square().mean().sqrt().clamp_min(1e-3)
        nn.init.normal_(self.hidden.weight).mul_(2.0 / spread)
        centres = memory[torch.arange(self.hidden.out_features, device=memory.device) % slots]
        self.hidden.bias.copy_(-(self.hidden.weight * centres).sum(dim=1))
        nn.init.normal_(self.output.weight, std=self.hidden.out_features**-0.5)
        nn.init.zeros_(self.output.bias)
        if slots > 1:
            self.output.bias.copy_(-self(memory).mean(dim=0))

    def forward(self, memory: Tensor) -> Tensor:
        """Return the keys, shape (P, K), for a memory of shape (P, slot_size)."""
        return self.output(torch.tanh(self.hidden(memory)))


class LinearKeys(WideLinear):
    """f_varphi of eq. 7 as one linear map, from a slot to its key.

    Scalar slots then have keys on one line; see `KeyNetwork`.
    """

    def reset_for(self, memory: Tensor) -> None:  # noqa: ARG002
        """Draw new weights, which do not depend on the memory."""
        self.reset_parameters()


class StoredKeys(nn.Module):
    """f_varphi of eq. 7 where the key is part of the slot: it is returned as it is."""

    def reset_for(self, memory: Tensor) -> None:
        """Do nothing: the keys belong to the memory."""

    def forward(self, key: Tensor) -> Tensor:
        """Return the keys, shape (P, K)."""
        return key


def make_key_network(source: KeySource, slot_size: int, key_size: int, **factory: Any) -> nn.Module:
    """Return f_varphi of eq. 7 for one memory; for the source, see `keys` of `NeurocoderLinear`."""
    if source == "slot":
        return StoredKeys()
    kind = KeyNetwork if source == "network" else LinearKeys
    return kind(slot_size, key_size, **factory)


def singular_values(attended: Tensor, order: SingularValueOrder = "backward") -> Tensor:
    """Eq. 5: positive, strictly monotonic singular values from the attended slots of M_S.

    Args:
        attended: Sum over i of w^sigma_in M_S(i), shape (..., r).
        order: "backward", as eq. 5 sums, from the last component to the first: decreasing.
            "forward", from the first to the last: increasing. "turned", the values of "forward" in
            reverse order: decreasing, but the first component's own term is in every value.

    Returns:
        sigma, shape (..., r), in float32 or wider: a cumulative sum in bfloat16 would make
        neighbours equal.
    """
    terms = F.softplus(widen(attended))
    if order == "backward":
        return terms.flip(-1).cumsum(-1).flip(-1)
    sums = terms.cumsum(-1)
    return sums if order == "forward" else sums.flip(-1)


def _distance_from_orthonormal(rows: Tensor) -> Tensor:
    gram = rows @ rows.T
    return torch.linalg.matrix_norm(
        gram - torch.eye(len(rows), device=rows.device, dtype=rows.dtype)
    )
