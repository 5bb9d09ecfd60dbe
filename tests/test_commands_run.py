"""The commands in the README and in `docs/` do what they say, in a copy of the checkout.

They run as they stand, but for budgets of seconds in the place of days.
"""

import json
import re
import shutil
import subprocess
import sys

import pytest

from agents.run_folder import resolve_run
from tests.documented_commands import ROOT, all_lines

LINES = all_lines()

RUN_HERE = (
    *("train_a3c.py", "agents.evaluate", "agents.plot", "agents.replay", "agents.report"),
    *("benchmarks.fig3", "benchmarks.learning", "benchmarks.random_play", "benchmarks.shore"),
)
# These measure, for minutes; the soak test takes half an hour. `tests/test_benchmarks.py` runs them
# on a small scale, `tests/agents/cluster` what the cluster's does, `tests/experiments` the
# experiments, and `tests/neurocoder` the last.
RUN_ELSEWHERE = (
    *("benchmarks.breakdown", "benchmarks.gpu", "benchmarks.layers", "benchmarks.soak"),
    *("benchmarks.startup", "benchmarks.throughput", "benchmarks.cluster", "experiments."),
    "tests.neurocoder.capabilities",
)

SMALLER = {
    r"--total-timesteps \d+": "--total-timesteps 800",
    r"--workers \d+": "--workers 2",
    r"--learner cuda": "--learner cpu",
    r"--episodes \d+": "--episodes 1",
    r"--seeds \d+": "--seeds 1",
    r"--steps \d+": "--steps 800",
    r"--frames \d+": "--frames 3200",
    r"--still \d+": "--still 20",
    r"\bREPLAY.npz": "runs/latest/replays/replay.npz",
    r"\bOUT.mp4": "out.mp4",
    r"\bRUN\b": "runs/latest",
    r"--game NAME": "--game Pong",
}
# A package of one's own, and a Ray that runs already.
NOT_HERE = ("my_package", "--cluster auto")
MAX_FRAMES = 200
QUICK = f" --max-frames {MAX_FRAMES} --log-interval 0.2 --envs-per-worker 4"
FIRST_RUN = "python train_a3c.py --game Frostbite --workers 0 --total-timesteps 800"
FIRST_RUN += f" --eval-interval 400 --eval-episodes 1{QUICK}"


def shortened(text):
    for pattern, less in SMALLER.items():
        text = re.sub(pattern, less, text)
    if "--resume" in text:
        # More than that run has made.
        text += f" --total-timesteps {2_002_000 if 'models/' in text else 1600}"
    elif "train_a3c.py" in text:
        text += f" --total-timesteps 800{QUICK}"
    if "agents.report" in text:
        text += " --episodes 1"
    if "benchmarks.fig3" in text:
        text = text.replace("fig3", "fig3 --workers 0 --episodes 1", 1)
        text += ("" if " -- " in text else " --") + QUICK
    return text


def to_run():
    """The lines of README and pages that stand by themselves, without what installs, each once."""
    lines = [line for line in LINES if not line.inline and not line.page.startswith("benchmarks")]
    texts = [line.text for line in lines if line.programs & set(RUN_HERE)]
    texts = [text for text in texts if not any(word in text for word in NOT_HERE)]
    return list(dict.fromkeys(re.sub(r"pip install [^&]*&& ", "", text) for text in texts))


def test_every_program_is_run_here_or_elsewhere():
    named = set().union(*(line.programs for line in LINES))
    assert set(RUN_HERE) <= named
    assert {n for n in named if n not in RUN_HERE and not n.startswith(RUN_ELSEWHERE)} == set()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the checkout, with a run of its own and a recorded game; its games are short."""
    folder = tmp_path_factory.mktemp("commands") / "checkout"
    leave_out = shutil.ignore_patterns(".*", "__pycache__", "*.whl", "*.egg-info", "runs", "tests")
    shutil.copytree(ROOT, folder, ignore=leave_out)
    for path in folder.glob("models/*/config.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"max_frames": MAX_FRAMES}))
    # The module that this page has its reader write.
    page = (folder / "docs" / "environments.md").read_text()
    (folder / "corridor.py").write_text(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1])
    # Whatever the shell would take for `python`.
    python = folder / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    shell(folder, FIRST_RUN)
    shell(folder, "python -m agents.evaluate models/frostbite-neurocoder --episodes 1 --record")
    replay, *_ = folder.glob("models/*/replays/*.npz")
    replays = resolve_run(folder / "runs/latest") / "replays"
    replays.mkdir()
    replay.rename(replays / "replay.npz")
    shutil.copytree(folder / "runs", folder / "runs-at-first", symlinks=True)
    return folder


def shell(folder, text):
    environment = {"PATH": f"{folder}/bin:/usr/bin:/bin", "HOME": str(folder)}
    options = {"capture_output": True, "text": True, "timeout": 1200}
    result = subprocess.run(["bash", "-c", text], cwd=folder, env=environment, **options)
    assert result.returncode == 0, f"{text}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    return result


# What each leaves behind; those that are not here print.
PRODUCTS = {
    "train_a3c.py": r"checkpoints/step_",
    "--record": r"videos/.*\.mp4$",
    "agents.report": r"report\.html$",
    "agents.plot": r"^curves\.",
    "--video": r"^out\.mp4$",
}


@pytest.mark.slow
@pytest.mark.parametrize("text", to_run(), ids=str)
def test_a_command_runs_as_it_stands_but_for_its_budget(text, checkout):
    shutil.rmtree(checkout / "runs")
    shutil.copytree(checkout / "runs-at-first", checkout / "runs", symlinks=True)
    before = files_in(checkout)
    shell(checkout, shortened(text))
    written = sorted(name for name, _ in files_in(checkout) - before)
    for program, pattern in PRODUCTS.items():
        if program in text:
            assert any(re.search(pattern, name) for name in written), written
    if "benchmarks.fig3" in text:
        out = re.search(r"--out (\S+)", text)
        assert f"{out[1] if out else 'runs/fig3'}/table.md" in written


def files_in(folder):
    """Names and times, so that a file that is written anew counts as written."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {(str(path.relative_to(folder)), path.stat().st_mtime_ns) for path in files}
