"""Every setting of a training run: one dataclass field is one flag, its help and its limits.

The command line, the saved `config.json` and the table in `docs/settings.md` are made from here.
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agents.errors import UserError, escape_to_one_line, is_printable
from envs import (
    AtariConfig,
    EnvConfig,
    Game,
    GymnasiumConfig,
    UnknownGameError,
    resolve_environment,
)

# Training returns are shown as the mean over this many episodes.
RECENT_EPISODES = 100
# A limit for whole numbers too, which Python does not bound.
_MAX_NUMBER = 1e300
_MAX_PATH_LENGTH = 4096


class SettingError(UserError, ValueError):
    """A setting that cannot be used; the message names the flag, the value and what is allowed."""

    def __init__(self, name: str, value: object, allowed: str) -> None:
        super().__init__(
            f"{flag(name)} {escape_to_one_line(str(value), 200)}: {escape_to_one_line(allowed)}"
        )


@dataclass(frozen=True)
class ByKind:
    """A default that depends on the kind of environment.

    Attributes:
        atari: For Atari games.
        gymnasium: For other environments of Gymnasium.
    """

    atari: Any
    gymnasium: Any

    def __str__(self) -> str:
        return f"{self.atari}; {self.gymnasium} for Gymnasium's environments"

    def of(self, config: "TrainConfig") -> Any:
        """The default in a run with these settings."""
        return self.atari if config.is_atari else self.gymnasium


@dataclass(frozen=True)
class ByBonus:
    """A default that depends on `TrainConfig.bonus`.

    Attributes:
        values: Bonus -> default.
    """

    values: Mapping[str, Any]

    def __str__(self) -> str:
        return ", ".join(f"{value} for {bonus}" for bonus, value in self.values.items())

    def of(self, config: "TrainConfig") -> Any:
        """The default in a run with these settings."""
        return self.values[config.bonus]


def setting(
    default: Any,
    group: str,
    help: str,  # noqa: A002
    *,
    mutable_on_resume: bool = False,
    **limits: Any,
) -> Any:
    """A field of `TrainConfig`.

    Args:
        default: its value when the flag is not given; `ByKind` if it depends on the environment,
            `ByBonus` if on the bonus.
        group: the heading under which `--help` lists it.
        help: one line that says what it does.
        mutable_on_resume: whether a resumed run may be given another value.
        **limits: `choices`, or `high` (the largest allowed) with `low` (the smallest allowed) or
            `above` (the exclusive lower bound); for a text `max_length` in characters, or
            `pattern`, which the whole text must match, with `allowed`, the same in words;
            `metavar`, the value's placeholder in `--help`.
    """
    return field(
        # None until what it depends on is known.
        default=None if isinstance(default, ByKind | ByBonus) else default,
        metadata={
            "default": default,
            "group": group,
            "help": help,
            "mutable_on_resume": mutable_on_resume,
            **limits,
        },
    )


def default_of(spec: dataclasses.Field[Any], config: "TrainConfig") -> Any:
    """The value that a setting has in a run like this one when its flag is not given."""
    default = spec.metadata["default"]
    return default.of(config) if isinstance(default, ByKind | ByBonus) else default


def non_defaults(config: "TrainConfig") -> dict[str, Any]:
    """Name -> value of the settings that have other values than if their flags were not given."""
    return {
        spec.name: value
        for spec in dataclasses.fields(config)
        if (value := getattr(config, spec.name)) != default_of(spec, config)
    }


def flag(name: str) -> str:
    """The command-line flag of a field: `num_steps` -> `--num-steps`."""
    return "--" + name.replace("_", "-")


@dataclass(frozen=True)
class TrainConfig:
    """The settings of one run. Construction raises `SettingError` for any that cannot work."""

    # fmt: off
    game: str = setting("Frostbite", "run", "Atari game, in any common spelling, or the id of a Gymnasium environment, such as CartPole-v1 or my_package:MyEnv-v0", max_length=100)
    workers: int = setting(16, "run", "actor-learners; 0 runs one in this process, with the same code, deterministically", mutable_on_resume=True, low=0, high=1024)
    processes: int = setting(0, "run", "processes that the workers are spread over, at most one per worker; 0 for one per usable core", mutable_on_resume=True, low=0, high=1024)
    envs_per_worker: int = setting(4, "run", "environments that each worker steps as one batch", mutable_on_resume=True, low=1, high=1024)
    total_timesteps: int = setting(ByKind(75_000_000, 1_000_000), "run", "budget in agent steps, of all workers together; an agent step is --frame-skip frames", mutable_on_resume=True, low=1, high=10**12)
    seed: int = setting(1, "run", "random seed of the run", low=0, high=2**32 - 1)
    run_dir: str = setting("runs", "run", "directory that holds the run directories", metavar="DIR")
    resume: str = setting("", "run", "run directory to resume, such as runs/latest; empty for a new run", mutable_on_resume=True, optional=True, metavar="RUN")
    checkpoint_interval: float = setting(600.0, "run", "seconds between checkpoints", mutable_on_resume=True, above=0, high=1e9)
    keep_checkpoints: int = setting(3, "run", "how many of the newest checkpoints are kept", mutable_on_resume=True, low=1, high=10**6)
    eval_interval: int = setting(ByKind(1_000_000, 100_000), "run", "agent steps between evaluations, which run beside training; 0 for none", mutable_on_resume=True, low=0, high=10**12)
    eval_episodes: int = setting(10, "run", "episodes per evaluation in each mode (sampled and greedy)", mutable_on_resume=True, low=1, high=10**6)
    capture_video: bool = setting(False, "run", "record the first episode of each evaluation and mode", mutable_on_resume=True)
    log_interval: float = setting(ByKind(10.0, 2.0), "run", "seconds between rows of progress.csv, points in TensorBoard, and lines of output without a terminal", mutable_on_resume=True, above=0, high=1e9)
    quiet: bool = setting(False, "run", "print warnings and errors only", mutable_on_resume=True)

    cluster: str = setting("none", "cluster", "train on several machines: those of the Ray at HOST:PORT, of the one that this machine belongs to (auto), or of one started on this machine alone (local)", mutable_on_resume=True, metavar="{none,local,auto,HOST:PORT}", pattern=r"none|local|auto|[^\s:/]+:[1-9][0-9]{0,4}", allowed="none, local, auto or HOST:PORT")
    sync_updates: int = setting(8, "cluster", "updates of a machine between two exchanges with the parameter server", mutable_on_resume=True, low=1, high=10_000)
    max_lag: int = setting(1000, "cluster", "largest policy lag, in updates of other machines, at which what a machine learned is still added; beyond it is dropped", mutable_on_resume=True, low=0, high=10**9)

    head: str = setting("neurocoder", "network", "output layer of actor and critic", choices=("linear", "hypernet", "neurocoder"))
    core: str = setting("none", "network", "recurrent core between torso and heads", choices=("none", "lstm"))
    torso: str = setting(ByKind("nips", "auto"), "network", "convolutions of Mnih et al. 2013 (nips) or 2015 (nature), or for small images of symbols, whose bytes are divided by 10 (small); layers of 64 units for vectors (mlp); auto is mlp for vectors, small for images below 20x20, otherwise nips", choices=("auto", "nips", "nature", "small", "mlp"))
    precision: str = setting("float32", "network", "type that the torso computes with; bf16 rounds weights and activations to bfloat16, which is faster on CPUs with such instructions (AVX512-BF16, AMX)", mutable_on_resume=True, choices=("float32", "bf16"))
    actor_gain: float = setting(1.0, "network", "factor on the actor's output, for every head", above=0, high=1e3)

    neurocoder_readings: str = setting("default", "neurocoder head", "variant of the layer where the paper is ambiguous: ours (default), or one of the two in its authors' public code, without residual program and bias; their single step has all J x H components", choices=("default", "authors-single-step", "authors-multi-step"))
    neurocoder_slots: int = setting(20, "neurocoder head", "P, slots of each program memory", low=1, high=4096)
    neurocoder_key_size: int = setting(8, "neurocoder head", "K, size of a program key", low=1, high=4096)
    neurocoder_heads: int = setting(2, "neurocoder head", "H, components retrieved in parallel", low=1, high=256)
    neurocoder_steps: int = setting(5, "neurocoder head", "J, recurrent retrievals; 1 is the single-step Neurocoder", low=1, high=256)
    neurocoder_least_used: int = setting(5, "neurocoder head", "number of least-used slots that usage attention may choose; at most P", low=1, high=4096)
    neurocoder_hidden_size: int = setting(64, "neurocoder head", "hidden size of the composition network", low=1, high=8192)
    neurocoder_sharpness: float = setting(10.0, "neurocoder head", "factor on the cosine similarity of content attention (the paper has none, which is 1)", above=0, high=1e3)
    neurocoder_usage_attention: bool = setting(True, "neurocoder head", "also attend to the least-used slots")
    neurocoder_residual: bool = setting(True, "neurocoder head", "use the residual program")
    hypernet_hidden_size: int = setting(64, "hypernet head", "width of the weight-generating network", low=1, high=8192)
    hypernet_embedding_size: int = setting(8, "hypernet head", "size of the embedding that is turned into weights", low=1, high=4096)
    linear_hidden_size: int = setting(0, "linear head", "width of a ReLU layer before each output, to match another head's number of parameters; 0 for none", low=0, high=65_536)

    learner: str = setting("worker", "learning", "who computes gradients: every worker (A3C), or one learner on cpu, cuda or cuda:N (IMPALA)", mutable_on_resume=True, metavar="{worker,cpu,cuda,cuda:N}", pattern=r"worker|cpu|cuda(:(0|[1-9][0-9]?))?", allowed="worker, cpu, cuda or cuda:N")
    learner_batch: int = setting(8, "learning", "rollouts per update of the learner", mutable_on_resume=True, low=1, high=4096)
    num_steps: int = setting(20, "learning", "t_max, the rollout length in agent steps", low=1, high=100_000)
    optimizer: str = setting("adam", "learning", "optimizer, with state shared by all workers", choices=("rmsprop", "adam"))
    learning_rate: float = setting(ByKind(3e-4, 1e-3), "learning", "initial learning rate; it decays linearly to zero over the budget", above=0, high=1)
    optimizer_eps: float = setting(1e-5, "learning", "epsilon, inside the square root for rmsprop (Mnih et al. 2016), outside for adam", low=1e-12, high=1)
    gamma: float = setting(0.99, "learning", "discount factor", low=0, high=1)
    gae_lambda: float = setting(0.95, "learning", "lambda of generalized advantage estimation; 1 gives n-step returns", low=0, high=1)
    ent_coef: float = setting(0.01, "learning", "entropy coefficient", low=0, high=1e6)
    vf_coef: float = setting(ByKind(0.5, 0.05), "learning", "value loss coefficient", low=0, high=1e6)
    orthogonality_coef: float = setting(1e-3, "learning", "a, coefficient of the Neurocoder's orthogonality loss, summed over both heads", low=0, high=1e6)
    max_grad_norm: float = setting(0.5, "learning", "maximum norm of the gradient without the orthogonality loss, which is scaled down to it", above=0, high=1e6)

    bonus: str = setting("none", "learning", "reward added for what was seen rarely, by pseudo-counts of independent pixels (Bellemare et al. 2016) or counts of hashes (Tang et al. 2017)", choices=("none", "pixel-counts", "simhash"))
    bonus_scale: float = setting(ByBonus({"none": 0.0, "pixel-counts": 0.05, "simhash": 0.01}), "learning", "factor on the bonus", low=0, high=1e6)

    images: str = setting("auto", "environment", "how images of Gymnasium's environments are shown: as stacks of four, grey and 84x84 (grey), or as they are (raw); auto is grey for one or three channels from 32x32 on", choices=("auto", "grey", "raw"))
    reward: str = setting(ByKind("clip", "none"), "environment", "what is learned from: rewards clipped to [-1, 1] (clip), as they are (none), or sign(r) ln(1 + |r|) (symlog)", choices=("clip", "none", "symlog"))
    life_loss_ends_return: bool = setting(ByKind(True, False), "environment", "in training, a lost life ends the return (not the episode)")
    frame_skip: int = setting(ByKind(4, 1), "environment", "emulator frames per agent step: each action is repeated this often", low=1, high=100)
    sticky_actions: float = setting(ByKind(0.25, 0.0), "environment", "probability, at every frame, that the emulator repeats the previous action", low=0, high=1)
    noop_max: int = setting(ByKind(30, 0), "environment", "an episode starts with 0 to N - 1 no-op frames, drawn uniformly (Gymnasium's own wrapper plays 1 to N)", low=0, high=10_000)
    max_frames: int = setting(108_000, "environment", "frames after which an episode is truncated; agent steps in Gymnasium's environments, which may have lower limits of their own", low=8, high=10**8)
    fire_reset: bool = setting(False, "environment", "press FIRE at the start of an episode, for games that wait for it")
    full_action_space: bool = setting(False, "environment", "all 18 actions instead of the game's minimal set")
    # fmt: on

    def __post_init__(self) -> None:
        object.__setattr__(self, "game", _resolved(self.game))
        for spec in dataclasses.fields(self):
            if getattr(self, spec.name) is None:
                object.__setattr__(self, spec.name, default_of(spec, self))
            validate(spec, getattr(self, spec.name))
        if self.neurocoder_least_used > self.neurocoder_slots:
            allowed = f"must be at most --neurocoder-slots ({self.neurocoder_slots})"
            raise SettingError("neurocoder_least_used", self.neurocoder_least_used, allowed)
        if self.neurocoder_readings != "default":
            for name, value in _FIXED_BY_AUTHORS.items():
                if getattr(self, name) != value:
                    allowed = (
                        f"cannot be chosen with --neurocoder-readings {self.neurocoder_readings}"
                    )
                    raise SettingError(name, getattr(self, name), allowed)
        if self.bonus == "none" and self.bonus_scale != 0:
            raise SettingError(
                "bonus_scale", self.bonus_scale, "needs --bonus pixel-counts or --bonus simhash"
            )
        for name, value in _ATARI_ONLY.items():
            if not self.is_atari and getattr(self, name) != value:
                allowed = f"is for Atari games only, and {self.game} is not one"
                raise SettingError(name, getattr(self, name), allowed)
        if self.uses_cluster and self.workers == 0:
            raise SettingError("workers", 0, "must be at least 1 with --cluster")
        if self.uses_cluster and self.uses_central_learner:
            allowed = "is for one machine; with --cluster every worker learns (--learner worker)"
            raise SettingError("learner", self.learner, allowed)
        if self.uses_cluster and self.bonus != "none":
            allowed = "is for one machine: a cluster's machines would each count for themselves"
            raise SettingError("bonus", self.bonus, allowed)
        if self.is_atari and self.images != "auto":
            allowed = f"is for Gymnasium's environments only, and {self.game} is an Atari game"
            raise SettingError("images", self.images, allowed)

    @property
    def is_atari(self) -> bool:
        """Whether the environment is an Atari game."""
        return isinstance(resolve_environment(self.game), Game)

    @property
    def uses_central_learner(self) -> bool:
        """Whether one learner computes the gradients, and the workers only play."""
        return self.learner != "worker"

    @property
    def uses_cluster(self) -> bool:
        """Whether the workers are spread over the machines of a Ray cluster."""
        return self.cluster != "none"

    @property
    def learned_rewards(self) -> str:
        """The rewards that are learned from, in words."""
        rewards = {"clip": "clipped rewards", "none": "rewards", "symlog": "symlog rewards"}
        return rewards[self.reward] + ("" if self.bonus == "none" else " and bonus")

    @property
    def env(self) -> EnvConfig:
        """The environment and its rules."""
        kind = AtariConfig if self.is_atari else GymnasiumConfig
        names = (spec.name for spec in dataclasses.fields(kind))
        return kind(**{name: getattr(self, name) for name in names})

    def learning_rate_at(self, global_step: int) -> float:
        """The learning rate after `global_step` agent steps; it decays linearly to zero at the budget."""
        return self.learning_rate * max(0.0, 1.0 - global_step / self.total_timesteps)


# Settings that the layers of the authors' code do not leave open, with their defaults.
_FIXED_BY_AUTHORS = {
    name: TrainConfig.__dataclass_fields__[name].default
    for name in (
        *("neurocoder_hidden_size", "neurocoder_sharpness"),
        *("neurocoder_usage_attention", "neurocoder_residual"),
    )
}

# Settings that do not affect what is learned.
INCIDENTAL = frozenset(
    {
        *("run_dir", "resume", "checkpoint_interval", "keep_checkpoints", "eval_interval"),
        *("eval_episodes", "capture_video", "log_interval", "quiet"),
    }
)

# The values of these settings in other environments.
_ATARI_ONLY = {
    "frame_skip": 1,
    "sticky_actions": 0.0,
    "noop_max": 0,
    "fire_reset": False,
    "full_action_space": False,
}


def _resolved(game: Any) -> str:
    """The game's name or the environment's id."""
    validate(TrainConfig.__dataclass_fields__["game"], game)
    try:
        found = resolve_environment(game)
    except UnknownGameError as error:
        raise SettingError("game", repr(game), str(error)) from None
    return found.name if isinstance(found, Game) else found


def choices(name: str) -> tuple[str, ...]:
    """The values that a setting may have."""
    found: tuple[str, ...] = TrainConfig.__dataclass_fields__[name].metadata["choices"]
    return found


def validate(spec: dataclasses.Field[Any], value: Any) -> None:
    """Raise SettingError unless the value has the field's type and lies within its limits."""
    limits = spec.metadata
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if spec.type is float:
        if not is_number or not abs(value) < _MAX_NUMBER:
            raise SettingError(spec.name, value, "must be a finite number")
    elif type(value) is not spec.type:
        raise SettingError(
            spec.name, value, f"must be of type {getattr(spec.type, '__name__', '')}"
        )
    if "choices" in limits and value not in limits["choices"]:
        raise SettingError(spec.name, value, f"must be one of {', '.join(limits['choices'])}")
    if "low" in limits and not limits["low"] <= value <= limits["high"]:
        allowed = f"must be between {limits['low']} and {limits['high']}"
        raise SettingError(spec.name, value, allowed)
    if "above" in limits and not limits["above"] < value <= limits["high"]:
        allowed = f"must be above {limits['above']} and at most {limits['high']:g}"
        raise SettingError(spec.name, value, allowed)
    if spec.type is str:
        _check_text(spec, value)


def _check_text(spec: dataclasses.Field[Any], value: str) -> None:
    max_length = spec.metadata.get("max_length", _MAX_PATH_LENGTH)
    if not value and not spec.metadata.get("optional"):
        raise SettingError(spec.name, repr(value), "must not be empty")
    if len(value) > max_length:
        raise SettingError(spec.name, value, f"must have at most {max_length} characters")
    if "pattern" in spec.metadata and not re.fullmatch(spec.metadata["pattern"], value):
        raise SettingError(spec.name, value, f"must be {spec.metadata['allowed']}")
    if not is_printable(value):
        raise SettingError(spec.name, value, "must not hold control characters")
