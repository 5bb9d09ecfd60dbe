"""The torso for vector observations: normalised, then two dense layers."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from agents.networks.normalization import RunningNormalization
from agents.networks.torso import TorsoCache

HIDDEN_SIZE = 64


class MLPTorso(nn.Module):
    """Two layers of 64 with tanh over normalised vectors; it has the interface of `Torso`.

    Only the observations are kept from acting: so small a network is run again.

    Args:
        size: D, the size of an observation.
    """

    kind = "mlp"
    features = HIDDEN_SIZE

    def __init__(self, size: int) -> None:
        super().__init__()
        self.normalization = RunningNormalization(size)
        first, second = nn.Linear(size, HIDDEN_SIZE), nn.Linear(HIDDEN_SIZE, HIDDEN_SIZE)
        self.layers = nn.Sequential(first, nn.Tanh(), second, nn.Tanh())
        for layer in (first, second):
            nn.init.orthogonal_(layer.weight, gain=2**0.5)
            nn.init.zeros_(layer.bias)

    def forward(self, observations: Tensor) -> Tensor:
        """Return features, shape (N, 64), of observations, shape (N, D)."""
        return self.layers(self.normalization(observations))

    @contextmanager
    def cached_weights(self) -> Iterator[None]:
        """A context in which parameters must not change; nothing is cached here."""
        yield

    @torch.no_grad()
    def make_cache(self, observations: Tensor) -> TorsoCache:
        """Allocate a cache for observations, shape (W, N, D), which are not copied."""
        features = observations.new_zeros(*observations.shape[:2], self.features)
        return TorsoCache(observations, [], features)

    @torch.no_grad()
    def forward_cached(self, cache: TorsoCache, rows: slice) -> Tensor:
        """Run `forward` on rows of the cache; see `Torso.forward_cached`."""
        features = self(cache.observations[:, rows])
        cache.features[:, rows] = features
        return features.flatten(0, 1)

    def backward(self, dfeatures: Tensor, cache: TorsoCache) -> list[Tensor]:
        """Gradients of all parameters in their order; see `Torso.backward`."""
        with torch.enable_grad():
            features = self(cache.observations)
        gradients = torch.autograd.grad(features, list(self.layers.parameters()), dfeatures)
        return [torch.zeros_like(self.normalization.statistics), *gradients]
