"""The readings of the paper that `NeurocoderLinear` supports, and which can be combined."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, cast, get_args

KeySource = Literal["network", "linear", "slot"]
QuerySource = Literal["projection", "state", "input"]
GateSource = Literal["state", "input"]
InitialState = Literal["zero", "learned"]
UsageOver = Literal["head", "all"]
LeastUsedWeight = Literal["maximum", "one"]
FirstStep = Literal["unused", "first_slots"]
SingularValueOrder = Literal["backward", "forward", "turned"]
Orthogonality = Literal["vectors", "slots"]
Initialisation = Literal["scaled", "authors"]

_CHOICES: dict[str, tuple[str, ...]] = {
    "keys": get_args(KeySource),
    "queries": get_args(QuerySource),
    "gates": get_args(GateSource),
    "initial_state": get_args(InitialState),
    "usage_over": get_args(UsageOver),
    "least_used_weight": get_args(LeastUsedWeight),
    "first_step": get_args(FirstStep),
    "singular_value_order": get_args(SingularValueOrder),
    "orthogonality": get_args(Orthogonality),
    "initialisation": get_args(Initialisation),
}


@dataclass(frozen=True)
class Readings:
    """How the paper's text is read where it is ambiguous; explained in `NeurocoderLinear`.

    Raises:
        ValueError: naming the first field with an unknown value.
    """

    keys: KeySource | Sequence[KeySource] = "network"
    queries: QuerySource = "projection"
    gates: GateSource = "state"
    initial_state: InitialState = "zero"
    divide_by_maximum: bool = False
    usage_over: UsageOver = "head"
    least_used_weight: LeastUsedWeight = "maximum"
    first_step: FirstStep = "unused"
    singular_value_order: SingularValueOrder = "backward"
    orthogonality: Orthogonality = "vectors"
    initialisation: Initialisation = "scaled"

    def __post_init__(self) -> None:
        sources = (self.keys,) * 3 if isinstance(self.keys, str) else tuple(self.keys)
        if len(sources) != 3:
            raise ValueError(f"keys must be one word or three, for U, V and S, got {self.keys!r}")
        object.__setattr__(self, "keys", sources)
        for name, choices in _CHOICES.items():
            for value in sources if name == "keys" else (getattr(self, name),):
                if value not in choices:
                    words = ", ".join(map(repr, choices))
                    raise ValueError(f"{name} must be one of {words}, got {value!r}")
        if not isinstance(self.divide_by_maximum, bool):
            raise ValueError(f"divide_by_maximum must be a bool, got {self.divide_by_maximum!r}")

    @property
    def key_sources(self) -> tuple[KeySource, KeySource, KeySource]:
        """Where the keys of M_U, M_V and M_S come from."""
        return cast("tuple[KeySource, KeySource, KeySource]", self.keys)

    def stored_key_sizes(self, key_size: int) -> tuple[int, int, int]:
        """The sizes of the keys stored in the slots of M_U, M_V and M_S; 0 for none.

        With orthogonality="slots" all of them store a key, used or not.
        """
        everywhere = self.orthogonality == "slots"
        u, v, s = (key_size * (everywhere or source == "slot") for source in self.key_sources)
        return u, v, s

    def check(
        self, *, steps: int, heads: int, key_size: int, hidden_size: int, gates: bool
    ) -> None:
        """Raise ValueError if the readings do not suit such a layer, with or without gates."""
        if self.queries == "input":
            if steps != 1:
                raise ValueError(f"queries='input' has no LSTM: steps must be 1, got {steps}")
            if self.initial_state == "learned":
                raise ValueError("queries='input' has no LSTM, and no initial_state to be learned")
            if gates and self.gates == "state":
                raise ValueError(
                    "queries='input' has no LSTM, and gates='state' needs one: "
                    "choose gates='input' or usage_attention=False"
                )
        size = state_size(heads, key_size)
        if self.queries == "state" and hidden_size != size:
            raise ValueError(
                "queries='state' takes the queries and the residual's gate from the state: "
                f"hidden_size must be 3 * heads * key_size + 1 = {size}, got {hidden_size}"
            )

    def __str__(self) -> str:
        """The fields that are not at their defaults, as arguments."""
        default = Readings()
        changed = [
            f.name for f in fields(self) if getattr(self, f.name) != getattr(default, f.name)
        ]
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in changed)


DEFAULT_READINGS = Readings()


def state_size(heads: int, key_size: int) -> int:
    """The LSTM's size where its state holds the three memories' queries and the residual's gate."""
    return 3 * heads * key_size + 1


# The authors' arguments for `NeurocoderLinear`, apart from sizes; see its class methods.
AUTHORS_SINGLE_STEP: Mapping[str, Any] = {
    "steps": 1,
    "usage_attention": False,
    "residual": False,
    "bias": False,
    "keys": ("linear", "linear", "slot"),
    "queries": "input",
    "singular_value_order": "forward",
    "orthogonality": "slots",
    "initialisation": "authors",
}
AUTHORS_MULTI_STEP: Mapping[str, Any] = {
    "residual": False,
    "bias": False,
    "keys": "slot",
    "queries": "state",
    "gates": "input",
    "initial_state": "learned",
    "divide_by_maximum": True,
    "usage_over": "all",
    "least_used_weight": "one",
    "first_step": "first_slots",
    "singular_value_order": "turned",
    "orthogonality": "slots",
    "initialisation": "authors",
}
