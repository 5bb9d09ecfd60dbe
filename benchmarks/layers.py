"""Time and peak memory of `NeurocoderLinear`, of other layers, and of building W explicitly.

    python -m benchmarks.layers
    python -m benchmarks.layers --device cuda

Variants, with the same sizes and input, in float32, on the CPU in one thread:

- `neurocoder`: the layer at its reference size (20 slots, key size 8, 2 heads x 5 steps, 5
  least-used, controller 64).
- `autograd`: the same layer with `fused=False`, differentiated by autograd.
- `built`: the same composition with W built for each input, then `bmm(x, W)`.
- `hypernet`: `HyperLinear`.
- `linear`: `nn.Linear`.

All are measured in alternation over several rounds, so that a drift of the machine's speed affects
all alike; medians are printed. "forward" runs without gradients; "both" is forward and backward, to
the input and all parameters. Memory is the peak of a forward and backward pass above what was
allocated before it (parameters, gradients, input): the running sum of the allocations and frees
that torch's profiler records, or on CUDA what the allocator reports. `built` is skipped where W
alone would take more than `--most` GiB.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else the profiler reports that it starts

import torch
from torch import Tensor, nn
from torch.autograd.profiler import profile

from agents.cli import CommandParser, positive_count, run_command
from benchmarks.json_file import check_json_file, write_measurements
from benchmarks.markdown import markdown_table
from neurocoder import HyperLinear, NeurocoderLinear

PROG = "python -m benchmarks.layers"
SIZES = ((256, 18), (256, 1), (256, 256), (512, 512), (1024, 1024))
BATCHES = (1, 4, 16, 64, 160, 256, 1024)
QUICK_SIZES, QUICK_BATCHES = ((16, 4), (64, 64)), (1, 8)
GIB = 2**30


class BuiltLinear(nn.Module):
    """The Neurocoder as in the equations: build W for each input, then multiply.

    Args:
        layer: The layer that composes W.
    """

    def __init__(self, layer: NeurocoderLinear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Return y, shape (B, out), for x of shape (B, in)."""
        y = torch.bmm(x.unsqueeze(1), self.layer.working_program(x)).squeeze(1)
        return y if self.layer.bias is None else y + self.layer.bias


def variants(in_features: int, out_features: int) -> dict[str, nn.Module]:
    """Return one layer of each kind; the three Neurocoders have the same parameters."""
    layers = [NeurocoderLinear(in_features, out_features) for _ in range(3)]
    for other in layers[1:]:
        other.load_state_dict(layers[0].state_dict())
    layers[1].fused = False
    return {
        "neurocoder": layers[0],
        "autograd": layers[1],
        "built": BuiltLinear(layers[2]),
        "hypernet": HyperLinear(in_features, out_features),
        "linear": nn.Linear(in_features, out_features),
    }


def forward_call(layer: nn.Module, x: Tensor) -> Callable[[], Any]:
    """The call timed as "forward"."""

    def call() -> None:
        with torch.no_grad():
            layer(x)

    return call


def both_call(layer: nn.Module, x: Tensor) -> Callable[[], Any]:
    """The call timed as "both"; gradients accumulate in tensors allocated beforehand."""
    x = x.clone().requires_grad_()
    for tensor in (x, *layer.parameters()):
        tensor.grad = torch.zeros_like(tensor)
    dy = torch.randn_like(layer(x))
    return lambda: layer(x).backward(dy)


def seconds_per_call(call: Callable[[], Any], seconds: float) -> float:
    """Mean seconds per call, over at least `seconds` and one call."""
    synchronize()
    calls, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds or calls == 0:
        call()
        calls += 1
    synchronize()  # calls return before a GPU has finished them
    return (time.perf_counter() - start) / calls


