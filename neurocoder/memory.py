"""The program memory: singular vectors and values, their keys, and the orthogonality loss."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurocoder._precision import WideLinear, widen, without_autocast


class ProgramMemory(nn.Module):
    """P slots of left singular vectors, right singular vectors and singular values.

    Attributes:
        u: M_U, shape (P, in_features).
        v: M_V, shape (P, out_features).
        s: M_S, shape (P, 1), the singular values before softplus (eq. 5).

    Args:
        in_features: Length of a left singular vector.
        out_features: Length of a right singular vector.
        slots: P, the number of slots of each memory.
        components: r, the number of components of an active program.
        attention_mass: Sum of the attention weights at initialisation: 1 for content attention,
            half of that with the gate of eq. 11. It and r only affect the initial scale.
        device: Device of the parameters.
        dtype: Data type of the parameters.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        slots: int,
        components: int,
        *,
        attention_mass: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.components, self.attention_mass = components, attention_mass
        self.u = nn.Parameter(torch.empty(slots, in_features, device=device, dtype=dtype))
        self.v = nn.Parameter(torch.empty(slots, out_features, device=device, dtype=dtype))
        self.s = nn.Parameter(torch.empty(slots, 1, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw Xavier vectors, and singular values for which outputs start at `nn.Linear`'s scale.

        With every softplus term of eq. 5 equal to c, the singular values are c, 2c, ... rc, and an
        input of unit variance gives outputs of variance

            c^2 (1 + 4 + ... + r^2) * concentration * (in * var M_U) * var M_V.

        c is chosen so that this is 1/3, the output variance of a new `nn.Linear`. The concentration
        (the fraction of variance kept by a weighted mean over slots, and the similarity of the
        components) was measured at initialisation. Outputs of a new layer then have 1 to 2 times
        the standard deviation of `nn.Linear`'s for layers of 16 to 512 features, and 5 to 9 times
        with 100 components.
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

    def orthogonality_loss(self) -> Tensor:
        """L_o of eq. 2: ||M_U M_U^T - I|| + ||M_V M_V^T - I|| in Frobenius norms, a scalar.

        P vectors of fewer than P dimensions cannot all be orthogonal: each norm is at least
        sqrt(max(0, P - dimensions)).
        """
        u, v = widen(self.u), widen(self.v)
        with without_autocast(u):
            return _distance_from_orthonormal(u) + _distance_from_orthonormal(v)


class KeyNetwork(nn.Module):
    """f_phi of eq. 7: maps every slot of one memory to a key.

    It has a hidden layer because a slot may be a single number (all slots of M_S, and of M_V in a
    layer with one output). A linear map would then put all keys on one line, where cosine
    similarity can hardly tell slots apart.

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
    def reset_parameters(self, memory: Tensor) -> None:
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


def singular_values(attended: Tensor) -> Tensor:
    """Eq. 5: positive, strictly decreasing singular values from the attended slots of M_S.

    Args:
        attended: Sum over i of w^sigma_in M_S(i), shape (..., r).

    Returns:
        sigma, shape (..., r), in float32 or wider: a cumulative sum in bfloat16 would make
        neighbours equal.
    """
    terms = F.softplus(widen(attended))
    return terms.flip(-1).cumsum(-1).flip(-1)


def _distance_from_orthonormal(rows: Tensor) -> Tensor:
    gram = rows @ rows.T
    return torch.linalg.matrix_norm(
        gram - torch.eye(len(rows), device=rows.device, dtype=rows.dtype)
    )
