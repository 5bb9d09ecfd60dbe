"""Write a report on a trained agent: one HTML file that opens in a browser.

    python -m agents.report runs/latest

It plays sampled, greedy and random episodes for the table of scores, and shows the sampled episode
of median score beside what the network selected at every step. The file is self-contained. Progress
goes to stderr. Exit code 0; 2 for invalid arguments or files; 130 after Ctrl-C, with nothing
written.
"""

import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from agents.cli import (
    DEFAULT_SEED,
    CommandParser,
    positive_count,
    run_command,
    seed_number,
    use_one_thread,
    warn_of_assumptions,
)

if TYPE_CHECKING:
    from agents.config import TrainConfig
    from agents.evaluation.load_agent import LoadedAgent


ENDINGS = (".html", ".htm")
# Shown elsewhere on the page, or specific to the machine.
_HIDDEN_SETTINGS = {"game", "head", "core", "torso", "run_dir", "resume", "quiet"}


def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line, play, write the page, and return the exit code."""
    use_one_thread()
    parser = _parser()
    args = parser.parse_args(argv)

    from agents.run_folder import open_run
    from agents.system.files import write_atomically
    from agents.system.output import print_to_stdout
    from agents.system.resources import require_opencv

    require_opencv()
    from agents.evaluation.load_agent import load_agent

    folder, config = open_run(args.run)
    warn_of_assumptions(folder)
    out = folder / "report.html" if args.out is None else Path(args.out)
    _check(out, parser)  # before minutes of playing
    agent = load_agent(folder, config, args.checkpoint)
    page = report(folder, config, agent, args.episodes, args.mode, args.seed)
    data = page.encode(errors="backslashreplace")  # a folder's name may not be UTF-8
    try:
        write_atomically(out, data)
    except OSError as error:
        parser.error(f"--out {out}: cannot be written ({error.strerror or error})")
    print_to_stdout(f"written to {out} ({len(data) / 1e6:.1f} MB)")
    return 0


def report(
    folder: Path,
    config: "TrainConfig",
    agent: "LoadedAgent",
    episodes: int,
    mode: str,
    seed: int,
) -> str:
    """Play, and render the page.

    Args:
        folder: The run directory, links resolved.
        config: The run's settings.
        agent: The run's agent.
        episodes: Number of episodes for the table, in each mode.
        mode: Mode of the episode shown, "sampled" or "greedy".
        seed: Seed of the episodes.

    Returns:
        The HTML.

    Raises:
        VideoError: If the video cannot be written.
    """
    import torch

    from agents.analysis.report.chart_data import read_points
    from agents.analysis.report.data import median_episode
    from agents.analysis.report.episode import play_episodes, show_episode
    from agents.analysis.report.page import ReportHeader, make_page
    from agents.config import flag, non_defaults
    from agents.evaluation.results import summarise
    from agents.evaluation.runner import MODES

    torch.set_num_threads(1)
    network = agent.network
    games = {each: play_episodes(network, config, each, episodes, seed) for each in MODES}
    shown = show_episode(network, config, mode, median_episode(games[mode]).seed)
    settings = [
        (flag(name), _value(value))
        for name, value in non_defaults(config).items()
        if name not in _HIDDEN_SETTINGS
    ]
    sizes = [
        sum(p.numel() for p in part.parameters())
        for part in (network, network.actor, network.critic)
    ]
    header = ReportHeader(
        run=folder.name,
        env=config.env,
        head=config.head,
        core=config.core,
        torso=network.torso.kind,
        rewards=config.learned_rewards,
        parameters=(sizes[0], sizes[1], sizes[2]),
        checkpoint=agent.checkpoint,
        global_step=agent.global_step,
        settings=settings,
        date=datetime.now(),
    )
    summaries = [summarise(config.game, played) for played in games.values()]
    return make_page(header, summaries, read_points(folder), shown)


def _check(out: Path, parser: CommandParser) -> None:
    if out.suffix.lower() not in ENDINGS:
        parser.error(f"--out {out}: must end in {' or '.join(ENDINGS)}")
    if not out.parent.is_dir():
        parser.error(f"--out {out}: there is no folder {out.parent}")
    if out.is_dir() or not os.access(out.parent, os.W_OK):
        parser.error(f"{out} cannot be written; --out names another file")


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="python -m agents.report",
        description=__doc__.partition("\n")[0],
    )
    parser.add_argument("run", metavar="RUN", help="run directory, such as runs/latest")
    parser.add_argument(
        "--episodes",
        type=positive_count,
        default=10,
        metavar="N",
        help="episodes in each mode",
    )
    parser.add_argument(
        "--mode",
        choices=("sampled", "greedy"),
        default="sampled",
        help="mode of the episode shown, the one of median score",
    )
    parser.add_argument(
        "--checkpoint",
        default="latest",
        metavar="latest|best|FILE",
        help="parameters to play with",
    )
    parser.add_argument(
        "--seed",
        type=seed_number,
        default=DEFAULT_SEED,
        metavar="S",
        help="seed of the episodes",
    )
    parser.add_argument("--out", metavar="FILE", help="the page, ending in .html (RUN/report.html)")
    return parser


if __name__ == "__main__":
    run_command(main, "python -m agents.report")
