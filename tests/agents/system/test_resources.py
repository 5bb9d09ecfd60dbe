"""What the system lets us use: the machine's memory, or the container's."""

import os

import pytest

from agents.system.resources import available_cpus, free_shared_memory, memory_limit

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
GIB = 2**30


def make_root(folder, groups, **limits):
    """A file system with the given lines of /proc/self/cgroup, and files below /sys/fs/cgroup."""
    files = {"proc/self/cgroup": groups}
    files |= {f"sys/fs/cgroup/{name}": text for name, text in limits.items()}
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("groups", "limits", "expected"),
    [
        ("0::/\n", {}, MACHINE),
        ("0::/\n", {"memory.max": "max\n"}, MACHINE),
        ("0::/\n", {"memory.max": f"{GIB}\n"}, GIB),
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": f"{GIB}"}, GIB),
        ("0::/a/b\n", {"a/b/memory.max": f"{GIB}", "a/memory.max": f"{2 * GIB}"}, GIB),
        # Another container's group, or the path outside this one.
        ("0::/a\n", {"b/memory.max": "1"}, MACHINE),
        ("0::/docker/f00\n", {"memory.max": f"{GIB}"}, GIB),
        ("4:memory:/a\n0::/\n", {"memory/a/memory.limit_in_bytes": f"{GIB}"}, GIB),
        ("4:cpu,memory:/a\n", {"memory/memory.limit_in_bytes": f"{GIB}"}, GIB),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712"}, MACHINE),
    ],
)
def test_the_tightest_limit_counts(groups, limits, expected, tmp_path):
    assert memory_limit(make_root(tmp_path, groups, **limits)) == expected


def test_without_control_groups_it_is_the_machines(tmp_path):
    assert memory_limit(tmp_path) == MACHINE
    assert 0 < memory_limit() <= MACHINE


def test_cores_are_those_that_this_process_may_use():
    assert 1 <= available_cpus() <= os.cpu_count()


@pytest.mark.parametrize(
    ("groups", "limits", "most"),
    [
        ("0::/\n", {}, None),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {"cpu.max": "100000 100000\n"}, 1),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "50000 100000"}, 1),
        ("0::/a\n", {"a/cpu.max": "100100 100000\n"}, 2),
        ("0::/a\n", {"a/cpu.max": "damaged\n"}, None),
        ("3:cpu,cpuacct:/a\n", {"cpu/a/cpu.cfs_quota_us": "-1\n"}, None),
        (
            "3:cpu,cpuacct:/a\n0::/\n",
            {"cpu/a/cpu.cfs_quota_us": "9000\n", "cpu/a/cpu.cfs_period_us": "10000\n"},
            1,
        ),
    ],
)
def test_cores_are_no_more_than_a_container_may_use(groups, limits, most, tmp_path):
    free = len(os.sched_getaffinity(0))
    expected = free if most is None else min(free, most)
    assert available_cpus(make_root(tmp_path, groups, **limits)) == expected


def test_shared_memory_that_is_missing_or_read_only_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("agents.system.resources.SHARED_MEMORY", tmp_path)
    assert free_shared_memory() > 0
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(OSError, match="not writable"):
        free_shared_memory()
    monkeypatch.setattr("agents.system.resources.SHARED_MEMORY", tmp_path / "nowhere")
    with pytest.raises(OSError, match="nowhere"):
        free_shared_memory()
    monkeypatch.setattr("sys.platform", "darwin")
    assert free_shared_memory() is None
