"""The pages in `docs/` say what is so: what runs write, and which code does what."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents.checkpoint import load_newest_checkpoint
from agents.checkpoint_format import FORMAT_VERSION
from agents.cli import flag_table
from agents.cluster.link import Link
from agents.config import TrainConfig, choices, flag
from agents.evaluation import results as evaluations
from agents.monitoring import progress_csv
from agents.run_folder import resolve_run
from agents.training.supervisor import train
from benchmarks.variants import count_parameters
from envs import MILESTONES, Spaces
from tests.code_names import defined_names
from tests.documented_commands import inline_code

ROOT = Path(__file__).parent.parent
GLOSSARY = (ROOT / "docs" / "metrics.md").read_text()
FILES = (ROOT / "docs" / "files.md").read_text()
ALGORITHM = (ROOT / "docs" / "algorithm.md").read_text()
CONFIG = TrainConfig(
    game="Pong",
    workers=0,
    envs_per_worker=1,
    num_steps=20,
    total_timesteps=40,
    eval_interval=20,
    eval_episodes=1,
    max_frames=80,
)


def test_the_table_of_settings_is_the_programs():
    assert flag_table() in (ROOT / "docs" / "settings.md").read_text()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run that was evaluated and filmed."""
    folder = tmp_path_factory.mktemp("docs")
    assert train(dataclasses.replace(CONFIG, run_dir=str(folder), capture_video=True)) == 0
    return resolve_run(folder / "latest")


def test_every_tag_that_a_run_writes_is_explained_and_every_explained_one_is_written(run, tmp_path):
    config = dataclasses.replace(CONFIG, learner="cpu", learner_batch=1, bonus="simhash")
    assert train(dataclasses.replace(config, run_dir=str(tmp_path))) == 0
    written = set()
    for learner, folder in (("worker", run), ("cpu", resolve_run(tmp_path / "latest"))):
        events = EventAccumulator(str(folder)).Reload()
        tags = events.Tags()
        own = [t for t in tags["scalars"] if t.startswith("learner/") or t == "a3c/policy_lag"]
        assert len(own) == (5 if learner == "cpu" else 0)
        for kind in ("scalars", "images", "histograms"):
            written |= {tag.split("/")[-1] for tag in tags[kind]}
        written |= {tag.removesuffix("/text_summary") for tag in tags["tensors"]}
    # A run on a cluster: tests/agents/cluster.
    written |= {tag.split("/")[-1] for tag in Link.create().tags()}
    named = re.findall(r"^\| (`.*?) \|", GLOSSARY, re.MULTILINE)
    explained = {name.split("/")[-1] for cell in named for name in re.findall(r"`(.*?)`", cell)}
    explained |= {f"attention_variation_{memory}" for memory in "uvs"}
    # Whether a game ends in so short a run is a matter of luck.
    of_games = {"episodic_return", "episodic_length", "recent_return", "best_return"}
    # And not every game has milestones, or a plateau.
    of_games |= {"recent_past_plateau"}
    of_games |= {
        f"{mode}_{milestone.name}"
        for milestones in MILESTONES.values()
        for milestone in milestones
        for mode in ("sampled", "greedy")
    }
    assert written - of_games == explained - of_games

    # And on the pages where it says they are.
    rows = re.findall(r"^\| (`.*?) \| (images|histograms|hparams) \|", GLOSSARY, re.MULTILINE)
    named_on = {page: set() for _, page in rows}
    for cell, page in rows:
        named_on[page] |= set(re.findall(r"`(.*?)`", cell))
    for page in ("images", "histograms"):
        heads = ("actor", "critic")
        assert set(tags[page]) == {f"programs/{h}/{name}" for h in heads for name in named_on[page]}
    results = {tag for tag in tags["scalars"] if tag.startswith("results/")}
    assert named_on["hparams"] - results <= {"results/recent_return", "results/best_return"}


