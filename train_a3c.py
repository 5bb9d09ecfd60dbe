"""Train a Neurocoder A3C agent on an Atari game.

    python train_a3c.py --game Frostbite --workers 16

`--help` lists the settings; the README says more.
"""

import sys

from agents.system.signals import exit_on_stop_signals

# Until there is a run to save. A KeyboardInterrupt in the middle of an import would print a
# traceback, so this comes before the slow imports.
exit_on_stop_signals()
# For environments of one's own, as with `python -m`: Python itself adds the folder of this file.
sys.path.append("")


def main() -> int:
    """Read the command line, train, and return the exit code."""
    from agents.cli import parse_args, use_one_thread
    from agents.system.resources import require_opencv

    use_one_thread()  # processes started from here inherit this
    config = parse_args(sys.argv[1:])
    if config.workers > 0:
        from agents.system.processes import process_context
        from agents.training import FORKSERVER_PRELOAD

        process_context(FORKSERVER_PRELOAD)  # loads torch for the workers while it is loaded here
    require_opencv()
    from agents.launch import train

    return train(config, sys.argv)


if __name__ == "__main__":
    from agents.cli import run_command

    run_command(main, "train_a3c.py")
