"""What `nn.Linear` can do, as functions that fail where a layer in its place cannot.

`python -m tests.neurocoder.capabilities` prints the tables of `docs/layers.md`.
"""

import copy
import io
import pickle
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, vmap
from torch.nn.utils import parametrize

from neurocoder import MoELinear, NeurocoderLinear, NSMLinear
from tests.neurocoder.every_layer import LAYERS, make


@dataclass(frozen=True)
class Capability:
    """A column of a table, and the function of the kind of layer that holds it."""

    table: str
    name: str
    check: Callable
    slow: bool


CAPABILITIES = []

SCRIPT = "TorchScript does not compile these layers' Python; trace or export them."
FX = "`torch.fx` refuses the check of the input's shape; make the layer a leaf of the tracer."
ROUNDED = (
    "Attention magnifies the rounding of converted parameters: see the docstring of "
    "`NeurocoderLinear`. Autocast does not round them."
)
ALL_EXPERTS = "Every expert is computed for every input, not only the chosen ones."
INNER_HOOKS = "Hooks of the layer's own submodules are called with `fused = False` only."
FLOAT = "The layer itself stays as it is; layers around it are converted."
SECOND = "Second derivatives of a parametrized layer need `fused = False`."
REENTRANT = "With `use_reentrant=False`; otherwise its balancing loss has no gradient."
KEYS = "Except of `keys`: PyTorch keeps parametrizations under their names in a `ModuleDict`."

UNSUPPORTED = {
    **{(kind, "`torch.jit.script`"): SCRIPT for kind in LAYERS},
    **{(kind, "`torch.fx`"): FX for kind in LAYERS},
}
NOTES = {
    (NeurocoderLinear, "`float16`"): ROUNDED,
    (NeurocoderLinear, "`bfloat16`"): ROUNDED,
    (NeurocoderLinear, "forward hooks"): INNER_HOOKS,
    (NeurocoderLinear, "backward hooks"): INNER_HOOKS,
    (NeurocoderLinear, "parametrizations"): SECOND,
    (MoELinear, "checkpointing"): REENTRANT,
    (NSMLinear, "parametrizations"): KEYS,
    **{(kind, "dynamic quantisation"): FLOAT for kind in (NeurocoderLinear, MoELinear, NSMLinear)},
    **{
        (MoELinear, name): ALL_EXPERTS
        for name in (
            *("`grad`", "`vmap`", "`jvp`", "`torch.compile`", "`torch.export`"),
            *("`torch.jit.trace`", "`SummaryWriter.add_graph`"),
        )
    },
}


def capability(table, name, *, slow=False):
    """Add a check to a table."""

    def add(check):
        CAPABILITIES.append(Capability(table, name, check, slow))
        return check

    return add


