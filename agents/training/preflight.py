"""Checks, before anything is started, of whether this machine can hold the run."""

import logging
import math
import platform
import resource
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from agents.a3c.bonus import num_counters
from agents.a3c.collector import spaces_of
from agents.a3c.optimizers import OPTIMIZERS
from agents.a3c.worker_group import EnvironmentFactory, make_envs
from agents.config import SettingError, TrainConfig
from agents.errors import MachineError
from agents.networks.actor_critic import ActorCritic
from agents.system.resources import (
    SHARED_MEMORY,
    available_cpus,
    free_disk_space,
    free_shared_memory,
    memory_limit,
)
from agents.training.rollout_queue import entries_per_worker, queue_size, rollout_layout
from agents.training.worker_process import spread_workers
from envs import Spaces, UnusableEnvironmentError, spaces

log = logging.getLogger("train")

# Names of x86-64 in different systems. See `agents.training.rollout_queue`.
X86 = ("x86_64", "amd64")


def build_network(spaces: Spaces, config: TrainConfig, *, writes_files: bool = True) -> ActorCritic:
    """Build the network, or refuse a run that this machine cannot hold; warn of needless processes.

    Parameters are counted as they are registered, before they are filled, so a network that is too
    large is refused long before it takes the memory. (Building it on torch's meta device first
    would take a second, and 100 MB, because torch draws random numbers there with its compiler.)

    Args:
        spaces: The sizes of the environment's spaces.
        config: The settings.
        writes_files: Whether this process writes the run directory, which needs room on the disk.
            The nodes of a cluster may not even have its file system.

    Raises:
        SettingError: naming the flag to lower.
        MachineError: if something other than a flag has to change.
    """
    check_learner(config)
    check_rollouts(config, spaces)
    count_bytes = 8 * num_counters(config, spaces)
    _check_descriptors(config)
    available, processes = memory_limit(), len(spread_workers(config))
    size = 0

    def count(_module: nn.Module, _name: str, parameter: torch.Tensor | None) -> None:
        nonlocal size
        size += 0 if parameter is None else parameter.numel()
        _check_memory(size, available, processes, config)

    hook = register_module_parameter_registration_hook(count)
    try:
        network = ActorCritic(spaces, config)
    except RuntimeError as error:
        if "allocate" not in str(error) and "overflow" not in str(error):
            raise
        allowed = "with these sizes a single tensor is too large for this machine"
        raise SettingError("head", config.head, allowed) from error
    finally:
        hook.remove()
    queue_bytes = 0
    if config.uses_central_learner:
        queue_bytes = queue_size(config, rollout_layout(config, network))
    _check_shared_memory(size, config, queue_bytes + count_bytes)
    if writes_files:
        _check_disk(size, config, count_bytes)
    cores = available_cpus()
    if processes > cores:
        log.warning(
            "--processes %s: this machine has %s usable cores, on which so many processes take "
            "turns; one per core, which is the default, is faster and needs less memory",
            *(config.processes, cores),
        )
    return network


def check_env(config: TrainConfig, make_env: EnvironmentFactory) -> Spaces:
    """Return the sizes of the environment's spaces; makes one, plays a step, and closes it.

    Raises:
        SettingError: If the environment cannot be made or used.
    """
    try:
        env = make_envs(make_env, config, np.zeros(1, np.int64))
        try:
            found = spaces_of(env)
            env.reset()
            env.step(np.zeros(1, np.int64))
            return found
        finally:
            env.close()
    except UnusableEnvironmentError as error:
        raise SettingError("game", config.game, str(error)) from error
    except Exception as error:  # an environment may raise anything
        why = f"{type(error).__name__}: {error}; gymnasium.utils.env_checker may say more"
        raise SettingError("game", config.game, why) from error


def evaluation_problem(config: TrainConfig, network: ActorCritic) -> str | None:
    """Why a network cannot be evaluated on the settings' game, as one line; None if it can."""
    try:
        named = spaces(config.env)
    except UnusableEnvironmentError as error:
        return str(error)
    if named != network.spaces:
        return f"{config.game} has other actions or observations than what is trained on"
    return None


def check_learner(config: TrainConfig) -> None:
    """Refuse a processor on which the rollout queue is not safe, or a device that does not exist.

    The device is not touched: only the learner's process may.

    Raises:
        SettingError: saying what the processor is, or what torch supports or sees.
    """
    processor = platform.machine()
    if config.uses_central_learner and config.workers and processor.lower() not in X86:
        allowed = f"a learner needs an x86-64 processor, this is {processor}; use worker"
        raise SettingError("learner", config.learner, allowed)
    if not config.learner.startswith("cuda"):
        return
    torch_version = f"this torch ({torch.__version__})"
    if not torch.backends.cuda.is_built():
        raise SettingError("learner", config.learner, f"{torch_version} was built without CUDA")
    count, index = torch.cuda.device_count(), torch.device(config.learner).index or 0
    if index >= count:
        seen = "no CUDA device" if count == 0 else f"{count} CUDA devices, cuda:0 on"
        raise SettingError("learner", config.learner, f"{torch_version} sees {seen}")


