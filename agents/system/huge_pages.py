"""Large pages for the workers' memory.

A worker's turn goes through its emulators, its network's parameters and their activations,
megabytes each, and so through more pages of 4 KiB than the processor keeps the addresses of. Linux
has pages of 2 MiB for those who ask, and glibc's allocator asks if `GLIBC_TUNABLES` says so when a
program starts (https://sourceware.org/glibc/manual/latest/html_node/Tunables.html). Elsewhere, with
macOS's allocator or a glibc before 2.35, the variable is there and nothing reads it.
"""

from collections.abc import MutableMapping

_VARIABLE = "GLIBC_TUNABLES"
# Large blocks come from the heap too, which is one piece and so fit for large pages. What is freed
# there stays for the next rollout; it would else be handed back, and cleared by the kernel again.
_TUNABLES = {
    "glibc.malloc.hugetlb": 1,
    "glibc.malloc.mmap_threshold": 100_000_000,
    "glibc.malloc.trim_threshold": 1_000_000_000,
}


def ask_for_huge_pages(environment: MutableMapping[str, str]) -> None:
    """Have programs that are started with this environment ask; what it says already stays."""
    words = [word for word in environment.get(_VARIABLE, "").split(":") if word]
    said = {word.partition("=")[0] for word in words}
    words += [f"{name}={value}" for name, value in _TUNABLES.items() if name not in said]
    environment[_VARIABLE] = ":".join(words)
