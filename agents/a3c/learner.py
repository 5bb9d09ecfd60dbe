"""An IMPALA-style learner: one central learner with V-trace, for rollouts of many workers."""

from agents.a3c.gradients import orthogonality_gradient
from agents.a3c.losses import a3c_loss, log_prob
from agents.a3c.parameter_store import ParameterStore
from agents.a3c.returns import transform_rewards, vtrace
from agents.a3c.rollout import Rollout, unroll
from agents.a3c.update import Update, push_gradient, share_observations
from agents.config import TrainConfig
from agents.networks.actor_critic import ActorCritic
from agents.networks.flat_parameters import FlatParameters


class Learner:
    """Learns from rollouts that were played with slightly older parameters.

    Args:
        config: The settings.
        network: The network, on the learner's device.
        flat: Its flat parameters and gradients.
        store: Applies the gradients to these parameters.
    """

    def __init__(
        self, config: TrainConfig, network: ActorCritic, flat: FlatParameters, store: ParameterStore
    ) -> None:
        self.config, self.network, self.flat, self.store = config, network, flat, store

    def update(self, rollout: Rollout) -> Update:
        """Make one update, as in `WorkerGroup.updates`, but with V-trace for the returns."""
        output = unroll(self.network, rollout)
        log_ratios = log_prob(output.logits.detach(), rollout.actions) - log_prob(
            rollout.behaviour_logits, rollout.actions
        )
        returns, advantages = vtrace(
            transform_rewards(rollout.rewards, self.config.reward) + rollout.bonuses,
            rollout.discounts,
            rollout.lambdas,
            output.values.detach(),
            output.bootstrap_value,
            log_ratios,
        )
        share_observations(self.network, self.store, rollout.observations[:-1])
        loss = a3c_loss(
            output.logits,
            output.values,
            rollout.actions,
            returns,
            advantages,
            rollout.mask,
            vf_coef=self.config.vf_coef,
            ent_coef=self.config.ent_coef,
        )
        self.flat.gradients.zero_()
        loss.total.backward()
        orthogonality = orthogonality_gradient(self.network, self.config)
        return push_gradient(
            self.flat, self.store, self.config, rollout, loss, orthogonality, episodes=[]
        )
