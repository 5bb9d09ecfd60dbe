"""The variants of a comparison, and their parameter counts."""

import argparse
import dataclasses
import re
from dataclasses import dataclass
from typing import Any

from agents.config import TrainConfig, choices, flag
from agents.errors import UserError
from agents.networks.actor_critic import ActorCritic
from agents.networks.heads import head_factory
from envs import Spaces

# Name -> settings: the heads, the paper's ablations, and the layers of the authors' code.
VARIANTS: dict[str, dict[str, Any]] = {
    **{head: {"head": head} for head in choices("head")},
    "neurocoder-single-step": {"head": "neurocoder", "neurocoder_steps": 1},
    "neurocoder-no-usage": {"head": "neurocoder", "neurocoder_usage_attention": False},
    "neurocoder-no-residual": {"head": "neurocoder", "neurocoder_residual": False},
    **{
        f"neurocoder-{readings}": {"head": "neurocoder", "neurocoder_readings": readings}
        for readings in choices("neurocoder_readings")
        if readings != "default"
    },
}
SUFFIXES = ("-lstm", "-skipN", "-pixel-counts", "-simhash")
# Suffixes that may follow any of these names, in any order.
_SUFFIX = re.compile(r"(.+)-(lstm|pixel-counts|simhash|skip([1-9][0-9]?))")

TOLERANCE = 0.02
# Head -> the setting of its width, and another to lower if the narrowest is still too large.
_WIDTHS: dict[str, tuple[str, str | None]] = {
    "linear": ("linear_hidden_size", None),
    "hypernet": ("hypernet_hidden_size", "hypernet_embedding_size"),
}


class UnmatchableError(UserError):
    """No size gives a head the desired parameter count."""


@dataclass(frozen=True)
class Parameters:
    """Parameter counts of a network.

    Attributes:
        total: Count of the whole network.
        heads: Count of actor and critic together, the only parts in which variants differ.
    """

    total: int
    heads: int


def settings_of(name: str) -> dict[str, Any]:
    """The settings of a variant.

    `NAME-lstm` is NAME with a recurrent core, `NAME-skip12` repeats an action for 12 frames, and
    `NAME-pixel-counts` and `NAME-simhash` have that bonus.

    Raises:
        KeyError: If there is no such variant.
    """
    found = _SUFFIX.fullmatch(name)
    if found is None:
        return VARIANTS[name]
    base, suffix, skip = found.groups()
    if skip:
        return {**settings_of(base), "frame_skip": int(skip)}
    return {**settings_of(base), **({"core": suffix} if suffix == "lstm" else {"bonus": suffix})}


def variant_name(name: str) -> str:
    """Return a name from the command line if there is such a variant."""
    try:
        settings_of(name)
    except KeyError:
        allowed = f"one of {', '.join(VARIANTS)}, followed by any of {', '.join(SUFFIXES)}"
        raise argparse.ArgumentTypeError(f"{name!r} is not {allowed}") from None
    return name


def as_flags(settings: dict[str, Any]) -> list[str]:
    """Settings as command-line flags."""
    words: list[str] = []
    for name, value in settings.items():
        if isinstance(value, bool):
            words.append(flag(name) if value else "--no-" + flag(name)[2:])
        else:
            words += [flag(name), str(value)]
    return words


def count_parameters(config: TrainConfig, spaces: Spaces) -> Parameters:
    """Parameter counts of the network that the settings describe."""
    network = ActorCritic(spaces, config)
    return Parameters(_size(network), _size(network.actor) + _size(network.critic))


def match_neurocoder(config: TrainConfig, spaces: Spaces) -> dict[str, Any]:
    """Sizes that give a baseline's heads as many parameters as the Neurocoder's.

    Linear heads get a hidden ReLU layer of matching width. HyperNet's weight-generating network is
    widened; its embedding is made smaller only if even the narrowest network is too large.

    Args:
        config: The baseline's settings, including the Neurocoder's sizes and ablations to match.
        spaces: The sizes of the environment's spaces.

    Returns:
        The settings to change; empty for a Neurocoder.

    Raises:
        UnmatchableError: If no size comes within 2 % of the heads' parameter count, or it is
            unknown which setting widens the head.
    """
    if config.head == "neurocoder":
        return {}
    reference = dataclasses.replace(config, head="neurocoder")
    features = ActorCritic(spaces, reference).core.features
    target = _heads(reference, features, spaces.num_actions)
    if config.head not in _WIDTHS:
        raise UnmatchableError(f"no setting is known that makes a {config.head} head wider")
    width, other = _WIDTHS[config.head]
    tries: list[dict[str, Any]] = [{}]
    if other is not None:
        tries = [{other: size} for size in range(getattr(config, other), 0, -1)]
    for fixed in tries:
        # The parameter count is linear in the width.
        one, two = (
            _heads(_with(config, fixed | {width: w}), features, spaces.num_actions) for w in (1, 2)
        )
        best = max(1, 1 + round((target - one) / (two - one)))
        settings = {k: v for k, v in fixed.items() if v != getattr(config, k)} | {width: best}
        found = one + (best - 1) * (two - one)
        if abs(found - target) <= TOLERANCE * target:
            return settings
    raise UnmatchableError(
        f"no {config.head} head comes within {TOLERANCE:.0%} of the Neurocoder's {target:,} "
        "parameters"
    )


def _with(config: TrainConfig, settings: dict[str, Any]) -> TrainConfig:
    return dataclasses.replace(config, **settings)


def _heads(config: TrainConfig, features: int, num_actions: int) -> int:
    head = head_factory(config)
    return _size(head(features, num_actions)) + _size(head(features, 1))


def _size(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
