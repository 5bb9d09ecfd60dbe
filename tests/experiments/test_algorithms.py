"""The experiment of section 3.3: what is measured, who is compared, and that it runs."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from experiments import algorithms
from experiments.algorithms import QUICK, SIZES, VARIANTS, evaluate, learn, make_machine
from experiments.common.layers import parameter_count
from experiments.multi_task.tasks import TASKS, sample

SMALL = SIZES["small"]


def test_errors_are_those_counted_bit_by_bit():
    torch.manual_seed(0)
    batch = sample(SMALL.tasks, 4, 16, np.random.default_rng(0))
    machine = make_machine("linear", SMALL, "output_layer")
    with torch.no_grad():
        logits = machine(batch.inputs)
    wrong, by_task, by_position, spoilt, sub_tasks = [], {}, {}, set(), set()
    for b in range(16):
        for t in range(len(logits)):
            if batch.task[t, b] < 0:
                continue
            place = (b, batch.position[t, b].item())
            sub_tasks.add(place)
            for bit in range(4):
                says = 1.0 if logits[t, b, bit] > 0 else 0.0
                fault = says != batch.targets[t, b, bit].item()
                wrong.append(fault)
                by_task.setdefault(TASKS[batch.task[t, b]], []).append(fault)
                by_position.setdefault(place[1], []).append(fault)
                if fault:
                    spoilt.add(place)
    found = evaluate(machine, batch)
    assert found["error"] == pytest.approx(np.mean(wrong))
    assert found["solved"] == pytest.approx(1 - len(spoilt) / len(sub_tasks))
    assert len(sub_tasks) == 4 * 16
    for task in TASKS:
        assert found[task] == pytest.approx(np.mean(by_task[task]))
    expected = [np.mean(by_position[place]) for place in range(4)]
    assert found["by_position"] == pytest.approx(expected)


def test_an_answer_without_a_fault_is_solved_and_a_task_that_never_came_has_no_error():
    batch = sample(SMALL.tasks, 1, 1, np.random.default_rng(0))
    perfect = 2 * batch.targets[batch.answering] - 1
    found = evaluate(lambda *_: perfect, batch)
    assert (found["error"], found["solved"]) == (0.0, 1.0)
    came = TASKS[batch.task.max()]
    assert [task for task in TASKS if found[task] is not None] == [came]
    perfect[0, 0] *= -1
    assert evaluate(lambda *_: perfect, batch)["solved"] == 0.0


def test_a_machine_that_has_diverged_is_not_right_by_chance():
    batch = sample(SMALL.tasks, 2, 4, np.random.default_rng(0))
    logits = torch.randn(int(batch.answering.sum()), SMALL.tasks.bits)
    logits[0, 0] = torch.nan
    found = evaluate(lambda *_: logits, batch)
    came = [TASKS[number] for number in batch.task[batch.answering].unique()]
    values = [found["error"], found["solved"], *found["by_position"], *(found[n] for n in came)]
    assert all(np.isnan(value) for value in values)


@pytest.mark.usefixtures("no_pictures")
def test_figures_leave_machines_out_that_have_diverged(tmp_path, monkeypatch, capsys):
    def diverge(machine, batch, optimizer):
        torch.nn.init.constant_(machine.output_layer.bias, torch.nan)
        return learn(machine, batch, optimizer)

    monkeypatch.setattr(algorithms, "learn", diverge)
    monkeypatch.setattr(algorithms, "QUICK", dataclasses.replace(QUICK, iterations=2, tested=4))
    algorithms.main(["--quick", "--out", str(tmp_path / "x"), "--variants", "linear"])
    assert "| linear | - | - | - | - |" in capsys.readouterr().out


@pytest.mark.parametrize("layer", ["output_layer", "interface_layer"])
def test_variants_differ_in_the_named_layer_alone(layer):
    shared = {}
    for variant in VARIANTS:
        torch.manual_seed(3)
        machine = make_machine(variant, SMALL, layer)
        for name, value in machine.named_parameters():
            if not name.startswith(layer):
                assert torch.equal(shared.setdefault(name, value), value)
        assert type(getattr(machine, layer)).__name__.lower().startswith(variant[:5])
    assert len(shared) == 6


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_of_training_changes_every_parameter_and_lowers_the_loss(variant):
    torch.manual_seed(0)
    machine = make_machine(variant, SMALL, "output_layer")
    before = {name: value.clone() for name, value in machine.named_parameters()}
    optimizer = torch.optim.Adam(machine.parameters(), lr=3e-3)
    batch = sample(SMALL.tasks, 2, 8, np.random.default_rng(0))
    losses = [learn(machine, batch, optimizer) for _ in range(10)]
    assert losses[-1] < losses[0]
    for name, value in machine.named_parameters():
        assert not torch.equal(value, before[name]), name


def test_the_orthogonality_loss_reaches_the_programs_and_is_not_clipped(monkeypatch):
    monkeypatch.setattr(algorithms, "MAX_GRADIENT", 0.0)
    torch.manual_seed(0)
    machine = make_machine("neurocoder", SMALL, "output_layer")
    optimizer = torch.optim.SGD(machine.parameters(), lr=0.0)
    learn(machine, sample(SMALL.tasks, 1, 2, np.random.default_rng(0)), optimizer)
    moved = {name for name, p in machine.named_parameters() if p.grad.abs().max() > 1e-6}
    assert moved == {"output_layer.memory.u", "output_layer.memory.v"}


def test_a_quick_run_leaves_tables_figures_and_results_and_goes_on_where_it_was(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(algorithms, "QUICK", dataclasses.replace(QUICK, iterations=2, tested=4))
    flags = ["--quick", "--out", str(tmp_path / "x")]
    algorithms.main([*flags, "--variants", "linear"])
    algorithms.main([*flags, "--variants", "linear", "neurocoder"])
    lines = (tmp_path / "x" / "results.jsonl").read_text().splitlines()
    results = [json.loads(line) for line in lines]
    assert [r["variant"] for r in results] == ["linear", "neurocoder"]
    for result in results:
        assert result["iteration"] == [1, 2]
        assert len(result["curve_8"]) == 2
        assert len(result["by_position_4"]) == 4
        assert len(result["by_position_8"]) == 8
        assert 0.2 < result["error_8"] < 0.8
        assert 0 <= result["solved_4"] <= 1
    for name in ("results.md", "tasks.md", "results.csv", "curves.png", "errors.png"):
        assert (tmp_path / "x" / name).stat().st_size > 100
    table = (tmp_path / "x" / "results.md").read_text()
    assert f"{parameter_count(make_machine('linear', QUICK, 'output_layer')):,}" in table
    assert "python -m experiments.algorithms --quick" in table
    with pytest.raises(SystemExit) as refused:
        algorithms.main([*flags, "--answers", "after-each"])
    assert refused.value.code == 2
    assert "at-the-end" in capsys.readouterr().err


@pytest.mark.usefixtures("no_pictures")
def test_two_runs_of_the_same_seed_find_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(algorithms, "QUICK", dataclasses.replace(QUICK, iterations=2, tested=4))
    found = []
    for name in "ab":
        flags = ["--quick", "--out", str(tmp_path / name), "--variants", "neurocoder"]
        algorithms.main([*flags, "--layer", "interface", "--answers", "after-each"])
        found.append(json.loads((tmp_path / name / "results.jsonl").read_text()))
        del found[-1]["seconds"]
    assert found[0] == found[1]


def test_the_learning_rate_falls_to_zero_in_a_straight_line(monkeypatch):
    rates = []

    def watched(machine, batch, optimizer):
        rates.append(optimizer.param_groups[0]["lr"])
        return learn(machine, batch, optimizer)

    monkeypatch.setattr(algorithms, "learn", watched)
    machine = make_machine("linear", QUICK, "output_layer")
    algorithms.train(machine, QUICK, algorithms.AT_THE_END, 1, lambda *_: None)
    assert rates == pytest.approx([QUICK.learning_rate * part for part in (1, 0.75, 0.5, 0.25)])


def test_tests_are_of_sequences_that_neither_training_nor_the_curve_has_seen(monkeypatch):
    drawn = {"learned": [], "looked at": []}

    def keep(what, call):
        def kept(machine, batch, *more):
            drawn[what].append(batch)
            return call(machine, batch, *more)

        return kept

    monkeypatch.setattr(algorithms, "learn", keep("learned", learn))
    monkeypatch.setattr(algorithms, "evaluate", keep("looked at", evaluate))
    for seed in (1, 2, 3):
        machine = make_machine("linear", QUICK, "output_layer")
        algorithms.train(machine, QUICK, algorithms.AT_THE_END, seed, lambda *_: None)
    # Of each seed: the curve's batches of n = 4 and 8, point for point, and then those of the test.
    per_seed = len(drawn["looked at"]) // 3
    tested = drawn["looked at"][per_seed - 2 : per_seed]

    def sequences(batches):
        """Without the zeros that fill a batch up."""
        each = [sequence.numpy() for batch in batches for sequence in batch.inputs.unbind(1)]
        return {sequence.tobytes().rstrip(b"\0") for sequence in each}

    seen = sequences([*drawn["learned"], *drawn["looked at"][: per_seed - 2]])
    assert len(seen) > 50
    assert sequences(tested).isdisjoint(seen)