def tables():
    """The tables of the page, with their notes."""
    notes, text = [], []

    def cell(kind, name):
        reason = UNSUPPORTED.get((kind, name))
        note = reason or NOTES.get((kind, name))
        if note and note not in notes:
            notes.append(note)
        number = f" ({notes.index(note) + 1})" if note else ""
        return ("no" if reason else "yes") + number

    for table in dict.fromkeys(c.table for c in CAPABILITIES):
        names = [c.name for c in CAPABILITIES if c.table == table]
        text += [f"### {table}", "", f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
        for kind in LAYERS:
            text.append(f"| `{kind.__name__}` | {' | '.join(cell(kind, n) for n in names)} |")
        text.append("")
    return "\n".join(text + [f"{number}. {note}" for number, note in enumerate(notes, 1)]) + "\n"


def errors(kind, dtype, *, convert):
    """Relative errors of 16-bit output vectors in percent, a tensor."""
    found = []
    for seed in range(3):
        torch.manual_seed(seed)
        layer, x = make(kind, 64, 10).eval(), torch.randn(256, 64)
        exact = layer(x)
        if convert:
            y = copy.deepcopy(layer).to(dtype)(x.to(dtype))
        else:
            with torch.autocast("cpu", dtype):
                y = layer(x)
        found.append((y.float() - exact).norm(dim=1) / exact.norm(dim=1))
    return 100 * torch.cat(found)


@torch.no_grad()
def precision_rows():
    """The rows of the page's table of errors: for each layer, lists of mean and worst."""
    halves = (torch.bfloat16, torch.float16)
    for kind in (nn.Linear, *LAYERS):
        found = [errors(kind, dtype, convert=c) for c in (False, True) for dtype in halves]
        name = "nn.Linear" if kind is nn.Linear else kind.__name__
        yield name, [(e.mean().item(), e.max().item()) for e in found]


def precision_table():
    """These rows as the page has them."""
    rows = precision_rows()
    return "".join(
        f"| `{name}` | {' | '.join(f'{mean:.2g} %, {worst:.2g} %' for mean, worst in numbers)} |\n"
        for name, numbers in rows
    )


def layer_of(kind, **arguments):
    """A small layer that computes the same in every call."""
    return make(kind, 6, 5, **arguments).eval()


def close(got, expected, error=1e-4):
    assert got.shape == expected.shape
    assert (got - expected).norm() <= error * expected.norm()


def numbers(dtype):
    def check(kind):
        layer, x = layer_of(kind, dtype=dtype), torch.randn(32, 6, dtype=dtype)
        y = layer(x)
        assert y.dtype == dtype
        expected = copy.deepcopy(layer).double()(x.double())
        close(y.double(), expected, max(1e-5, 2 * torch.finfo(dtype).eps))
        y.sum().backward()
        assert all(p.grad.isfinite().all() for p in layer.parameters() if p.grad is not None)

    return check


for of_layer in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
    capability("Numbers", f"`{str(of_layer).removeprefix('torch.')}`")(numbers(of_layer))


@capability("Numbers", "autocast")
def autocast(kind):
    layer, x = layer_of(kind), torch.randn(32, 6)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            y = layer(x)
        assert y.dtype == dtype
        close(y.float(), layer(x), torch.finfo(dtype).eps)
        y.float().sum().backward()


@capability("Numbers", "meta device")
def meta_device(kind):
    with torch.device("meta"):
        layer = layer_of(kind)
        assert layer(torch.randn(3, 6)).shape == (3, 5)
    layer.to_empty(device="cpu").reset_parameters()
    assert layer(torch.randn(3, 6)).isfinite().all()


def shaped(*lead):
    def check(kind):
        layer, x = layer_of(kind), torch.randn(*lead, 6, requires_grad=True)
        y = layer(x)
        assert y.shape == (*lead, 5)
        y.sum().backward()
        assert x.grad.shape == x.shape
        rows = [layer(row) for row in x.reshape(-1, 6)]
        if rows:
            close(y.reshape(-1, 5), torch.stack(rows))

    return check


capability("Inputs", "one vector")(shaped())
capability("Inputs", "more leading dimensions")(shaped(2, 1, 3))
capability("Inputs", "empty batch")(shaped(2, 0))


@capability("Inputs", "not contiguous")
def not_contiguous(kind):
    layer, x = layer_of(kind), torch.randn(6, 4, 9).permute(2, 1, 0)[::2]
    close(layer(x), layer(x.contiguous()))


@capability("Inputs", "output changed in place")
def output_in_place(kind):
    for lead in ((3,), (2, 2), ()):
        layer, x = layer_of(kind), torch.randn(*lead, 6, requires_grad=True)
        expected = torch.autograd.grad(layer(x).relu().square().sum(), x)[0]
        y = layer(x)
        y.relu_()
        close(torch.autograd.grad(y.square().sum(), x)[0], expected)


@capability("Inputs", "`inference_mode`")
def inference_mode(kind):
    layer, x = layer_of(kind), torch.randn(3, 6)
    with torch.inference_mode():
        y = layer(x)
    close(y.clone(), layer(x))


@capability("Derivatives", "`backward`")
def backward(kind):
    layer, x = layer_of(kind).double(), torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, x)


@capability("Derivatives", "second derivatives")
def second_derivatives(kind):
    layer, x = layer_of(kind).double(), torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: layer(x).square(), x)


