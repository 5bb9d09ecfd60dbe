"""Train a Neurocoder A3C agent on an Atari game.

    python train_a3c.py --game Frostbite --workers 16

`--help` lists the settings; the README says more.
"""

import os
import signal
import sys

# Until there is a run to save, there is nothing to do but leave. An exception raised in the middle
# of an import would not say so.
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: os._exit(128 + number))

# Before anything imports torch, here and (by inheritance) in every process started from here: with
# one process for each core, more threads would only take turns.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")


def main() -> int:
    """Read the command line, train, and return the exit code."""
    from agents.cli import parse_args
    from agents.config import SettingError
    from agents.system.resources import require_opencv

    config = parse_args(sys.argv[1:])
    if config.workers > 0:
        from agents.system.processes import process_context
        from agents.training import FORKSERVER_PRELOAD

        process_context(FORKSERVER_PRELOAD)  # loads torch for the workers while it is loaded here
    try:
        require_opencv()
        from agents.training.supervisor import train

        return train(config, sys.argv)
    except SettingError as error:
        print(f"train_a3c.py: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
