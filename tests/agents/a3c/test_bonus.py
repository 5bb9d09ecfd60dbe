"""Exploration bonuses, against dictionaries that count."""

import csv
import dataclasses
import math
from collections import Counter

import numpy as np
import pytest
import torch

from agents.a3c.bonus import BONUSES, SimHash, make_bonus, num_counters
from agents.checkpoint import (
    CheckpointError,
    list_checkpoints,
    load_checkpoint,
    write_checkpoint,
)
from agents.cli import parse_args
from agents.config import SettingError, TrainConfig, choices
from agents.networks.actor_critic import ActorCritic
from agents.run_folder import resolve_run
from agents.training.supervisor import train
from envs import Spaces, spaces
from tests.agents.tiny_env import make_tiny_env

KINDS = ("pixel-counts", "simhash")
SCALE = 0.7
STACK, COLOURS, SYMBOLS, VECTOR = (4, 84, 84), (3, 90, 130), (3, 7, 7), (4,)
SMALL = TrainConfig(
    workers=0, envs_per_worker=2, num_steps=4, total_timesteps=200, head="linear", log_interval=0.05
)


def make(kind, shape, counts=None):
    config = TrainConfig(bonus=kind, bonus_scale=SCALE)
    if counts is None:
        counts = torch.zeros(num_counters(config, Spaces(3, shape)), dtype=torch.int64)
    return make_bonus(config, Spaces(3, shape), counts), counts


def play(shape, steps=12, games=3, seed=0):
    """Observations that repeat and differ in places, and which of them count."""
    random = np.random.default_rng(seed)
    if len(shape) == 1:
        some = random.standard_normal((4, *shape)).astype(np.float32)
    else:
        some = np.repeat(random.integers(0, 256, (1, *shape), np.uint8), 4, axis=0)
        for n in range(1, 4):
            some[n, :, : 2 + n, 1:4] = random.integers(0, 256, (shape[0], 2 + n, 3))
    return some[random.integers(4, size=(steps, games))], random.random((steps, games)) < 0.8


