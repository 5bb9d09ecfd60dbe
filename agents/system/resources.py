"""Resources that the operating system, or a container, lets this process use."""

import contextlib
import os
import sys
from pathlib import Path, PurePosixPath

from agents.errors import MachineError

SHARED_MEMORY = Path("/dev/shm")


def memory_limit(root: Path = Path("/")) -> int:
    """Memory of this machine, or of this process's control group if that has less, in bytes.

    Args:
        root: The root of the file system; tests use their own.
    """
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in _limit_files(root, "memory", "memory.max", "memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
            limits.append(int(file.read_text()))
    return min(limits)


def _limit_files(root: Path, controller: str, name: str, old_name: str) -> list[Path]:
    """Files with the limits of the process's control group and its ancestors; the smallest counts.

    Their names are those of the second version of control groups, or of the first (`old_name`). In
    a container the group's path is often that on the host, which does not exist inside; the group
    mounted at the top is then the container's own.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    files = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, file = root / "sys/fs/cgroup", name
        elif controller in controllers.split(","):
            top, file = root / "sys/fs/cgroup" / controller, old_name
        else:
            continue
        group = PurePosixPath(path.lstrip("/"))
        files += [top / part / file for part in (group, *group.parents)]
    return files


def available_cpus(root: Path = Path("/")) -> int:
    """Number of CPUs that this process may run on, or that its control group has time for.

    Args:
        root: The root of the file system; tests use their own.
    """
    cpus = [os.cpu_count() or 1]
    if hasattr(os, "sched_getaffinity"):
        cpus.append(len(os.sched_getaffinity(0)))
    for file in _limit_files(root, "cpu", "cpu.max", "cpu.cfs_quota_us"):
        # CPU time per period and the period, both in microseconds; "max" or -1 means no limit.
        with contextlib.suppress(OSError, ValueError):
            quota, *period = file.read_text().split()
            if file.name != "cpu.max":
                period = [file.with_name("cpu.cfs_period_us").read_text()]
            if int(quota) > 0:
                cpus.append(-(-int(quota) // int(period[0])))
    return min(cpus)


def free_shared_memory() -> int | None:
    """Free bytes in the file system of torch's shared tensors; None if the platform has none.

    Raises:
        OSError: If it is not writable.
    """
    if sys.platform != "linux":
        return None
    status = os.statvfs(SHARED_MEMORY)
    if status.f_flag & os.ST_RDONLY or not os.access(SHARED_MEMORY, os.W_OK | os.X_OK):
        raise PermissionError(13, "it is not writable", str(SHARED_MEMORY))
    return status.f_bavail * status.f_frsize


def free_disk_space(folder: Path) -> int:
    """Free bytes for this user in the file system of a directory, which need not exist yet.

    Raises:
        OSError: If it cannot be determined.
    """
    folder = folder.absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    status = os.statvfs(existing)
    return status.f_bavail * status.f_frsize


def require_opencv() -> None:
    """Import OpenCV, ahead of the modules that need it.

    Raises:
        MachineError: If that fails; the message says what to install.
    """
    try:
        import cv2  # noqa: F401
    except ImportError as error:
        raise MachineError(
            f"OpenCV cannot be loaded ({error}); on a machine without a desktop, install the "
            "libraries it needs (Debian, Ubuntu: apt-get install libgl1 libglib2.0-0) or the build "
            "that needs none: pip uninstall opencv-python && pip install opencv-python-headless"
        ) from error