def check_rollouts(config: TrainConfig, spaces: Spaces) -> None:
    """Refuse rollouts that do not fit in memory while all workers learn.

    Raises:
        SettingError: naming the flag to lower.
    """
    rollouts = config.learner_batch if config.uses_central_learner else max(config.workers, 1)
    samples = rollouts * config.envs_per_worker * config.num_steps
    observation = math.prod(spaces.observation_shape) * (1 if spaces.has_images else 4)
    # About four more bytes per pixel, or number, for the activations of the network's layers.
    needed = samples * (observation + 4 * math.prod(spaces.observation_shape))
    if config.head == "neurocoder":
        components = config.neurocoder_steps * config.neurocoder_heads
        tensors = 2 * 3 * 10  # layers, memories, and what autograd keeps of each attention
        needed += samples * tensors * 4 * components * config.neurocoder_slots
    if config.uses_central_learner:
        kept = max(config.workers, 1) * entries_per_worker(config) + 2 * config.learner_batch
        steps = config.envs_per_worker * (config.num_steps + 1)
        needed += kept * steps * observation
    if needed > memory_limit():
        number = "--learner-batch" if config.uses_central_learner else "--workers"
        sizes = "the head's sizes"
        if config.head == "neurocoder":
            sizes = "--neurocoder-slots, --neurocoder-heads or --neurocoder-steps"
        raise SettingError(
            "num_steps",
            config.num_steps,
            f"learning from {samples:,} agent steps at once takes {_gib(needed)}, "
            f"this machine has {_gib(memory_limit())}; lower --num-steps, "
            f"--envs-per-worker, {number} or {sizes}",
        )


def _check_memory(size: int, available: int, processes: int, config: TrainConfig) -> None:
    copy = 4 * size
    if 8 * copy > available:
        allowed = (
            f"with these sizes the network has {size:,} parameters or more, "
            "too many for this machine"
        )
        raise SettingError("head", config.head, allowed)
    # Each process's parameters, gradients and Python interpreter, and the shared state.
    needed = processes * (2 * copy + 30 * 2**20) + 4 * copy
    if needed > available:
        allowed = (
            f"{processes} processes take {_gib(needed)}, this machine has {_gib(available)}; "
            "lower --processes"
        )
        raise SettingError("processes", config.processes, allowed)


def _check_shared_memory(size: int, config: TrainConfig, more: int) -> None:
    """Refuse too little: a write would end the process with a bus error and no message."""
    # Parameters, optimizer statistics, and the evaluator's snapshot; then counters.
    copies = 2 + OPTIMIZERS[config.optimizer].num_state_tensors
    needed = copies * 4 * size + 64 * (config.workers + 1) + more + 2**20
    remedy = (
        f"docker run --shm-size={2 * needed // 2**20 + 1}m, or as root: "
        f"mount -o remount,size={2 * needed // 2**20 + 1}M {SHARED_MEMORY}"
    )
    try:
        free = free_shared_memory()
    except OSError as error:
        why = error.strerror or error
        raise MachineError(f"{SHARED_MEMORY} cannot be used ({why}); {remedy}") from error
    if free is not None and free < needed:
        raise MachineError(
            f"{SHARED_MEMORY} has {free / 2**20:.1f} MiB left, and what the processes share takes "
            f"{needed / 2**20:.1f}; {remedy}"
        )


def _check_disk(size: int, config: TrainConfig, counts: int) -> None:
    """Require room for two checkpoints: a new one is written before the old one is deleted."""
    tensors = 1 + OPTIMIZERS[config.optimizer].num_state_tensors
    needed = 2 * (tensors * 4 * size + counts) + 2**20
    free = free_disk_space(Path(config.run_dir))
    if free < needed:
        allowed = (
            f"has {free / 2**20:.1f} MiB left, and two checkpoints with the results take "
            f"{needed / 2**20:.1f}"
        )
        raise SettingError("run_dir", config.run_dir, allowed)


def _check_descriptors(config: TrainConfig) -> None:
    """Raise the limit on open files, where that is allowed."""
    processes = len(spread_workers(config))
    descriptors = 4 * processes + 100
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= descriptors:
        return
    if hard != resource.RLIM_INFINITY and hard < descriptors:
        allowed = f"{processes} processes need {descriptors} open files; raise `ulimit -n` ({hard})"
        raise SettingError("processes", config.processes, allowed)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, hard))


def _gib(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB"