def naive_frame(observation):
    """The bytes that count, pixel by pixel."""
    channels, height, width = observation.shape
    if min(height, width) < 42:
        return [int(b) for b in observation.flatten()]
    images = [observation[-1]] if (channels, height, width) == STACK else list(observation)
    k = min(height, width) // 42
    frame = []
    for y in range(height // k):
        for x in range(width // k):
            block = [
                int(image[y * k + i, x * k + j])
                for image in images
                for i in range(k)
                for j in range(k)
            ]
            frame.append(sum(block) // len(block))
    return frame


def naive_pixel_counts(observations, counting, levels):
    counts, total, found = Counter(), 0, []
    for step, counts_here in zip(observations, counting, strict=True):
        frames = [[byte * levels // 256 for byte in naive_frame(o)] for o in step]
        row = []
        for frame, counted in zip(frames, counts_here, strict=True):
            ratio = 0.0 if total == 0 else 1.0
            for pixel in enumerate(frame):
                if total:
                    ratio *= counts[pixel] / total * (total + 1) / (counts[pixel] + 1)
            seen = math.inf if ratio == 1 else ratio / (1 - ratio)
            row.append(SCALE * (seen + 0.01) ** -0.5 if counted else 0.0)
        for frame, counted in zip(frames, counts_here, strict=True):
            if counted:
                counts.update(enumerate(frame))
                total += 1
        found.append(row)
    return found


@pytest.mark.parametrize(("shape", "levels"), [(STACK, 32), (COLOURS, 32), (SYMBOLS, 256)], ids=str)
def test_pixel_counts_are_those_of_a_dictionary(shape, levels):
    observations, counting = play(shape)
    bonus, _ = make("pixel-counts", shape)
    found = [bonus(*step) for step in zip(observations, counting, strict=True)]
    expected = naive_pixel_counts(observations, counting, levels)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert len({round(x, 6) for row in expected for x in row}) > 10


def test_pixel_counts_stay_exact_after_very_many_frames():
    bonus, counts = make("pixel-counts", SYMBOLS)
    image = np.zeros((1, *SYMBOLS), np.uint8)
    n, rare = 10**12, 10**7
    table = counts.view(-1, 256)
    table[:, 0] = n
    table[5, 0], table[5, 1] = n - rare, rare
    image.flat[5] = 1
    [found] = bonus(image, np.array([True]))
    # One pixel tells: r = (c / n) (n + 1) / (c + 1), so N = c (n + 1) / (n - c).
    expected = SCALE * (rare * (n + 1) / (n - rare) + 0.01) ** -0.5
    assert found == pytest.approx(expected, rel=1e-6)


def test_a_frame_that_always_comes_pays_nothing_and_a_new_one_the_most():
    bonus, _ = make("pixel-counts", STACK)
    one, other = np.zeros((1, *STACK), np.uint8), np.full((1, *STACK), 200, np.uint8)
    always = np.array([True])
    assert bonus(one, always)[0] == pytest.approx(10 * SCALE)
    assert bonus(one, always)[0] == 0
    assert bonus(other, always)[0] == pytest.approx(10 * SCALE)


@pytest.mark.parametrize("shape", [STACK, COLOURS, SYMBOLS, VECTOR], ids=str)
def test_simhash_counts_are_those_of_a_dictionary(shape):
    observations, counting = play(shape)
    bonus, _ = make("simhash", shape)
    counts = Counter()
    for step, counts_here in zip(observations, counting, strict=True):
        if shape == SYMBOLS:
            signs = [tuple(naive_frame(o)) for o in step]
        else:
            if shape == VECTOR:  # without bounds
                states, offset = np.sign(step) * np.log1p(np.abs(step)), bonus.offset
            else:
                states, offset = np.array([naive_frame(o) for o in step]) / 127.5 - 1, 0
            signs = [tuple(s) for s in states @ bonus.projection.astype(np.float64) + offset > 0]
        counts.update(s for s, counted in zip(signs, counts_here, strict=True) if counted)
        expected = [
            SCALE / math.sqrt(counts[s]) if counted else 0
            for s, counted in zip(signs, counts_here, strict=True)
        ]
        np.testing.assert_allclose(bonus(step, counts_here), expected, rtol=1e-6)
    assert len(counts) == 4


def test_hashes_spread_over_the_table():
    bonus = SimHash(Spaces(2, VECTOR, ((-1.0, 1.0),) * 4), np.zeros(0, np.int64), SCALE)
    states = np.random.default_rng(1).standard_normal((4096, 4)).astype(np.float32)
    signs = {tuple(s) for s in states @ bonus.projection + bonus.offset > 0}
    cells = bonus.cells(states)
    assert len(signs) - 20 < len(set(cells.tolist())) <= len(signs)
    np.testing.assert_allclose(np.histogram(cells, 8, (0, 2**21))[0], 512, atol=120)


def cells_of(observations, bounds=()):
    spaces = Spaces(2, observations.shape[1:], bounds)
    return len(set(SimHash(spaces, np.zeros(0, np.int64), SCALE).cells(observations).tolist()))


def test_hashes_tell_apart_what_differs_little():
    symbols = np.repeat(np.random.default_rng(1).integers(0, 11, (1, *SYMBOLS), np.uint8), 441, 0)
    flat = symbols.reshape(441, 147)
    for i in range(441):  # the other two neighbours of one of the 147 bytes, and none
        flat[i, i % 147] = (flat[i, i % 147] + i // 147) % 11
    assert len(np.unique(flat, axis=0)) == cells_of(symbols) == 295
    rooms = np.arange(10, dtype=np.float32)[:, None]
    assert cells_of(rooms, ((0.0, 9.0),)) == 10
    # The position and speed of MountainCar, whose speeds are at most 0.07.
    grid = np.stack(np.meshgrid(np.linspace(-1.2, 0.6, 30), np.linspace(-0.07, 0.07, 30)), -1)
    assert cells_of(grid.reshape(-1, 2), ((-1.2, 0.6), (-0.07, 0.07))) > 800
    largest = float(np.finfo(np.float32).max)
    for bound in (np.inf, largest):
        bounds = ((-bound, bound), (-0.07, 0.07))
        assert 300 < cells_of(grid.reshape(-1, 2), bounds) < 900


def test_the_bounds_of_vectors_are_those_of_the_environment():
    bounds = spaces(TrainConfig(game="CartPole-v1").env).bounds
    assert bounds[0] == pytest.approx((-4.8, 4.8))
    assert bounds[1] == (-math.inf, math.inf) or min(bounds[1]) < -1e30
    assert spaces(TrainConfig(game="MountainCar-v0").env).bounds[0] == pytest.approx((-1.2, 0.6))
    assert spaces(TrainConfig(game="Pong").env).bounds == ()


@pytest.mark.parametrize("kind", KINDS)
def test_what_one_worker_has_seen_is_no_news_to_another(kind):
    observations, counting = play(STACK, steps=1)
    counting[:] = True
    first, counts = make(kind, STACK)
    second, _ = make(kind, STACK, counts)
    alone, _ = make(kind, STACK)
    first(observations[0], counting[0])
    after = second(observations[0], counting[0])
    assert (after < alone(observations[0], counting[0])).all()


@pytest.mark.parametrize(("kind", "learner"), [("pixel-counts", "worker"), ("simhash", "cpu")])
def test_a_run_with_a_bonus_is_deterministic_and_its_checkpoints_keep_the_counts(
    kind, learner, tmp_path
):
    config = dataclasses.replace(SMALL, learner=learner, learner_batch=2)
    found = {}
    for name, bonus in (("one", kind), ("two", kind), ("without", "none")):
        settings = dataclasses.asdict(config) | {"bonus": bonus, "bonus_scale": None}
        settings["run_dir"] = str(tmp_path / name)
        assert train(TrainConfig(**settings), (), make_tiny_env) == 0
        found[name] = newest(tmp_path / name / "latest")
    one, two, without = found.values()
    assert all(torch.equal(one.parameters[n], two.parameters[n]) for n in one.parameters)
    assert torch.equal(one.bonus_counts, two.bonus_counts)
    assert not all(torch.equal(one.parameters[n], without.parameters[n]) for n in one.parameters)
    assert without.bonus_counts is None
    seen = total(kind, one.bonus_counts)
    assert seen == one.global_step if learner == "worker" else seen >= one.global_step

    def logged(name):
        with (resolve_run(tmp_path / name / "latest") / "progress.csv").open() as file:
            return [float(row["bonus"]) for row in csv.DictReader(file) if row["bonus"]]

    assert min(logged("one")) > 0
    assert logged("without") == []


def newest(folder):
    return load_checkpoint(list_checkpoints(resolve_run(folder) / "checkpoints")[-1])


def total(kind, counts):
    """How many observations were counted."""
    return int(counts[:32].sum() if kind == "pixel-counts" else counts.sum())


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_counts_on_and_keeps_its_bonus(kind, tmp_path, capsys):
    settings = dataclasses.asdict(SMALL) | {"bonus": kind, "bonus_scale": None}
    assert train(TrainConfig(**settings | {"run_dir": str(tmp_path)}), (), make_tiny_env) == 0
    folder = resolve_run(tmp_path / "latest")
    again = ["--resume", str(folder), "--total-timesteps", "400"]
    assert train(parse_args(again), (), make_tiny_env) == 0
    checkpoint = newest(folder)
    assert total(kind, checkpoint.bonus_counts) == checkpoint.global_step >= 400
    other = next(k for k in ("none", *KINDS) if k != kind)
    for flags in (["--bonus", other, "--bonus-scale", "0"], ["--bonus-scale", "0.5"]):
        with pytest.raises(SystemExit):
            parse_args([*again, *flags])
        assert f"{flags[0]} {flags[1]}: cannot change when a run is resumed" in (
            capsys.readouterr().err.replace("0.0:", "0:")
        )


def test_workers_in_processes_count_together(tmp_path):
    settings = dataclasses.asdict(SMALL) | {"bonus": "pixel-counts", "bonus_scale": None}
    settings |= {"run_dir": str(tmp_path), "workers": 2, "processes": 2, "total_timesteps": 400}
    assert train(TrainConfig(**settings), (), make_tiny_env) == 0
    checkpoint = newest(tmp_path / "latest")
    # What both count at the same moment may be lost, and the last rollouts are not learned from.
    seen = total("pixel-counts", checkpoint.bonus_counts)
    assert 0.9 * checkpoint.global_step < seen < checkpoint.global_step + 100


def damaged(counts):
    return {"missing": None, "size": counts[1:], "type": counts.float(), "sign": -counts - 1}


@pytest.mark.parametrize("damage", ["missing", "size", "type", "sign"])
def test_a_checkpoint_with_other_counts_is_played_but_not_resumed(damage, tmp_path):
    settings = dataclasses.asdict(SMALL) | {"bonus": "simhash", "run_dir": str(tmp_path)}
    settings |= {"bonus_scale": None, "total_timesteps": 20}
    assert train(TrainConfig(**settings), (), make_tiny_env) == 0
    path = list_checkpoints(resolve_run(tmp_path / "latest") / "checkpoints")[-1]
    whole = load_checkpoint(path)
    write_checkpoint(
        path, dataclasses.replace(whole, bonus_counts=damaged(whole.bonus_counts)[damage])
    )
    load_checkpoint(path, whole.parameters)
    with pytest.raises(CheckpointError, match="the counts of its bonus"):
        load_checkpoint(path, whole.parameters, 2, whole.bonus_counts)


def test_what_cannot_be_counted_is_refused_by_name():
    config = TrainConfig(game="CartPole-v1", bonus="pixel-counts")
    with pytest.raises(SettingError, match=r"--bonus pixel-counts: .*CartPole-v1 are vectors"):
        num_counters(config, Spaces(2, VECTOR))
    with pytest.raises(SettingError, match=r"--bonus pixel-counts: .*too many pixels"):
        num_counters(config, Spaces(2, (3, 41, 400)))
    with pytest.raises(
        SettingError, match=r"--bonus-scale 0\.1: needs --bonus pixel-counts or --bonus simhash$"
    ):
        TrainConfig(bonus_scale=0.1)


def test_all_that_the_settings_name_can_be_made():
    assert {"none", *BONUSES} == set(choices("bonus"))


def test_a_frame_that_is_new_in_many_pixels_stays_near_the_most_for_a_while():
    bonus, _ = make("pixel-counts", STACK)
    background, one = np.zeros((1, *STACK), np.uint8), np.array([True])
    for _ in range(500):
        bonus(background, one)
    sprite, dot = background.copy(), background.copy()
    sprite[..., 10:18, 10:18], dot[..., 40:42, 40:42] = 200, 200  # 16 pixels and one, of 42x42
    most = SCALE * 10
    assert [float(bonus(sprite, one)[0]) / most for _ in range(2)] == pytest.approx([1, 1], 1e-2)
    assert [float(bonus(dot, one)[0]) / most for _ in range(2)] == pytest.approx([1, 0.1], 1e-2)


def test_the_default_scale_is_the_usual_one_of_the_bonus():
    scales = [TrainConfig(bonus=bonus).bonus_scale for bonus in ("none", *KINDS)]
    assert scales == [0, 0.05, 0.01]


def test_the_network_has_the_same_parameters_with_and_without_a_bonus():
    plain, with_bonus = (ActorCritic(Spaces(3), TrainConfig(bonus=b)) for b in ("none", KINDS[0]))
    assert {n: p.shape for n, p in plain.named_parameters()} == {
        n: p.shape for n, p in with_bonus.named_parameters()
    }
