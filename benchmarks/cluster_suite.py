"""The runs of a suite as Ray tasks, several at a time on the machines of a cluster.

Each is an ordinary run. All machines must see its folder, and the checkout, at the same paths.
"""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from agents.cluster import NEEDS_RAY, has_ray
from agents.system.signals import StopSignals
from benchmarks.planned_runs import Planned
from benchmarks.suite import ROOT, Suite, SuiteError, start, wait_for_orphan

# How often a run is tried if its machine, or the Ray process that it ran in, is lost.
MAX_TRIES = 3
# A network file system keeps a lost machine's locks for a while: NFS version 4 for 90 seconds.
LOST_MACHINE_TIMEOUT_S = 150.0
STOP_TIMEOUT_S = 120.0
POLL_INTERVAL_S = 0.2
OBJECT_STORE_BYTES = 100 * 2**20


class ClusterSuite(Suite):
    """A suite that trains as many runs at a time as the cluster has cores for.

    Args:
        folder: See `Suite`; all machines must see it at the same path.
        planned: See `Suite`.
        signals: See `Suite`.
        cpus: Cores for each run, and its number of processes.

    Raises:
        SuiteError: If no machine of the Ray cluster that this process has joined has enough cores.
    """

    def __init__(
        self,
        folder: Path,
        planned: Sequence[Planned],
        signals: StopSignals,
        cpus: int,
    ) -> None:
        super().__init__(folder.resolve(), planned, signals)
        self.cpus = cpus
        import ray

        sizes = [machine["Resources"].get("CPU", 0) for machine in ray.nodes() if machine["Alive"]]
        if max(sizes, default=0) < cpus:
            self.close()
            raise SuiteError(f"--cpus-per-run {cpus}: no machine of the cluster has so many")

    def train(self, after_each: Callable[[Planned], None]) -> None:
        """Train the runs that are not finished, side by side; see `Suite.train`."""
        import ray

        tries = dict.fromkeys(range(len(self.planned)), 0)
        calls = {}
        for number, planned in enumerate(self.planned):
            if self.is_finished(planned):
                self.console.print(
                    f"{self._title(number)} was finished already{self.result(planned)}"
                )
                after_each(planned)
            else:
                calls[self._submit(planned)] = number
        while calls and not self.stopped:
            ready, _ = ray.wait(list(calls), timeout=1.0)
            for call in ready:
                number = calls.pop(call)
                planned = self.planned[number]
                try:
                    how = f"exit code {ray.get(call)}"
                except ray.exceptions.RayError as error:
                    how = str(error).strip().partition("\n")[0]
                    tries[number] += 1
                    if tries[number] < MAX_TRIES:
                        calls[self._submit(planned)] = number
                        self.console.print(f"{self._title(number)} is tried again: {how}")
                        continue
                self.console.print(f"{self._title(number)} {self.outcome(planned, how)}")
                if self.is_finished(planned) and not self.stopped:
                    after_each(planned)
        for call in calls:
            ray.cancel(call)
        if calls:
            ray.wait(list(calls), num_returns=len(calls), timeout=STOP_TIMEOUT_S)

    def close(self) -> None:
        """Leave Ray, and release the folder's lock."""
        import ray

        ray.shutdown()
        super().close()

    def _title(self, number: int) -> str:
        return f"[{number + 1}/{len(self.planned)}] {self.planned[number].title} ..."

    def _submit(self, planned: Planned) -> Any:
        import ray

        arguments = [*self.arguments(planned), "--processes", str(self.cpus)]
        task: Any = ray.remote(run_training)
        return task.options(num_cpus=self.cpus, max_retries=0).remote(
            arguments, self.logs / planned.file_name, self.resumable(planned)
        )


def run_training(arguments: Sequence[str], log: Path, resumed: Path | None) -> int:
    """Run `train_a3c.py` to its end, on any machine, and return its exit code.

    Cancelling the task interrupts the training, which then saves.

    Args:
        arguments: The arguments of `train_a3c.py`.
        log: The file that its output is appended to.
        resumed: The run directory, if the run exists.
    """
    if not log.parent.is_dir():
        raise FileNotFoundError(f"{os.uname().nodename} does not see {log.parent}")
    if resumed is not None:
        wait_for_orphan(resumed, LOST_MACHINE_TIMEOUT_S)
    command = [sys.executable, str(ROOT / "train_a3c.py"), *arguments]
    process = start(command, log)
    try:
        # Cancelling cannot interrupt a blocking wait for the process, so poll instead.
        while process.poll() is None:
            time.sleep(POLL_INTERVAL_S)
        return process.returncode
    except BaseException:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
        raise
    finally:
        if process.poll() is None:
            process.kill()


def connect(address: str) -> None:
    """Join a Ray cluster, or start one; before signals are caught, as Ray sets its own handler.

    Args:
        address: `local`, `auto` or HOST:PORT.

    Raises:
        SuiteError: If that fails.
    """
    if not has_ray():
        raise SuiteError(f"--cluster {NEEDS_RAY}")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    own: dict[str, Any] = {"object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
            **(own if address == "local" else {}),
        )
    except Exception as error:  # Ray raises a plain Exception if its start takes too long
        reason = str(error).strip().partition("\n")[0]
        raise SuiteError(f"--cluster {address}: {reason}") from error
