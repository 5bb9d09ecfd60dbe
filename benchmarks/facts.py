"""What machine and which versions a measurement was made on."""

import platform
from pathlib import Path
from typing import Any

from agents.run_folder import package_version
from agents.system.resources import available_cpus

PACKAGES = ("torch", "ale-py", "gymnasium", "numpy", "stable-baselines3")


def machine_facts() -> dict[str, Any]:
    """Processor, cores, system, and the versions of what does the work; None where missing."""
    return {
        "cpu": cpu_model(),
        "cores": available_cpus(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{package: package_version(package) for package in PACKAGES},
    }


def cpu_model() -> str:
    """The processor's name, as far as the system tells."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def describe(facts: dict[str, Any]) -> str:
    """The facts in one line, to stand above a table."""
    versions = ", ".join(f"{name} {facts[name]}" for name in PACKAGES if facts[name])
    return f"{facts['cores']} cores of {facts['cpu']}; Python {facts['python']}, {versions}"
