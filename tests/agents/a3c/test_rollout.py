"""What the collector writes down, against an environment whose every step is scripted."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, VectorEnv

from agents.a3c.collector import Collector, sample_actions
from agents.a3c.rollout import UnrollOutput, unroll, unroll_workers
from agents.config import TrainConfig
from agents.networks.actor_critic import ActorCritic
from agents.networks.flat_parameters import repeat_parameters
from envs import Spaces

GAMMA, LAMBDA = 0.9, 0.8

# One environment, ten steps, and what each brings. "end": game over; "cut": frame limit reached;
# "life": a life is lost; "new": the ignored step behind an end; "cut+life": both at once.
SCRIPT = ["", "life", "end", "new", "", "cut", "new", "", "cut+life", "new"]


class ScriptedEnv(VectorEnv):
    """Observation number n is filled with n; its reward for leaving it is 10 * n."""

    metadata: ClassVar = {"autoreset_mode": AutoresetMode.NEXT_STEP}
    num_envs = 1
    single_observation_space = Box(0, 255, (4, 84, 84), np.uint8)
    single_action_space = Discrete(3)

    def __init__(self, script=SCRIPT):
        self.script, self.steps, self.actions = script, 0, []
        self.lives = 1000

    def reset(self):
        return self._screen(), {"lives": np.array([self.lives])}

    def step(self, actions):
        what = self.script[self.steps % len(self.script)]
        self.steps += 1
        self.actions.append(int(actions[0]))
        ended = "end" in what or "cut" in what
        # Lives fall at the end of an episode too, and between two episodes: neither is a lost life.
        self.lives -= "life" in what or what in ("end", "new")
        info = {"lives": np.array([self.lives])}
        if ended:
            info["episode"] = {"r": np.array([self.steps]), "l": np.array([self.steps])}
            info["_episode"] = np.array([True])
        return (
            self._screen(),
            np.array([10.0 * (self.steps - 1)], dtype=np.float32),
            np.array(["end" in what]),
            np.array(["cut" in what]),
            info,
        )

    def close(self):
        pass

    def _screen(self):
        return np.full((1, 4, 84, 84), self.steps % 256, dtype=np.uint8)


def make_collector(core="none", num_steps=10, script=SCRIPT, life_loss_ends_return=True):
    torch.manual_seed(0)
    network = ActorCritic(Spaces(3), TrainConfig(core=core, head="linear"))
    collector = Collector(
        ScriptedEnv(script),
        network,
        num_steps=num_steps,
        gamma=GAMMA,
        gae_lambda=LAMBDA,
        life_loss_ends_return=life_loss_ends_return,
        generators=[np.random.default_rng(1)],
    )
    return collector, network


def collect(collector):
    [rollout] = collector.make_rollouts().unbind()
    collector.collect([rollout])
    return rollout


def test_each_kind_of_end_gets_its_own_discount_and_trace():
    rollout = collect(make_collector()[0])
    discounts = [GAMMA, 0, 0, GAMMA, GAMMA, GAMMA, GAMMA, GAMMA, 0, GAMMA]
    traces = [LAMBDA] * 5 + [0] + [LAMBDA] * 2 + [0, LAMBDA]
    assert rollout.discounts[:, 0].tolist() == pytest.approx(discounts)
    assert rollout.lambdas[:, 0].tolist() == pytest.approx(traces)


def test_a_lost_life_ends_no_return_where_it_shall_not():
    ending = collect(make_collector()[0]).discounts[:, 0]
    lasting = collect(make_collector(life_loss_ends_return=False)[0]).discounts[:, 0]
    lost = [t for t, what in enumerate(SCRIPT) if "life" in what]
    assert lost
    assert [t for t in range(len(SCRIPT)) if ending[t] != lasting[t]] == lost
    assert all(lasting[t] == pytest.approx(GAMMA) for t in lost)


def test_the_step_behind_an_end_does_not_count():
    rollout = collect(make_collector()[0])
    expected = [what != "new" for what in SCRIPT]
    assert rollout.mask[:, 0].tolist() == expected


def test_starts_mark_the_first_observation_of_each_new_game():
    rollout = collect(make_collector()[0])
    expected = [True] + [what == "new" for what in SCRIPT]
    assert rollout.episode_starts[:, 0].tolist() == expected


def test_observations_actions_and_raw_rewards_stand_side_by_side():
    collector, _ = make_collector()
    rollout = collect(collector)
    assert rollout.observations[:, 0, 0, 0, 0].tolist() == list(range(len(SCRIPT) + 1))
    assert rollout.rewards[:, 0].tolist() == [10.0 * n for n in range(len(SCRIPT))]
    assert rollout.actions[:, 0].tolist() == collector.env.actions


def test_actions_are_drawn_with_the_policys_probabilities():
    policy = np.array([[0.5, 0.3, 0.15, 0.05], [0.01, 0.01, 0.01, 0.97]])
    random, draws = np.random.default_rng(0), 40_000
    logits = np.log(policy).astype(np.float32) + 3  # a constant changes nothing
    drawn = np.array([sample_actions(logits, random.gumbel(size=(2, 4))) for _ in range(draws)])
    assert drawn.dtype == np.int64
    assert drawn.shape == (draws, 2)
    for column, expected in zip(drawn.T, policy, strict=True):
        seen = np.bincount(column, minlength=4) / draws
        deviation = np.sqrt(expected * (1 - expected) / draws)
        assert (np.abs(seen - expected) < 4 * deviation).all()
    together = np.mean((drawn[:, 0] == 0) & (drawn[:, 1] == 3))
    assert abs(together - 0.5 * 0.97) < 0.01  # one game's action says nothing of another's


def test_the_next_rollout_goes_on_where_the_last_one_stopped():
    collector, _ = make_collector(num_steps=4)
    collect(collector)
    rollout = collect(collector)
    assert rollout.observations[:, 0, 0, 0, 0].tolist() == [4, 5, 6, 7, 8]
    assert rollout.episode_starts[:, 0].tolist() == [True, False, False, True, False]


def test_finished_games_are_reported_once():
    collector, _ = make_collector(num_steps=5)
    for lengths in ([3], [6, 9]):
        collect(collector)
        assert [[episode.length for episode in each] for each in collector.episodes] == [lengths]


@pytest.mark.parametrize("core", ["none", "lstm"])
def test_learning_sees_the_policy_and_values_that_acted(core):
    """The recurrent state is carried and zeroed alike when acting step by step and all at once."""
    collector, network = make_collector(core, num_steps=7)
    acted = []
    policy = network.act_logits

    def spy(*args):
        logits, state = policy(*args)
        acted.append(logits)
        return logits, state

    rollouts = collector.make_rollouts()
    [rollout] = rollouts.unbind()
    cache = network.torso.make_cache(rollout.observations[:-1].flatten(0, 1).unsqueeze(0))
    collector.collect([rollout], cache)
    network.act_logits = spy
    collector.collect([rollout], cache)
    assert len(acted) == 7
    parameters = repeat_parameters(network, 1)
    of_worker = unroll_workers(network, rollouts, cache.features, parameters)
    of_worker = UnrollOutput(*(output[0] for output in of_worker))
    for learned in (unroll(network, rollout), of_worker):
        torch.testing.assert_close(torch.stack(acted), learned.logits.detach())
        torch.testing.assert_close(
            learned.bootstrap_value, unroll(network, rollout).bootstrap_value
        )
        torch.testing.assert_close(learned.values, unroll(network, rollout).values)
    torch.testing.assert_close(torch.stack(acted), rollout.behaviour_logits)


def test_the_recurrent_state_outlives_a_lost_life_and_not_a_game():
    network = make_collector("lstm")[1]
    screens = torch.randint(0, 255, (1, 1, 4, 84, 84), dtype=torch.uint8)
    state = torch.randn(2, 1, 256)
    with torch.no_grad():
        carried = network(screens, state, torch.tensor([[False]])).logits
        restarted = network(screens, state, torch.tensor([[True]])).logits
        fresh = network(screens, network.initial_state(1), torch.tensor([[False]])).logits
    torch.testing.assert_close(restarted, fresh)
    assert not torch.allclose(carried, fresh)


def test_actions_follow_the_policy():
    collector, network = make_collector(num_steps=3000, script=[""])
    with torch.no_grad():
        network.actor.weight.zero_()
        network.actor.bias.copy_(torch.tensor([0.6, 0.3, 0.1]).log())
    counts = torch.bincount(collect(collector).actions[:, 0], minlength=3) / 3000
    assert counts.tolist() == pytest.approx([0.6, 0.3, 0.1], abs=0.04)