@capability("Derivatives", "vectorised Jacobians")
def vectorised_jacobians(kind):
    layer, x = layer_of(kind), torch.randn(2, 6, requires_grad=True)
    expected = torch.autograd.functional.jacobian(layer, x)
    close(torch.autograd.functional.jacobian(layer, x, vectorize=True), expected)
    y, rows = layer(x), torch.eye(10).view(10, 2, 5)
    for batched in (
        torch.autograd.grad(y, x, rows, retain_graph=True, is_grads_batched=True)[0],
        vmap(lambda row: torch.autograd.grad(y, x, row, retain_graph=True)[0])(rows),
    ):
        close(batched.view(2, 5, 2, 6), expected)
    second = [
        torch.autograd.functional.hessian(lambda x: layer(x).square().sum(), x, vectorize=v)
        for v in (False, True)
    ]
    close(*second)


@capability("Derivatives", "checkpointing")
def checkpointing(kind):
    layer, x = layer_of(kind), torch.randn(3, 6, requires_grad=True)
    (expected,) = torch.autograd.grad(layer(x).sum(), x)
    y = torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False)
    close(torch.autograd.grad(y.sum(), x)[0], expected)


@capability("Derivatives", "`grad`")
def func_grad(kind):
    layer, x = layer_of(kind), torch.randn(3, 6)
    parameters = {name: p.detach() for name, p in layer.named_parameters()}
    got = grad(lambda p: functional_call(layer, p, (x,)).square().sum())(parameters)
    layer(x).square().sum().backward()
    for name, p in layer.named_parameters():
        close(got[name], torch.zeros_like(p) if p.grad is None else p.grad)


@capability("Derivatives", "`vmap`")
def func_vmap(kind):
    layers, x = [layer_of(kind) for _ in range(3)], torch.randn(4, 2, 6)
    close(vmap(layers[0])(x), layers[0](x))
    parameters, _ = torch.func.stack_module_state(layers)
    ensemble = vmap(lambda p, x: functional_call(layers[0], p, (x,)), in_dims=(0, None))
    close(ensemble(parameters, x), torch.stack([layer(x) for layer in layers]))


@capability("Derivatives", "`jvp`")
def func_jvp(kind):
    layer, x = layer_of(kind), torch.randn(6)
    y, tangent = jvp(layer, (x,), (torch.ones(6),))
    close(y, layer(x))
    close(jacrev(layer)(x).sum(1), tangent)
    close(jacfwd(layer)(x).sum(1), tangent)


@capability("Graphs", "`torch.compile`", slow=True)
def compiled(kind):
    layer = layer_of(kind)
    run = torch.compile(layer, fullgraph=True, dynamic=True)
    for batch in (3, 7):
        x = torch.randn(batch, 6, requires_grad=True)
        y, expected = run(x), layer(x)
        close(y, expected)
        close(*(torch.autograd.grad(out.square().sum(), x)[0] for out in (y, expected)))


@capability("Graphs", "`torch.export`", slow=True)
def exported(kind):
    layer = layer_of(kind)
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(layer, (torch.randn(3, 6),), dynamic_shapes=shapes)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    run = torch.export.load(file).module()
    for batch in (1, 7):
        x = torch.randn(batch, 6)
        close(run(x), layer(x))


@capability("Graphs", "`torch.jit.trace`")
def traced(kind):
    layer, file = layer_of(kind), io.BytesIO()
    torch.jit.save(torch.jit.trace(layer, torch.randn(3, 6)), file)
    file.seek(0)
    run = torch.jit.load(file)
    for batch in (1, 7):
        x = torch.randn(batch, 6)
        close(run(x), layer(x))


@capability("Graphs", "`SummaryWriter.add_graph`")
def add_graph(kind):
    from torch.utils.tensorboard import SummaryWriter

    with tempfile.TemporaryDirectory() as folder, SummaryWriter(folder) as writer:
        writer.add_graph(make(kind, 6, 5), torch.randn(3, 6))


@capability("Graphs", "`torch.jit.script`")
def scripted(kind):
    torch.jit.script(layer_of(kind))


@capability("Graphs", "`torch.fx`")
def symbolically_traced(kind):
    layer, x = layer_of(kind), torch.randn(3, 6)
    close(torch.fx.symbolic_trace(layer)(x), layer(x))


