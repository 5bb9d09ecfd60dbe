"""Environments whose worker process fails once, as a file in the run directory names.

And other things that go wrong in processes of their own.
"""

import contextlib
import os
import signal
import time
from pathlib import Path

import numpy as np
import torch

import agents.training.learner_process
import agents.training.worker_process
from agents.a3c.learner import Learner
from agents.checkpoint import list_checkpoints
from agents.config import TrainConfig
from agents.system.messages import pack
from agents.training.parameter_stores import SharedMemoryStore
from tests.agents.tiny_env import TinyEnv

STEPS_BEFORE_FAULT = 40


class FaultyEnv(TinyEnv):
    """Plays some steps, and then does `fault()`, which may be the end of the process."""

    def __init__(self, num_envs, fault):
        super().__init__(num_envs)
        self.fault, self.steps = fault, 0

    def step(self, actions):
        self.steps += 1
        if self.steps == STEPS_BEFORE_FAULT:
            self.fault()
        return super().step(actions)


def kill_me():
    os.kill(os.getpid(), signal.SIGKILL)


def stop_me():
    os.kill(os.getpid(), signal.SIGSTOP)


def raise_something():
    raise RuntimeError("the dice fell off the table")


def exit_with_7():
    os._exit(7)


def in_half_a_record(then):
    def send_half(connection, message):
        packed = pack(message)
        os.write(connection.fileno(), packed[: len(packed) // 2])
        then()

    def fault():
        agents.training.worker_process.send = send_half

    return fault


def in_the_middle_of_a_push():
    def push_half(store, gradients):
        half = len(gradients) // 2
        store.shared.parameters[:half].add_(gradients[:half], alpha=-1e-3)
        kill_me()

    SharedMemoryStore.push = push_half


FAULTS = {
    "raises": raise_something,
    "is killed": kill_me,
    "exits": exit_with_7,
    "is killed in the middle of a record": in_half_a_record(kill_me),
    "is killed in the middle of a push": in_the_middle_of_a_push,
    "is stopped": stop_me,
    "is stopped in the middle of a record": in_half_a_record(stop_me),
}


def make_faulty_env(config: TrainConfig, seeds: np.ndarray) -> TinyEnv:
    """The first worker that plays fails, the others and those that come later do not."""
    file = Path(config.run_dir) / "fault"
    if len(seeds) == config.envs_per_worker and torch.get_num_threads() == 1:
        with contextlib.suppress(FileNotFoundError):
            mine = file.rename(file.with_name("taken"))
            return FaultyEnv(len(seeds), FAULTS[mine.read_text()])
    return TinyEnv(len(seeds))


class NanEnv(TinyEnv):
    """Its rewards are no numbers from some step on."""

    steps = 0

    @property
    def faulty(self):
        return self.steps > STEPS_BEFORE_FAULT

    def step(self, actions):
        self.steps += 1
        observations, rewards, *rest = super().step(actions)
        if self.faulty:
            rewards[:] = np.nan
        return (observations, rewards, *rest)


def make_nan_env(config: TrainConfig, seeds: np.ndarray) -> NanEnv:  # noqa: ARG001
    return NanEnv(len(seeds))


class LateNanEnv(NanEnv):
    """Its rewards are no numbers from some step on, but not before the run has a checkpoint."""

    folder = Path()

    @property
    def faulty(self):
        return super().faulty and bool(list_checkpoints(self.folder / "latest" / "checkpoints"))


def make_late_nan_env(config: TrainConfig, seeds: np.ndarray) -> LateNanEnv:
    env = LateNanEnv(len(seeds))
    env.folder = Path(config.run_dir)
    return env


class SlowEnv(TinyEnv):
    """Stands still in the middle of a rollout, in the first worker to find the file "be slow"."""

    folder = Path()

    def step(self, actions):
        file = self.folder / "be slow"
        with contextlib.suppress(FileNotFoundError):
            file.rename(self.folder / str(os.getpid()))
            time.sleep(60)
        return super().step(actions)


def make_slow_env(config: TrainConfig, seeds: np.ndarray) -> SlowEnv:
    env = SlowEnv(len(seeds))
    env.folder = Path(config.run_dir)
    return env


class BrokenLearner(Learner):
    def update(self, rollout):  # noqa: ARG002
        raise RuntimeError("the device fell off its rails")


def run_broken_learner(*args):
    agents.training.learner_process.Learner = BrokenLearner
    agents.training.learner_process.run_learner(*args)