def test_the_page_on_files_reads_and_verifies_checkpoints(tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", FILES, re.DOTALL)
    monkeypatch.chdir(ROOT)
    exec(code, {})
    assert capsys.readouterr().out == "13475802 (6, 256)\n"
    config = dataclasses.replace(CONFIG, head="linear", eval_interval=0, run_dir=str(tmp_path))
    assert train(config) == 0
    path, checkpoint = load_newest_checkpoint(tmp_path / "latest" / "checkpoints")
    names = {}
    code = re.sub('path = ".*"', f'path = "{path}"', code)
    exec(code, names)
    assert names["metadata"]["format"] == str(FORMAT_VERSION) == "3"
    assert names["metadata"].keys() == {"format", "progress"}
    assert names["progress"] == json.loads(checkpoint.training_state.to_json())
    assert names["parameters"].keys() == checkpoint.parameters.keys()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(AssertionError):
        exec(code, {})


def test_the_page_on_layers_recodes_a_model_and_adds_their_losses():
    blocks = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "layers.md").read_text(), re.DOTALL
    )
    names = {}
    exec("\n".join(blocks), names)
    names["loss"].backward()
    layer = names["model"][2]
    assert isinstance(layer, names["NeurocoderLinear"])
    assert layer.memory.u.grad.any()


def test_the_page_on_watching_loads_an_agent_and_plays_with_it(monkeypatch):
    (code,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "watching.md").read_text(), re.DOTALL
    )
    monkeypatch.chdir(ROOT)
    shorter = 'config = __import__("dataclasses").replace(config, max_frames=3000)'
    names = {}
    # It holds an assertion that both ways play the same episode.
    exec(re.sub(r"^(?=agent = )", f"{shorter}\n", code, flags=re.MULTILINE), names)
    assert names["score"] > 0
    assert len(names["programs"]) == names["trajectory"].episode.length


def test_the_page_on_files_names_everything_in_a_runs_folder(run):
    named = [
        p for cell in re.findall(r"^\| (`.*?) \|", FILES, re.M) for p in re.findall("`(.*?)`", cell)
    ]
    assert list(run.glob("videos/*"))
    for path in run.rglob("*"):
        relative = path.relative_to(run)
        assert path.is_dir() or any(relative.match(pattern) for pattern in named), relative
    for column in evaluations.COLUMNS:
        assert f"`{column}`" in FILES
    for column in progress_csv.COLUMNS[:5]:
        assert f"`{column}`" in FILES


def test_the_table_of_progress_has_the_columns_that_the_page_on_metrics_promises():
    page = (ROOT / "docs" / "metrics.md").read_text()
    tags = set(re.findall(r"`((?:charts|losses|a3c|learner|cluster)/\w+)`", page))
    assert len(tags) > 20
    columns = {tag.rpartition("/")[2] for tag in tags}
    assert columns <= set(progress_csv.COLUMNS)
    others = {"wall_time", "global_step", "episodes", "recent_return", "recent_length"}
    assert set(progress_csv.COLUMNS) == columns | others


def test_every_name_of_code_on_the_page_on_the_algorithm_exists():
    names = defined_names(ROOT)
    flags = {flag(spec.name) for spec in dataclasses.fields(TrainConfig)}
    files = {
        path.name for folder in ("agents", "neurocoder") for path in ROOT.glob(f"{folder}/**/*")
    }
    files |= {path.name for path in ROOT.glob("tests/neurocoder/*.py")} | {"best.safetensors"}
    others = {"nn.Linear", "torch.compile", "torch.func"}
    others |= {choice for name in ("head", "torso") for choice in choices(name)}
    spans = inline_code(ALGORITHM)
    assert len(spans) > 100
    unknown = [
        span
        for span in spans
        if span.partition(" ")[0].partition("=")[0] not in names | flags | files | others
        and not ("/" in span and (ROOT / span).exists())
    ]
    assert unknown == []


def test_the_page_on_the_algorithm_has_every_equation_and_the_numbers_that_are_so():
    equations = re.findall(r"^\| ([0-9, ]+) \|", ALGORITHM, re.MULTILINE)
    assert ",".join(equations).replace(" ", "") == "1,2,3,4,5,6,7,8,9,10,11,12"
    for head in choices("head"):
        size = count_parameters(TrainConfig(head=head), Spaces(18)).heads
        assert re.search(rf"^\| `{head}` \|.* {size:,} \|$", ALGORITHM, re.MULTILINE), (head, size)
