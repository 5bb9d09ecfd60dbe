"""Whole runs on three nodes of one core each, all on this machine, and what may happen to them."""

import csv
import os
import signal
import subprocess
import time

import psutil
import pytest

ray = pytest.importorskip("ray")

from tests.process_harness import (  # noqa: E402
    ROOT,
    command,
    family_of,
    meta,
    started,
    step_of_newest,
    wait_for,
)

pytestmark = pytest.mark.slow

OPTIONS = (
    *("--game", "CartPole-v1", "--head", "linear", "--workers", 6, "--envs-per-worker", 2),
    *("--num-steps", 10, "--log-interval", 0.5, "--eval-interval", 0),
)
ENDLESS = (*OPTIONS, "--total-timesteps", 10**9)
MEMORY = 100 * 2**20


@pytest.fixture(scope="module")
def cluster():
    """Ray on three nodes of one core each."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", str(ROOT))
        head = {"num_cpus": 1, "object_store_memory": MEMORY, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            for _ in range(2):
                add_node(cluster)
            yield cluster
        finally:
            cluster.shutdown()


def add_node(cluster):
    node = cluster.add_node(num_cpus=1, object_store_memory=MEMORY)
    cluster.wait_for_nodes()
    return node


def processes(name):
    """Those whose title starts so."""
    every = list(psutil.process_iter(["cmdline"]))
    return [one for one in every if "".join(one.info["cmdline"] or []).startswith(name)]


def nodes():
    return processes("ray::NodeActor")


def column(run, name):
    """The number in the last whole row of progress.csv; 0 without one."""
    lines = (run / "progress.csv").read_text().splitlines(keepends=True)
    rows = list(csv.DictReader(line for line in lines if line.endswith("\n")))
    return float(rows[-1][name] or 0) if rows else 0.0


class Run:
    """A run that goes on and on."""

    def __init__(self, folder, process):
        self.folder, self.process = folder, process
        self.path = folder / "runs" / "latest"

    def log(self):
        return (self.path / "train.log").read_text()

    def wait_until(self, happened, seconds=120):
        wait_for(happened, self.process, seconds)

    def wait_for_nodes(self, count, seconds=120):
        """Wait until so many train, and go on doing so."""
        self.wait_until(lambda: column(self.path, "nodes") == count, seconds)
        step = column(self.path, "global_step")
        self.wait_until(lambda: column(self.path, "global_step") > step + 1000, seconds)


@pytest.fixture(scope="module")
def run(cluster, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cluster")
    with started(folder, *ENDLESS, "--cluster", cluster.address, seconds=600) as process:
        run = Run(folder, process)
        run.wait_until(lambda: (run.path / "progress.csv").exists())
        run.wait_for_nodes(3)
        yield run


def test_all_nodes_train_and_what_they_exchange_is_logged(run):
    assert column(run.path, "workers_alive") == 6
    assert column(run.path, "bytes_per_s") > 1000
    assert column(run.path, "dropped_gradients") == 0
    assert column(run.path, "restarts") == 0
    assert "3 nodes" in (run.folder / "stdout").read_text()


def test_a_killed_worker_process_is_replaced(run):
    before = column(run.path, "restarts")
    # Below a node are its fork server and others, and below the fork server its workers.
    (worker, *_) = [
        worker
        for child in nodes()[0].children()
        for worker in child.children()
        if "forkserver" in " ".join(worker.cmdline())
    ]
    worker.kill()
    run.wait_until(lambda: column(run.path, "restarts") == before + 1)
    run.wait_until(lambda: column(run.path, "workers_alive") == 6)
    assert "died (SIGKILL)" in run.log()
    run.wait_for_nodes(3)


def test_a_killed_node_is_replaced(run):
    before = column(run.path, "restarts")
    nodes()[0].kill()
    run.wait_until(lambda: column(run.path, "restarts") == before + 1)
    run.wait_for_nodes(3)
    assert "is lost" in run.log()


def test_a_killed_parameter_server_is_replaced_from_the_drivers_copy(run):
    before, step = column(run.path, "restarts"), column(run.path, "global_step")
    assert step > 1000
    (server,) = processes("ray::ParameterServer")
    server.kill()
    run.wait_until(lambda: column(run.path, "restarts") == before + 1)
    run.wait_for_nodes(3)
    assert column(run.path, "global_step") > step
    assert "the parameter server is lost" in run.log()


def test_training_goes_on_without_a_lost_machine_and_one_that_joins_trains_too(run, cluster):
    machine = cluster.list_all_nodes()[-1]
    cluster.remove_node(machine, allow_graceful=False)
    run.wait_for_nodes(2)
    assert column(run.path, "workers_alive") == 4
    add_node(cluster)
    run.wait_for_nodes(3)
    assert column(run.path, "workers_alive") == 6
    add_node(cluster)
    run.wait_for_nodes(4)
    assert column(run.path, "workers_alive") == 8


def test_a_driver_that_is_killed_starts_anew_from_its_copy(run):
    before, step = column(run.path, "restarts"), column(run.path, "global_step")
    (driver,) = [
        child
        for child in family_of(run.process)[1:]
        if any(link.raddr for link in child.net_connections())
    ]
    driver.kill()
    run.wait_until(lambda: column(run.path, "restarts") == before + 1)
    run.wait_for_nodes(4)
    assert column(run.path, "global_step") > step


def test_a_stopped_run_saves_and_goes_on_on_one_machine_and_on_a_cluster_again(run, cluster):
    run.process.send_signal(signal.SIGINT)
    assert run.process.wait(60) == 130
    first = step_of_newest(run.path)
    assert first >= column(run.path, "global_step") > 0
    assert meta(run.path)["status"] == "interrupted"
    assert_all_gone(30)

    steps = [first]
    for where in ("none", cluster.address):
        budget = steps[-1] + 3000
        more = ("--resume", run.path, "--cluster", where, "--total-timesteps", budget)
        subprocess.run(command(*more), cwd=run.folder, check=True, timeout=180)
        steps.append(step_of_newest(run.path))
        assert steps[-1] >= budget
    assert "resuming from agent step" in run.log()


def test_everything_ends_when_the_program_is_killed(cluster, tmp_path):
    with started(tmp_path, *ENDLESS, "--cluster", cluster.address) as process:
        run = Run(tmp_path, process)
        run.wait_until(lambda: (run.path / "progress.csv").exists())
        run.wait_for_nodes(len(cluster.list_all_nodes()))
        family = [child for node in nodes() for child in node.children(recursive=True)]
        assert family
        os.kill(process.pid, signal.SIGKILL)
        assert_all_gone(20)
        deadline = time.monotonic() + 10
        while any(child.is_running() for child in family) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not [child for child in family if child.is_running()]


def assert_all_gone(seconds):
    deadline = time.monotonic() + seconds
    while (left := [*nodes(), *processes("ray::ParameterServer")]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left


# The last one: Ray is gone after it.
def test_without_ray_the_run_ends_with_one_line_and_names_its_last_checkpoint(cluster, tmp_path):
    arguments = (*ENDLESS, "--cluster", cluster.address, "--checkpoint-interval", 2)
    with started(tmp_path, *arguments) as process:
        run = Run(tmp_path, process)
        run.wait_until(lambda: (run.path / "progress.csv").exists())
        run.wait_for_nodes(len(cluster.list_all_nodes()))
        run.wait_until(lambda: step_of_newest(run.path) > 0)
        cluster.shutdown()
        assert process.wait(90) == 1
        assert meta(run.path)["status"] == "failed"
        (line,) = [line for line in run.log().splitlines() if "the run failed" in line]
        assert "is gone" in line
        (line,) = [line for line in run.log().splitlines() if "checkpoint: " in line]
        assert f"step_{step_of_newest(run.path):012}" in line
