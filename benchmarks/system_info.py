"""The machine and package versions of a measurement; standard library only."""

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "ale-py", "gymnasium", "numpy", "stable-baselines3")


def system_info(packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """CPU model, available cores, operating system, and versions (None if not installed).

    Args:
        packages: Distribution names of the packages whose versions are included.
    """
    return {
        "cpu": _cpu_model(),
        "cores": _available_cores(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{package: _version(package) for package in packages},
    }


def describe(info: Mapping[str, Any], packages: Sequence[str] = PACKAGES, *, note: str = "") -> str:
    """One line for the head of a table.

    Args:
        info: The result of `system_info`.
        packages: The packages whose versions are shown, if installed.
        note: Text that follows the CPU model.
    """
    versions = [f"{package} {info[package]}" for package in packages if info[package]]
    words = ", ".join([f"Python {info['python']}", *versions])
    return f"{info['cores']} cores of {info['cpu']}{note}; {words}"


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _available_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
