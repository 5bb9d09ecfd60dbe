"""A machine that is too small is told so before anything starts, with the remedy."""

import dataclasses
import logging
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import gymnasium
import pytest
import torch
from gymnasium.vector import AutoresetMode

import agents.training.preflight
import agents.training.worker_process
from agents.config import SettingError, TrainConfig
from agents.errors import MachineError
from agents.networks.actor_critic import ActorCritic
from agents.run_folder import open_run
from agents.training.preflight import build_network, check_env, check_learner
from envs import Spaces
from tests.agents.runs import make_config, make_run
from tests.agents.tiny_env import TinyEnv

ROOT = Path(__file__).parents[3]
MIB = 2**20
# Of the test machine or not: what follows must not depend on it.
ROOMY = {"memory_limit": 2**40, "available_cpus": 8, "free_shared_memory": 2**40}


@pytest.fixture
def machine(monkeypatch):
    def have(**values):
        for name, value in {**ROOMY, **values}.items():
            monkeypatch.setattr(agents.training.preflight, name, lambda value=value: value)
        cores = agents.training.preflight.available_cpus
        monkeypatch.setattr(agents.training.worker_process, "available_cpus", cores)

    have()
    return have


@pytest.mark.parametrize(
    "settings",
    [
        {"num_steps": 100_000, "envs_per_worker": 1024},
        {"neurocoder_heads": 256, "neurocoder_steps": 256},
    ],
)
def test_rollouts_that_memory_cannot_hold_are_refused_by_their_flags(machine, settings):
    config = TrainConfig(**settings)
    machine(memory_limit=24 * 2**30)
    with pytest.raises(
        SettingError, match=r"^--num-steps .* GiB, .* has 24.0 GiB; lower .* --neurocoder-steps$"
    ):
        build_network(Spaces(18), config)


def test_memory_for_so_many_processes_is_refused_by_their_flag(machine):
    machine(memory_limit=8 * 2**30)
    config = TrainConfig(workers=1000, processes=100, envs_per_worker=1, num_steps=5)
    build_network(Spaces(18), config)
    with pytest.raises(
        SettingError, match=r"^--processes 1000: 1000 processes .* has 8.0 GiB; lower --processes$"
    ):
        build_network(Spaces(18), dataclasses.replace(config, processes=1000))


def test_too_little_shared_memory_is_refused_with_the_remedy(machine):
    for optimizer, copies in (("rmsprop", 3), ("adam", 4)):
        config = TrainConfig(head="linear", optimizer=optimizer)
        size = 4 * 681_251  # nips torso and linear heads of 18 actions and of one value
        machine(free_shared_memory=copies * size + 2 * MIB)
        build_network(Spaces(18), config)
        machine(free_shared_memory=copies * size)
        with pytest.raises(MachineError, match=r"/dev/shm has .* MiB left.*--shm-size=\d+m.*mount"):
            build_network(Spaces(18), config)


def test_the_learners_slots_count_as_shared_memory(machine):
    config = TrainConfig(head="linear", learner="cpu", workers=16)
    queue = 16 * 2 * (4 * 21 * 4 * 84 * 84)  # 16 workers, two each, of 4 games and 20 + 1 screens
    machine(free_shared_memory=queue + 20 * MIB)
    build_network(Spaces(18), config)
    machine(free_shared_memory=queue)
    with pytest.raises(MachineError, match=r"/dev/shm has .* MiB left.*--shm-size=\d+m.*mount"):
        build_network(Spaces(18), config)
    build_network(Spaces(18), dataclasses.replace(config, learner="worker"))


def test_slots_that_memory_cannot_hold_are_refused(machine):
    machine(memory_limit=8 * 2**30)
    with pytest.raises(SettingError, match=r"^--num-steps .*--learner-batch"):
        build_network(Spaces(18), TrainConfig(head="linear", learner="cpu", learner_batch=4096))


@pytest.mark.parametrize(
    ("built", "devices", "learner", "seen"),
    [
        (False, 0, "cuda", "was built without CUDA"),
        (True, 0, "cuda", "sees no CUDA device"),
        (True, 2, "cuda:2", "sees 2 CUDA devices, cuda:0 on"),
    ],
)
def test_a_device_that_is_missing_is_refused_with_what_torch_sees(
    built, devices, learner, seen, monkeypatch
):
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: built)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    message = rf"^--learner {learner}: this torch \({re.escape(torch.__version__)}\) {seen}"
    with pytest.raises(SettingError, match=message):
        check_learner(TrainConfig(learner=learner))
    check_learner(TrainConfig(learner="cpu"))
    if devices:
        check_learner(TrainConfig(learner="cuda:1"))


