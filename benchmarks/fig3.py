"""The comparison of the paper's Fig. 3: train, evaluate and plot games x variants x seeds.

    python -m benchmarks.fig3 --games Frostbite MontezumaRevenge --seeds 5 --frames 4000000

A variant is a head or one of its ablations; the suffix `-lstm` adds a recurrent core, `-skip12`
repeats actions for 12 frames, `-pixel-counts` and `-simhash` add a bonus. Runs are trained one
after another with `train_a3c.py`, or side by side with `--cluster`. Then the newest checkpoint of
each, never `best`, plays whole episodes.
The suite writes `runs/`, `logs/`, `table.md`, `results.json`, `curves.png` and `curves.csv` to its
folder.

Ctrl-C saves the current run. Repeating the command resumes interrupted runs and skips finished
ones; games, variants and seeds can be added. Arguments after `--` go to every training:
`-- --learning-rate 1e-4`. Exit code 0; 1 if a run failed; 2 for invalid arguments; 130, 143 or 129
after Ctrl-C, SIGTERM or SIGHUP.
"""

import argparse
import dataclasses
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agents.analysis.learning_curves import read_curve
from agents.analysis.plotting import require_plotting
from agents.cli import CommandParser, parse_args, positive_count, run_command, whole_number
from agents.config import TrainConfig
from agents.evaluation.results import EvaluationRow, read_evaluations
from agents.plot import write_curves
from agents.run_folder import RunFolderError
from agents.system.signals import StopSignals
from benchmarks.cluster_suite import ClusterSuite, connect
from benchmarks.planned_runs import (
    Planned,
    evaluation_past,
    last_checkpoint,
    read_rate,
    training_past,
)
from benchmarks.suite import Suite
from benchmarks.system_info import describe, system_info
from benchmarks.tables import Result, milestones_table, table, target_table
from benchmarks.variants import (
    SUFFIXES,
    VARIANTS,
    Parameters,
    as_flags,
    count_parameters,
    match_neurocoder,
    settings_of,
    variant_name,
)
from envs import EnvConfig, Spaces, spaces

