"""Warns where play stands still, as in games that wait for FIRE."""

import logging

from agents.config import flag
from agents.evaluation.episode import EpisodeCallback, StepResult
from agents.networks.inspection import PolicyOutput
from envs import AtariConfig, EnvConfig, action_names

log = logging.getLogger("train")

STANDSTILL_STEPS = 1000
# Environments that were warned about: once is enough.
_named: set[EnvConfig] = set()


class StandstillHint(EpisodeCallback):
    """Logs a warning, once, after `STANDSTILL_STEPS` without a reward or anything new to see.

    An observation (of a stack, the newest image) is new if the episode has not had it before: a
    paddle that moves to and fro, or a blinking light, is soon nothing new. Episodes go on.

    Args:
        env: The environment, and its rules.
    """

    def __init__(self, env: EnvConfig) -> None:
        self._env = env

    def on_start(self, mode: str, seed: int) -> None:  # noqa: ARG002
        """Forget the previous episode."""
        self._mode, self._seen, self._last_new = mode, set[int](), 0

    def on_step(self, step: StepResult, output: PolicyOutput | None) -> None:  # noqa: ARG002
        """Look for a reward or a new observation."""
        seen = hash(step.newest.tobytes())
        if step.reward or seen not in self._seen:
            self._seen.add(seen)
            self._last_new = step.length
        elif step.length - self._last_new >= STANDSTILL_STEPS and self._env not in _named:
            _named.add(self._env)
            log.warning(
                "%s, %s play: no reward and nothing new to see for %s agent steps; it seems to "
                "wait for an action that the agent does not choose%s. The episode goes on, to its "
                "limit of %s agent steps",
                *(self._env.game, self._mode, f"{STANDSTILL_STEPS:,}", _remedy(self._env)),
                f"{self._env.max_steps:,}",
            )


def _remedy(env: EnvConfig) -> str:
    if "FIRE" not in action_names(env):
        return ""
    if not isinstance(env, AtariConfig) or env.fire_reset:
        return ", such as FIRE"
    return f", such as FIRE ({flag('fire_reset')}, in training, presses it as each episode starts)"