@capability("Modules", "forward hooks")
def forward_hooks(kind):
    layer, seen = layer_of(kind), []
    layer.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].shape))
    layer.register_forward_hook(lambda _, __, y: seen.append(y.shape))
    layer(torch.randn(3, 6))
    assert seen == [(3, 6), (3, 5)]


@capability("Modules", "backward hooks")
def backward_hooks(kind):
    layer, seen = layer_of(kind), []
    layer.register_full_backward_hook(lambda _, dx, dy: seen.extend([dx[0].shape, dy[0].shape]))
    layer(torch.randn(3, 6, requires_grad=True)).sum().backward()
    assert seen == [(3, 6), (3, 5)]


class Half(nn.Module):
    """A parametrization: a tensor is half of what is stored."""

    def forward(self, stored):
        return stored / 2

    def right_inverse(self, tensor):
        return tensor * 2


@capability("Modules", "parametrizations")
def parametrizations(kind):
    layer, x = layer_of(kind), torch.randn(3, 6)
    names = [name for name, _ in layer.named_parameters() if name != "keys"]
    expected = layer(x)
    for name in names:
        owner, _, tensor = name.rpartition(".")
        parametrize.register_parametrization(layer.get_submodule(owner), tensor, Half())
    close(layer(x), expected)
    layer(x).sum().backward()
    stored = {name: p for name, p in layer.named_parameters() if name.endswith(".original")}
    assert len(stored) == len(names)
    unused = [name for name, p in stored.items() if p.grad is None]
    assert unused == (["parametrizations.noise.original"] if kind is MoELinear else [])


@capability("Modules", "dynamic quantisation")
def dynamic_quantisation(kind):
    model = nn.Sequential(nn.Linear(6, 6), layer_of(kind)).eval()
    quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear})
    x = torch.randn(32, 6)
    around = quantised[0](x)
    untouched = (kind, "dynamic quantisation") in NOTES
    close(quantised(x), model[1](around), 0 if untouched else 0.05)


@capability("Modules", "`apply` of `reset_parameters`")
def apply_reset(kind):
    model, x = nn.Sequential(layer_of(kind)), torch.randn(32, 6)
    before = model(x)
    model.apply(lambda m: m.reset_parameters() if hasattr(m, "reset_parameters") else None)
    y = model(x)
    assert (y - before).abs().max() > 0.01
    assert 0.1 < y.std() < 3


@capability("Modules", "`deepcopy`")
def deep_copy(kind):
    layer, x = layer_of(kind), torch.randn(3, 6)
    layer.train()(x).sum().backward()
    twin = copy.deepcopy(layer).eval()
    expected = layer.eval()(x)
    with torch.no_grad():
        for p in layer.parameters():
            p.zero_()
    close(twin(x), expected)


@capability("Modules", "`pickle`")
def pickled(kind):
    layer, x = layer_of(kind), torch.randn(3, 6)
    layer.train()(x)
    close(pickle.loads(pickle.dumps(layer)).eval()(x), layer.eval()(x))


@capability("Modules", "`state_dict`")
def state_dict(kind):
    layer, other, x, file = layer_of(kind), layer_of(kind), torch.randn(3, 6), io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    close(other(x), layer(x))


def _one_of_two(rank, kind, folder):
    """Both processes have the same layer; the second has no inputs in the second step."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    layer, x = make(kind, 6, 5).train(), torch.randn(2, 3, 6)
    torch.randn_like = torch.zeros_like  # MoE's noise, which would not be the same alone
    alone, wrapped = copy.deepcopy(layer), nn.parallel.DistributedDataParallel(layer)
    for shards in (x, (x[0], x[1, :0])):
        wrapped.zero_grad()
        wrapped(shards[rank]).sum().backward()
        alone.zero_grad()
        sum(alone(shard).sum() / 2 for shard in shards).backward()
        for got, expected in zip(layer.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(got.grad, expected.grad, rtol=1e-4, atol=1e-5)
    # A connection that the other closes first ends this process.
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@capability("Modules", "`DistributedDataParallel`", slow=True)
def data_parallel(kind):
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_one_of_two, (kind, folder), nprocs=2)


if __name__ == "__main__":
    print(precision_table())
    print(tables())
