"""The processes of a training run, what they share, and their supervisor."""

# What the fork server imports once for all the processes it forks.
FORKSERVER_PRELOAD = "agents.training.forkserver_preload"