PROG = "python -m benchmarks.fig3"
EVALUATE = (sys.executable, "-m", "agents.evaluate")
SAMPLED, GREEDY, RANDOM = "sampled", "greedy", "random"
GAME_SEED = 1
# Flags that the suite itself sets.
_TAKEN = (
    *("--game", "--seed", "--total-timesteps", "--workers", "--run-dir", "--resume"),
    *("--head", "--core"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line, train, evaluate, draw, and return the exit code."""
    parser = _parser()
    words = list(sys.argv[1:] if argv is None else argv)
    end = words.index("--") if "--" in words else len(words)
    args = parser.parse_args(words[:end])
    more = words[end + 1 :]
    for word in more:
        if word.partition("=")[0] in _TAKEN:
            parser.error(f"{word} is set by the suite, it cannot follow --")
    if args.cluster is not None:
        connect(args.cluster)
    with StopSignals() as signals:
        require_plotting()
        planned, parameters = plan(args, more)
        suite = _suite(args, planned, signals)
        print(f"{len(planned)} runs of {describe_budget(planned)}", end=", ")
        print(f"in {args.out}; {suite.time_left()}", flush=True)
        try:
            suite.train(lambda one: evaluate(suite, one, args.episodes))
            results = gather(suite, parameters, args.episodes, args.target)
            write_results(suite, args, words, results)
        finally:
            suite.close()
    if signals.received is not None:
        print("stopped; repeat the command to resume")
        return 128 + signals.received
    return 1 if len(results) < len(planned) else 0


def _suite(args: argparse.Namespace, planned: Sequence[Planned], signals: StopSignals) -> Suite:
    if args.cluster is None:
        return Suite(args.out, planned, signals)
    return ClusterSuite(args.out, planned, signals, args.cpus_per_run)


def plan(
    args: argparse.Namespace, more: Sequence[str]
) -> tuple[list[Planned], dict[tuple[str, str], Parameters]]:
    """The runs to train, seed by seed, so that an interrupted comparison is still balanced.

    Args:
        args: The parsed command line.
        more: Further flags of every training.

    Returns:
        The planned runs, and (game, variant) -> parameter counts.

    Raises:
        SettingError: For an invalid setting.
        UnmatchableError: If parameter counts cannot be matched.
    """
    out = args.out.resolve()
    flags: dict[tuple[str, str], list[str]] = {}
    parameters: dict[tuple[str, str], Parameters] = {}
    for game in args.games:
        sizes_of_spaces: Spaces | None = None
        for name in args.variants:
            own = as_flags(settings_of(name))
            frame_skip = parse_args(["--game", game, *more, *own]).frame_skip
            budget = args.steps if args.steps is not None else -(-args.frames // frame_skip)
            common = ["--game", game, "--total-timesteps", str(budget)]
            common += ["--workers", str(args.workers), "--run-dir", str(out / "runs"), *more]
            common += ["--core", args.core, *own]
            config = parse_args(common)
            sizes_of_spaces = sizes_of_spaces or spaces(config.env)
            shown = name
            if args.match == "parameters" and (sizes := match_neurocoder(config, sizes_of_spaces)):
                common += as_flags(sizes)
                config = dataclasses.replace(config, **sizes)
                shown += ", " + ", ".join(
                    f"{field.split('_', 1)[1].replace('_', ' ')} {size}"
                    for field, size in sizes.items()
                )
            flags[config.game, shown] = common
            parameters[config.game, shown] = count_parameters(config, sizes_of_spaces)
    planned = []
    for seed in range(1, args.seeds + 1):
        for (_, shown), words in flags.items():
            words = [*words, "--seed", str(seed)]
            planned.append(Planned(shown, parse_args(words), tuple(words)))
    return planned, parameters


def evaluate(suite: Suite, planned: Planned, episodes: int) -> None:
    """Evaluate a run's newest checkpoint, and random play once per game, unless already done."""
    folder = suite.find(planned)
    assert folder is not None

    def scores() -> dict[str, EvaluationRow | None]:
        found = {mode: find_evaluation(folder, mode, episodes) for mode in (SAMPLED, GREEDY)}
        return {**found, RANDOM: random_play(suite, planned.config.env, episodes)}

    missing = [mode for mode, found in scores().items() if found is None]
    if not missing:
        return
    title = f"    {episodes} episodes each, {', '.join(missing)} ..."
    command = [*EVALUATE, str(folder), "--episodes", str(episodes), "--seed", str(GAME_SEED)]
    log = suite.logs / planned.file_name
    code = suite.run_child([*command, *_mode_flags(missing)], log, lambda: title)
    found = {mode: evaluation for mode, evaluation in scores().items() if mode in missing}
    played = [f"{mode} {e.summary.mean:.1f}" for mode, e in found.items() if e is not None]
    if len(played) < len(missing):
        played.append("stopped" if suite.stopped else f"failed (exit code {code}) [{log}]")
    suite.console.print(f"{title} {', '.join(played)}")


def _mode_flags(modes: Sequence[str]) -> list[str]:
    """The flags of `agents.evaluate` for some of sampled, greedy and random play."""
    trained = [mode for mode in modes if mode != RANDOM]
    if not trained:
        return ["--mode", RANDOM]
    more = ["--random"] if RANDOM in modes else []
    return ["--mode", trained[0] if len(trained) == 1 else "both", *more]


def find_evaluation(folder: Path, mode: str, episodes: int) -> EvaluationRow | None:
    """The evaluation of a run's newest checkpoint over that number of episodes, if there is one."""
    step = None if mode == RANDOM else last_checkpoint(folder)
    found = None
    for row in read_evaluations(folder):
        is_wanted = (row.source, row.summary.mode, row.global_step, row.seed) == (
            *("evaluate", mode, step, GAME_SEED),
        )
        is_best = not (row.checkpoint.startswith("step_") or mode == RANDOM)
        if is_wanted and not is_best and row.summary.episodes == episodes:
            found = row
    return found


def random_play(suite: Suite, env: EnvConfig, episodes: int) -> EvaluationRow | None:
    """The evaluation of random play in this environment, from any run that uses it."""
    for planned in suite.planned:
        folder = suite.find(planned) if planned.config.env == env else None
        if folder is not None and (found := find_evaluation(folder, RANDOM, episodes)):
            return found
    return None


def random_scores(suite: Suite, episodes: int) -> dict[tuple[str, str], float]:
    """(Game, name in the table) -> mean score of random play, which depends on the frame skip."""
    envs: dict[str, dict[EnvConfig, None]] = {}
    for planned in suite.planned:
        envs.setdefault(planned.config.game, {})[planned.config.env] = None
    scores = {}
    for game, of_game in envs.items():
        for env in of_game:
            name = RANDOM if len(of_game) == 1 else f"{RANDOM}-skip{env.frame_skip}"
            if played := random_play(suite, env, episodes):
                scores[game, name] = played.summary.mean
    return scores


def gather(
    suite: Suite,
    parameters: dict[tuple[str, str], Parameters],
    episodes: int,
    target: float | None = None,
) -> list[Result]:
    """The results of all runs that are trained and evaluated."""
    results = []
    for planned in suite.planned:
        folder = suite.find(planned)
        if folder is None or not suite.is_finished(planned):
            continue
        sampled, greedy = (find_evaluation(folder, mode, episodes) for mode in (SAMPLED, GREEDY))
        rate = read_rate(folder)
        if sampled is None or greedy is None or rate is None:
            continue
        results.append(
            Result(
                game=planned.config.game,
                variant=planned.variant,
                seed=planned.config.seed,
                parameters=parameters[planned.config.game, planned.variant],
                run=folder.name,
                agent_steps=rate.step,
                agent_steps_per_second=rate.per_second,
                sampled=sampled.summary.mean,
                greedy=greedy.summary.mean,
                training=rate.recent_return,
                training_past=None if target is None else training_past(folder, target),
                evaluation_past=None
                if target is None
                else evaluation_past(folder, target, sampled),
                milestones=dict(sampled.summary.milestones),
            )
        )
    return results


def write_results(
    suite: Suite, args: argparse.Namespace, words: Sequence[str], results: Sequence[Result]
) -> None:
    """Write the table, the results per run and the curves so far; print the table."""
    if not results:
        draw_curves(suite)
        print("no run is finished: no table yet")
        return
    random = random_scores(suite, args.episodes)
    info = system_info()
    missing = len(suite.planned) - len(results)
    texts = [table(results, random, args.episodes), milestones_table(results)]
    if args.target is not None:
        texts.append(target_table(results, args.target))
    notes = [
        f"Command: `python -m benchmarks.fig3 {shlex.join(words)}`",
        f"{describe_budget(suite.planned)} each; {describe(info)}.",
    ]
    if missing:
        notes.append(f"{missing} of {len(suite.planned)} runs are unfinished and not included.")
    whole = "\n\n".join([*filter(None, texts), *notes]) + "\n"
    (suite.folder / "table.md").write_text(whole)
    written: dict[str, Any] = {"arguments": list(words), "machine": info, "target": args.target}
    written["random"] = {
        game if name == RANDOM else f"{game} {name}": score
        for (game, name), score in random.items()
    }
    written["results"] = [dataclasses.asdict(result) for result in results]
    (suite.folder / "results.json").write_text(json.dumps(written, indent=2) + "\n")
    print(f"\n{whole}")
    # Last: if drawing fails, no expensive results are lost.
    drawn = draw_curves(suite)
    names = ", ".join(["table.md", "results.json", *(path.name for path in drawn)])
    print(f"written to {suite.folder}/: {names}")


def describe_budget(planned: Sequence[Planned]) -> str:
    """Agent steps and frames of a run, such as "1,000 agent steps (4,000 to 32,000 frames)"."""

    def span(values: Sequence[int]) -> str:
        return " to ".join(f"{value:,}" for value in sorted({min(values), max(values)}))

    steps = [each.config.total_timesteps for each in planned]
    frames = [each.config.total_timesteps * each.config.frame_skip for each in planned]
    return f"{span(steps)} agent steps ({span(frames)} frames)"


def draw_curves(suite: Suite) -> list[Path]:
    """Plot the curves of all runs, finished or not; return the files written, if any."""
    curves, labels = [], []
    for planned in suite.planned:
        folder = suite.find(planned)
        if folder is None:
            continue
        try:
            curves.append(read_curve(folder))
        except RunFolderError as error:
            print(f"not drawn: {error}", file=sys.stderr)
            continue
        labels.append(planned.variant)
    return write_curves(suite.folder / "curves.png", curves, labels) if curves else []


def _parser() -> CommandParser:
    count = whole_number(1, 10**12)
    parser = CommandParser(
        prog=PROG,
        description=__doc__,
    )
    parser.add_argument(
        "--games", nargs="+", default=["Frostbite", "MontezumaRevenge"], help="games to train on"
    )
    parser.add_argument(
        *("--variants", "--heads"),
        nargs="+",
        type=variant_name,
        metavar="NAME",
        default=["linear", "hypernet", "neurocoder"],
        help=f"any of {', '.join(VARIANTS)}, with any of the suffixes {', '.join(SUFFIXES)}",
    )
    parser.add_argument("--seeds", type=count, default=5, metavar="N", help="seeds 1 to N")
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--frames", type=count, metavar="N", help="budget of each run in frames")
    budget.add_argument("--steps", type=count, metavar="N", help="or in agent steps")
    parser.add_argument(
        "--workers", type=int, default=TrainConfig().workers, help="as of train_a3c.py"
    )
    parser.add_argument(
        "--core", choices=("none", "lstm"), default="none", help="core of all variants"
    )
    parser.add_argument(
        "--match",
        choices=("none", "parameters"),
        default="none",
        help="parameters: match the baselines' heads to the Neurocoder's parameter count, by "
        "a wider HyperNet and a hidden layer in linear heads",
    )
    parser.add_argument(
        "--episodes",
        type=positive_count,
        default=10,
        metavar="N",
        help="episodes per mode of the final evaluation",
    )
    parser.add_argument(
        "--target",
        type=float,
        metavar="SCORE",
        help="also say how many seeds reached this mean score, in training and in evaluations",
    )
    parser.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help="train on the machines of a Ray cluster, which must see the folder and this checkout "
        "at the same paths: local, auto or HOST:PORT",
    )
    parser.add_argument(
        "--cpus-per-run",
        type=count,
        default=1,
        metavar="N",
        help="with --cluster: cores, and processes, of each run",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/fig3"),
        metavar="FOLDER",
        help="folder of runs and results",
    )
    return parser


if __name__ == "__main__":
    run_command(main, PROG)
