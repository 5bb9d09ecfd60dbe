"""The entry point of training, on one machine or on several."""

from collections.abc import Sequence

from agents.a3c.worker_group import EnvironmentFactory, make_training_env
from agents.config import TrainConfig


def train(
    config: TrainConfig,
    argv: Sequence[str] = (),
    make_env: EnvironmentFactory = make_training_env,
) -> int:
    """Train until the budget is spent, a signal comes, or the run fails.

    A script that calls this with worker processes needs `if __name__ == "__main__":`, because they
    import the script.

    Args:
        config: The settings; with `resume`, that run is resumed from its newest intact checkpoint,
            and the settings must equal the run's, except for those that may change on resume.
        argv: The command line, kept in `meta.json`.
        make_env: Makes the environments of a process from the settings and their seeds, one each:
            any Gymnasium `VectorEnv` that `spaces_of` accepts. Training resets it without a
            seed, so `make_env` must use the seeds, as by `env.reset(seed=seeds.tolist())`. It must
            be importable by name, because it is sent to other processes. Evaluation plays what
            `config.game` names, with a warning, and is left out if that cannot be played or has
            other spaces.

    Returns:
        The exit code: 0; 1 after a failure, or if the last checkpoint, or a result or video of an
        evaluation, could not be written; otherwise 130 after Ctrl-C, 143 after SIGTERM, 129 after
        SIGHUP.

    Raises:
        RunFolderError: If `resume` is not a run directory.
        SettingError: If the run directory cannot be written to, the run cannot be resumed with
            these settings, this machine is too small for the workers or the network, or the
            cluster cannot be reached.
        UserError: If this process is a worker that imports the calling script.
    """
    if config.uses_cluster:
        from agents.cluster.pool import train_on_cluster

        return train_on_cluster(config, argv, make_env)
    from agents.training import supervisor

    return supervisor.train(config, argv, make_env)
