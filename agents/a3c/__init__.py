"""A3C itself, without processes: rollouts, returns, losses, gradients, worker and learner."""
