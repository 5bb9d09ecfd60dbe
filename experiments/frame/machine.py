"""What machine and which versions a result was made on."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("torch", "numpy", "scikit-learn", "matplotlib")


def describe_machine() -> str:
    """Processor, cores, and the versions of what does the work, in one line."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    known = ", ".join(f"{name} {found}" for name in PACKAGES if (found := _version(name)))
    return f"{cores} cores of {_processor()}, one used; Python {platform.python_version()}, {known}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
