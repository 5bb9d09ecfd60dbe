"""The trained agents that come with the repository, and the folders that they are in."""

import json
import shutil
import subprocess
from pathlib import Path

from agents import evaluate, report

ROOT = Path(__file__).parent.parent
MODEL = "models/pong-linear"


def test_playing_one_leaves_the_checkout_as_it_was(tmp_path):
    def git(*words):
        command = ["git", "-C", str(tmp_path), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    shutil.copy(ROOT / ".gitignore", tmp_path)
    leave_out = shutil.ignore_patterns("videos", "replays", "report.html", "played.csv")
    copy = shutil.copytree(ROOT / MODEL, tmp_path / MODEL, ignore=leave_out)
    settings = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(settings | {"max_frames": 40}))
    git("init", "--quiet")
    git("add", ".")
    tracked = git("ls-files").splitlines()
    assert f"{MODEL}/eval/evaluations.csv" in tracked

    flags = ["--mode", "greedy", "--episodes", "1"]
    assert evaluate.main([str(copy), *flags, "--random", "--record", "--overlay"]) == 0
    assert report.main([str(copy), *flags]) == 0
    written = {path.relative_to(copy).parts[0] for path in copy.rglob("*")}
    assert {"videos", "replays", "report.html"} <= written
    assert (copy / "eval" / "played.csv").exists()
    assert git("ls-files", "--modified", "--others", "--exclude-standard") == ""