def synchronize() -> None:
    """Wait for the GPU, if it has been used."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def peak_memory(call: Callable[[], Any]) -> int:
    """Peak bytes allocated during a call, above those allocated before it."""
    call()
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    with profile(use_cpu=True, profile_memory=True, use_kineto=True) as profiled:
        call()
    assert profiled.kineto_results is not None
    events = [e for e in profiled.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def measure_cell(
    in_features: int,
    out_features: int,
    batch: int,
    *,
    rounds: int,
    seconds: float,
    most: float,
    device: str = "cpu",
) -> dict[str, dict[str, Any]]:
    """Measure all variants at one size and batch: seconds of each round, and peak bytes."""
    layers = variants(in_features, out_features)
    if 4 * batch * in_features * out_features > most * GIB:
        del layers["built"]
    x = torch.randn(batch, in_features, device=device)
    for layer in layers.values():
        layer.to(device)
    calls = {
        name: {"forward": forward_call(layer, x), "both": both_call(layer, x)}
        for name, layer in layers.items()
    }
    cell: dict[str, dict[str, Any]] = {
        name: {"forward": [], "both": [], "bytes": peak_memory(call["both"])}
        for name, call in calls.items()
    }
    for _ in range(rounds):
        for name, call in calls.items():
            for what in ("forward", "both"):
                cell[name][what].append(seconds_per_call(call[what], seconds))
    return cell


def table(cells: list[dict[str, Any]]) -> str:
    """Milliseconds and MiB, with ratios between variants; "-" where not measured."""
    layers = ("neurocoder", "autograd", "built", "hypernet", "linear")
    ratios = (("autograd", "neurocoder"), ("built", "neurocoder"), ("neurocoder", "linear"))
    rows = []
    for cell in cells:
        for what in ("forward", "both", "bytes"):
            values = {
                name: result["bytes"] / 2**20 if what == "bytes" else 1e3 * median(result[what])
                for name, result in cell["results"].items()
            }
            unit = "MiB" if what == "bytes" else f"{what}, ms"
            numbers = [values.get(name) for name in layers]
            numbers += [_ratio(values.get(above), values.get(below)) for above, below in ratios]
            size = f"{cell['in_features']} -> {cell['out_features']}"
            rows.append((size, str(cell["batch"]), unit, *map(_show, numbers)))
    columns = ("size", "batch", "what", *layers, *map(" / ".join, ratios))
    return markdown_table(columns, rows)


def _ratio(above: float | None, below: float | None) -> float | None:
    return None if above is None or not below else above / below


def _show(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def main() -> int:
    """Measure, write JSON after each size and batch if asked, print a table; return 0.

    After Ctrl-C, the table shows what was measured so far.
    """
    parser = CommandParser(prog=PROG, description=__doc__)
    parser.add_argument(
        "--rounds", type=positive_count, default=5, help="measurements of each, whose median counts"
    )
    parser.add_argument("--seconds", type=float, default=0.02, help="duration of each measurement")
    parser.add_argument("--most", type=float, default=0.5, help="largest W to build, in GiB")
    parser.add_argument(
        "--size",
        type=positive_count,
        nargs=2,
        action="append",
        metavar=("IN", "OUT"),
        help="a size of the layers; may be given again",
    )
    parser.add_argument(
        "--batch", type=positive_count, action="append", help="inputs of a call; may be given again"
    )
    parser.add_argument("--threads", type=positive_count, default=1, help="threads on the CPU")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="where to measure")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, as a smoke test")
    parser.add_argument("--json", type=Path, help="file to write the single measurements to")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no CUDA device")
    check_json_file(args.json)
    torch.set_num_threads(args.threads)

    sizes = args.size or (QUICK_SIZES if args.quick else SIZES)
    batches = args.batch or (QUICK_BATCHES if args.quick else BATCHES)
    cells: list[dict[str, Any]] = []
    try:
        for in_features, out_features in sizes:
            for batch in batches:
                torch.manual_seed(0)
                results = measure_cell(
                    in_features,
                    out_features,
                    batch,
                    rounds=1 if args.quick else args.rounds,
                    seconds=0.001 if args.quick else args.seconds,
                    most=args.most,
                    device=args.device,
                )
                cells.append(
                    {
                        "in_features": in_features,
                        "out_features": out_features,
                        "batch": batch,
                        "results": results,
                    }
                )
                write_measurements(args.json, cells=cells)
                note = (
                    "" if "built" in results else f" (W of more than {args.most:g} GiB not built)"
                )
                print(
                    f"{in_features} -> {out_features}, batch {batch}: done{note}", file=sys.stderr
                )
    finally:
        if cells:
            print(table(cells))
    return 0


if __name__ == "__main__":
    run_command(main, PROG)
