"""Where sockets lie, and that huge pages are requested, and come where the system has them."""

import multiprocessing
import os
import platform
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import Listener
from pathlib import Path

import pytest
import torch

from agents.system.processes import _socket_folder, process_context, request_huge_pages

SWITCH = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def test_what_is_asked_for_already_stays():
    environment = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0:glibc.cpu.x86_shstk=on"}
    request_huge_pages(environment)
    words = environment["GLIBC_TUNABLES"].split(":")
    assert words[:2] == ["glibc.malloc.hugetlb=0", "glibc.cpu.x86_shstk=on"]
    assert [word.split("=")[0] for word in words[2:]] == [
        "glibc.malloc.mmap_threshold",
        "glibc.malloc.trim_threshold",
    ]


def test_asking_again_changes_nothing():
    environment: dict[str, str] = {}
    request_huge_pages(environment)
    once = dict(environment)
    request_huge_pages(environment)
    assert environment == once


def test_a_long_tmpdir_is_no_place_for_sockets(tmp_path, monkeypatch):
    long = tmp_path / ("x" * 80)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    monkeypatch.delitem(multiprocessing.current_process()._config, "tempdir", raising=False)
    _socket_folder.__wrapped__()
    Listener(family="AF_UNIX").close()
    assert tempfile.gettempdir() == str(long)


def huge_pages():
    """How much of this process's memory lies in large pages, in KiB."""
    kept = torch.ones(16 * 2**20)
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("AnonHugePages:"):
            return int(line.split()[1]) if len(kept) else -1
    return -1


def has_huge_pages():
    library, version = platform.libc_ver()
    return (
        library == "glibc"
        and tuple(int(part) for part in version.split(".")[:2]) >= (2, 35)
        and SWITCH.exists()
        and "[never]" not in SWITCH.read_text()
    )


@pytest.mark.skipif(not has_huge_pages(), reason="the system has no large pages to give")
def test_a_childs_large_tensor_lies_in_large_pages():
    # Not multiprocessing's pool, which ends its processes by SIGTERM: the fork server's block it.
    with ProcessPoolExecutor(1, mp_context=process_context()) as pool:
        assert pool.submit(huge_pages).result() >= 32 * 1024
    assert "glibc.malloc.hugetlb" in os.environ["GLIBC_TUNABLES"]