def test_a_learner_is_refused_on_processors_that_reorder_writes(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    with pytest.raises(SettingError, match=r"^--learner cpu: .* x86-64 .* arm64; use worker$"):
        check_learner(TrainConfig(learner="cpu"))
    check_learner(TrainConfig())
    check_learner(TrainConfig(learner="cpu", workers=0))  # one process
    monkeypatch.setattr("platform.machine", lambda: "AMD64")
    check_learner(TrainConfig(learner="cpu"))


def test_shared_memory_that_cannot_be_used_is_refused_with_the_remedy(machine, monkeypatch):
    machine()

    def refuse():
        raise PermissionError(13, "it is not writable")

    monkeypatch.setattr(agents.training.preflight, "free_shared_memory", refuse)
    with pytest.raises(MachineError, match=r"/dev/shm cannot be used \(it is not wr.*--shm"):
        build_network(Spaces(18), TrainConfig())


def test_too_few_open_files_are_refused_with_the_remedy_and_raised_where_allowed(
    machine, monkeypatch
):
    machine()
    config = TrainConfig(workers=500, processes=500, envs_per_worker=1)
    changed = []
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: changed.append(limits))
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 1024))
    with pytest.raises(SettingError, match=r"^--processes 500: .* 2100 open files; .*ulimit -n"):
        build_network(Spaces(18), config)
    assert changed == []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 4096))
    build_network(Spaces(18), config)
    assert changed == [(2100, 4096)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
    build_network(Spaces(18), config)
    assert changed == [(2100, 4096)]


@pytest.mark.parametrize(
    ("processes", "cores", "hinted"),
    [(0, 1, False), (2, 1, True), (8, 8, False), (9, 8, True), (99, 40, False)],
)
def test_more_processes_than_cores_get_a_hint_and_no_refusal(
    machine, caplog, processes, cores, hinted
):
    machine(available_cpus=cores)
    with caplog.at_level(logging.WARNING, "train"):
        build_network(Spaces(18), TrainConfig(workers=32, processes=processes, envs_per_worker=1))
    hint = f"--processes {processes}: this machine has {cores} usable cores"
    assert (hint in caplog.text) == hinted


def test_a_run_of_a_larger_machine_can_be_opened_on_a_small_one(machine, tmp_path):
    machine(memory_limit=MIB)
    config = make_config(workers=1024, envs_per_worker=1024, num_steps=100_000)
    assert open_run(make_run(tmp_path / "run", config))[1] == config


def shell(*lines):
    """Run lines in a mount namespace of their own."""
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", "\n".join(lines)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_machine_without_shared_memory_gives_one_line_and_no_run_folder(tmp_path):
    small = "mount -t tmpfs -o size=1m none /dev/shm"
    if not shutil.which("unshare") or shell(small).returncode != 0:
        pytest.skip("needs the right to mount")
    command = f"{sys.executable} {ROOT / 'train_a3c.py'} --workers 1 --run-dir {tmp_path / 'runs'}"
    done = shell(small, command)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "/dev/shm" in done.stderr
    assert "--shm-size" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "command",
    [
        ["train_a3c.py"],
        ["-m", "agents.evaluate", "models/pong-linear"],
        ["-m", "agents.replay", "none.npz"],
    ],
)
def test_opencv_that_does_not_load_gives_one_line_with_the_remedy(command, tmp_path):
    error = "libGL.so.1: cannot open shared object file: No such file or directory"
    (tmp_path / "cv2.py").write_text(f"raise ImportError({error!r})\n")
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    for word in (error, "apt-get install libgl1", "opencv-python-headless"):
        assert word in done.stderr


def test_the_network_is_the_one_that_the_seed_gives():
    config = TrainConfig()
    torch.manual_seed(5)
    built = build_network(Spaces(18), config)
    torch.manual_seed(5)
    plain = ActorCritic(Spaces(18), config)
    for ours, theirs in zip(built.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_network_too_large_is_given_up_before_it_is_filled(machine):
    machine(memory_limit=8 * 4 * 500_000)
    with pytest.raises(SettingError, match=r"--head linear: .* parameters or more"):
        build_network(Spaces(18), TrainConfig(head="linear", workers=0, envs_per_worker=1))


def test_nothing_is_counted_once_the_network_stands(machine):
    build_network(Spaces(18), TrainConfig(head="linear", workers=0, envs_per_worker=1))
    machine(memory_limit=1)
    ActorCritic(Spaces(18), TrainConfig(head="linear"))


def test_building_it_does_not_load_torchs_compiler_whatever_its_head():
    code = (
        "import sys; from agents.config import TrainConfig;"
        "from agents.training.preflight import build_network; from envs import Spaces;"
        "[build_network(Spaces(18), TrainConfig(head=head))"
        " for head in ('linear', 'hypernet', 'neurocoder')];"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_disk_without_room_for_checkpoints_is_refused_before_training(monkeypatch):
    config = TrainConfig(head="linear", workers=0)
    monkeypatch.setattr("agents.training.preflight.free_disk_space", lambda _: 6 * 2**20)
    with pytest.raises(SettingError, match=r"--run-dir runs: has 6\.0 MiB left, and two checkpoi"):
        build_network(Spaces(18), config)
    monkeypatch.setattr("agents.training.preflight.free_disk_space", lambda _: 30 * 2**20)
    build_network(Spaces(18), config)


def test_an_environment_of_unsupported_spaces_is_refused_without_a_type_or_a_hint():
    class Wrong(TinyEnv):
        metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    words = r"^--game Pong: environments must autoreset in NEXT_STEP mode, got [\w.]+$"
    with pytest.raises(SettingError, match=words):
        check_env(TrainConfig(game="Pong"), lambda _, seeds: Wrong(len(seeds)))


@pytest.mark.parametrize(
    ("make_one", "got"),
    [(lambda: TinyEnv(8), "8 for 1"), (lambda: gymnasium.make("CartPole-v1"), "TimeLimit")],
)
def test_what_makes_no_environment_for_each_seed_is_refused(make_one, got):
    words = f"make_env must make a VectorEnv with an environment for each seed, got {got}"
    with pytest.raises(SettingError, match=words):
        check_env(TrainConfig(game="Pong"), lambda config, seeds: make_one())  # noqa: ARG005
