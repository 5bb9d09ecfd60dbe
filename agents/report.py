"""Write what is to be known of a trained agent into one HTML file, to open in a browser.

    python -m agents.report runs/latest

It plays sampled, greedy and random games for the table of scores, and shows the sampled game of
median score beside what the network selected at every decision. The file needs no network and
nothing beside it. Progress goes to stderr. Exit code 0; 2 for what cannot be used; 130 after
Ctrl-C, with nothing written.
"""

import dataclasses
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from agents.cli import CommandParser
from agents.evaluate import DEFAULT_SEED, episode_count, seed_number

if TYPE_CHECKING:
    from agents.analysis.report.page import Points
    from agents.config import TrainConfig
    from agents.evaluation.load_agent import LoadedAgent

ENDINGS = (".html", ".htm")
# Those of one's own machine, or of the moment.
_NO_SETTINGS_OF_THE_AGENT = {"game", "head", "core", "torso", "run_dir", "resume", "quiet"}


def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line, play, write the page, and return the exit code."""
    parser = _parser()
    args = parser.parse_args(argv)

    from agents.checkpoint import CheckpointError
    from agents.errors import MachineError
    from agents.run_folder import RunFolderError, open_run
    from agents.system.resources import require_opencv

    try:
        require_opencv()
        from agents.evaluation.load_agent import load_agent
        from agents.evaluation.video import VideoError

        folder, config = open_run(args.run)
        out = folder / "report.html" if args.out is None else Path(args.out)
        _check(out, parser)  # before minutes of playing
        agent = load_agent(folder, config, args.checkpoint)
    except (MachineError, RunFolderError, CheckpointError) as error:
        parser.error(str(error))
    try:
        page = report(folder, config, agent, args.episodes, args.mode, args.seed)
    except VideoError as error:
        parser.error(str(error))

    from agents.system.files import write_atomically

    data = page.encode()
    try:
        write_atomically(out, data)
    except OSError as error:
        parser.error(f"--out {out}: cannot be written ({error.strerror or error})")
    print(f"written to {out} ({len(data) / 1e6:.1f} MB)")
    return 0


def report(
    folder: Path,
    config: "TrainConfig",
    agent: "LoadedAgent",
    episodes: int,
    mode: str,
    seed: int,
) -> str:
    """Play, and make the page.

    Args:
        folder: of the run, links resolved.
        config: of the run.
        agent: of the run.
        episodes: games for the table, in each mode.
        mode: of the game that is shown, "sampled" or "greedy".
        seed: of the games.

    Raises:
        VideoError: if its video cannot be written.
    """
    import torch

    from agents.analysis.report.data import median_episode
    from agents.analysis.report.episode import play_games, show_game
    from agents.analysis.report.page import ReportHeader, make_page
    from agents.config import flag
    from agents.evaluation.results import summarise
    from agents.evaluation.runner import MODES

    torch.set_num_threads(1)
    network = agent.network
    games = {each: play_games(network, config, each, episodes, seed) for each in MODES}
    shown = show_game(network, config, mode, median_episode(games[mode]).seed)
    settings = [
        (flag(spec.name), _value(getattr(config, spec.name)))
        for spec in dataclasses.fields(config)
        if getattr(config, spec.name) != spec.default and spec.name not in _NO_SETTINGS_OF_THE_AGENT
    ]
    sizes = [
        sum(p.numel() for p in part.parameters())
        for part in (network, network.actor, network.critic)
    ]
    header = ReportHeader(
        run=folder.name,
        atari=config.atari,
        head=config.head,
        core=config.core,
        torso=config.torso,
        parameters=(sizes[0], sizes[1], sizes[2]),
        checkpoint=agent.checkpoint,
        global_step=agent.global_step,
        settings=settings,
        date=datetime.now(),
    )
    summaries = [summarise(config.game, played) for played in games.values()]
    return make_page(header, summaries, read_points(folder), shown)


def read_points(folder: Path) -> "dict[str, Points]":
    """The learning curve of a run, and its evaluations while training; what there is of them."""
    from agents.analysis.learning_curves import NoDataError, read_curve
    from agents.evaluation.results import TRAINING, read_evaluations
    from agents.run_folder import RunFolderError

    points: dict[str, Points] = {}
    try:
        curve = read_curve(folder)
        points["training"] = (curve.steps.tolist(), curve.values.tolist())
    except NoDataError:
        pass
    except RunFolderError as error:
        if (folder / "progress.csv").exists():
            print(f"warning: no learning curve: {error}", file=sys.stderr)
    try:
        rows = read_evaluations(folder)
    except OSError as error:
        print(f"warning: no evaluations: {error}", file=sys.stderr)
        rows = []
    for mode in ("sampled", "greedy"):
        # A resumed run may have been evaluated twice at a step: the later one counts.
        found = {
            float(row.global_step): row.summary.mean
            for row in rows
            if row.source == TRAINING and row.summary.mode == mode and row.global_step is not None
        }
        if found:
            points[mode] = (sorted(found), [found[step] for step in sorted(found)])
    return points


def _check(out: Path, parser: CommandParser) -> None:
    if out.suffix.lower() not in ENDINGS:
        parser.error(f"--out {out}: must end in {' or '.join(ENDINGS)}")
    if not out.parent.is_dir():
        parser.error(f"--out {out}: there is no folder {out.parent}")
    if out.is_dir() or not os.access(out.parent, os.W_OK):
        parser.error(f"--out {out}: cannot be written")


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="python -m agents.report",
        description=__doc__.partition("\n")[0],
        allow_abbrev=False,
    )
    parser.add_argument("run", metavar="RUN", help="folder of a run, such as runs/latest")
    parser.add_argument(
        "--episodes", type=episode_count, default=10, metavar="N", help="games in each mode (10)"
    )
    parser.add_argument(
        "--mode",
        choices=("sampled", "greedy"),
        default="sampled",
        help="of the game that is shown: that of median score (sampled)",
    )
    parser.add_argument(
        "--checkpoint",
        default="latest",
        metavar="latest|best|PATH",
        help="which parameters to play with (latest)",
    )
    parser.add_argument(
        "--seed",
        type=seed_number,
        default=DEFAULT_SEED,
        metavar="S",
        help=f"of the games ({DEFAULT_SEED})",
    )
    parser.add_argument("--out", metavar="FILE", help="the page, ending in .html (RUN/report.html)")
    return parser


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
