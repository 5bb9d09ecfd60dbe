"""The diagonal of the Fisher information, from gradients of single images."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, vmap

from neurocoder import NSMLinear

# The number of images whose gradients are all held at once.
_IMAGES_AT_ONCE = 16
# The same where the gradients of the large weights are computed as products.
_IMAGES_OF_REST = 64
# The number of images whose activations are held at once for those products.
_IMAGES_OF_PRODUCTS = 256


def fisher_diagonal(model: nn.Module, images: Tensor, task: int) -> list[Tensor]:
    """F_i = mean over images x, sum over classes y of p(y | x) (d log p(y | x) / d theta_i)^2.

    The expectation over y is taken under the model, exactly, class by class, so that neither labels
    nor samples are needed. The square of a batch's mean gradient, which is often used instead, is
    not the same.

    Args:
        model: called as model(images, task), it returns logits of shape (N, classes).
        images: shape (N, in), N at least 1.
        task: which task's logits.

    Returns:
        One tensor for each parameter of the model, in their order and of their shape, nowhere
        negative; zeros for parameters that the logits do not depend on.

    Raises:
        ValueError: if there are no images.
    """
    if len(images) == 0:
        raise ValueError("the Fisher information needs at least one image")
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def log_probability(values: dict[str, Tensor], image: Tensor) -> tuple[Tensor, Tensor]:
        logits = functional_call(model, values, (image.unsqueeze(0), task))
        log_p = torch.log_softmax(logits.squeeze(0), dim=-1)
        return log_p, log_p

    of_each_image = vmap(jacrev(log_probability, has_aux=True), in_dims=(None, 0))
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for chunk in images.split(_IMAGES_AT_ONCE):
        slopes, log_p = of_each_image(parameters, chunk)  # (n, classes, *shape), (n, classes)
        for name, slope in slopes.items():
            # sum over n and y of p(y | x_n) slope^2
            total[name] += torch.einsum("ny,ny...->...", log_p.exp(), slope.square())
    return [t / len(images) for t in total.values()]


def squared_gradients(
    model: nn.Module,
    images: Tensor,
    task: int,
    auxiliary_loss: Callable[[nn.Module], Tensor] | None = None,
) -> list[Tensor]:
    """Mean over images of the squared gradient of the loss for the predicted class.

    The benchmark of Hsu et al. (2018) uses this as the Fisher information. The Neurocoder's authors
    add their layers' orthogonality loss to every image's loss, so that its gradient, which does not
    depend on any image, counts as importance too.

    For a weight that multiplies an image's activation x, the image's gradient is x times the
    gradient g of the product. So the sum over images of (x g + c)^2, with c the part of the
    auxiliary loss, is that of x^2 g^2 + 2 c x g + c^2: three matrix products. They are used for the
    weights of `nn.Linear`, and for stored programs with a x instead of x, a being a program's
    attention. The gradients of other parameters are computed image by image.

    Args:
        model: as for `fisher_diagonal`.
        images: shape (N, in), N at least 1.
        task: which task's logits.
        auxiliary_loss: auxiliary loss of the model, added to each image's loss.

    Returns:
        As in `fisher_diagonal`.

    Raises:
        ValueError: if there are no images.
    """
    if len(images) == 0:
        raise ValueError("the Fisher information needs at least one image")
    parameters = dict(model.named_parameters())
    constant: dict[str, Tensor] = {name: torch.zeros_like(p) for name, p in parameters.items()}
    if auxiliary_loss is not None:
        extra = auxiliary_loss(model)
        if extra.requires_grad:
            slopes = torch.autograd.grad(extra, list(parameters.values()), materialize_grads=True)
            constant = dict(zip(parameters, slopes, strict=True))
    linear = _linear_in_activations(model, images, task)
    total = _sums_of_products(model, images, task, linear, constant)
    detached = {name: p.detach() for name, p in parameters.items()}
    others = {name: p for name, p in detached.items() if name not in total}

    def loss(values: dict[str, Tensor], image: Tensor) -> Tensor:
        logits = functional_call(model, {**detached, **values}, (image.unsqueeze(0), task))
        return _losses(logits).squeeze(0)

    total |= {name: torch.zeros_like(p) for name, p in others.items()}
    of_each_image = vmap(grad(loss), in_dims=(None, 0))
    for chunk in images.split(_IMAGES_OF_REST) if others else ():
        for name, slope in of_each_image(others, chunk).items():
            # In place, since memory bandwidth limits this.
            total[name] += (slope + constant[name]).square_().sum(0)
    return [total[name] / len(images) for name in parameters]


def _losses(logits: Tensor) -> Tensor:
    """Each image's loss for the predicted class, shape (N,)."""
    return -torch.log_softmax(logits, dim=-1).amax(dim=-1)


@dataclass(frozen=True)
class _Call:
    """A layer's input, shape (N, in), and output, shape (N, out)."""

    x: Tensor
    y: Tensor


@contextmanager
def _recorded(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, list[_Call]]]:
    """Collect the calls of layers, by name."""
    calls: dict[str, list[_Call]] = {name: [] for name in layers}

    def recorder(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda _, x, y: calls[name].append(_Call(x[0], y))

    hooks = [layer.register_forward_hook(recorder(name)) for name, layer in layers.items()]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def _linear_in_activations(model: nn.Module, images: Tensor, task: int) -> dict[str, nn.Module]:
    """The layers that are called once, with exactly one row for each image.

    A key network, for example, has a row for each slot. A call with one image and a call with two
    show which layers qualify.
    """
    layers: dict[str, nn.Module] = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear | NSMLinear)
    }
    for count in (1, 2):
        with torch.no_grad(), _recorded(layers) as calls:
            model(images[:1].expand(count, -1), task)
        shapes = {name: [call.x.shape for call in calls[name]] for name in layers}
        layers = {
            name: layer
            for name, layer in layers.items()
            if len(shapes[name]) == 1 and shapes[name][0][:-1] == (count,)
        }
    return layers


def _sums_of_products(
    model: nn.Module,
    images: Tensor,
    task: int,
    layers: Mapping[str, nn.Module],
    constant: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Sum over images of (x g + c)^2, by parameter name, for the weights and biases of layers."""
    total: dict[str, Tensor] = {}

    def add(name: str, x: Tensor, g: Tensor) -> None:
        """Add the sum for a parameter of shape (rows, columns), x (N, columns) and g (N, rows)."""
        c = constant[name].view(-1, x.shape[1])
        found = g.square().T @ x.square() + 2 * c * (g.T @ x) + len(x) * c.square()
        total[name] = total.get(name, 0) + found.view_as(constant[name])

    for chunk in images.split(_IMAGES_OF_PRODUCTS) if layers else ():
        with _recorded(layers) as calls:
            losses = _losses(model(chunk, task))
        made = [calls[name][0] for name in layers]
        slopes = torch.autograd.grad(
            losses.sum(), [call.y for call in made], materialize_grads=True
        )
        for (name, layer), call, g in zip(layers.items(), made, slopes, strict=True):
            x = call.x.detach()
            ones = x.new_ones(len(x), 1)
            if isinstance(layer, NSMLinear):
                attention = layer.attention(x).detach()
                scaled = (attention.unsqueeze(2) * x.unsqueeze(1)).flatten(1)  # (N, programs * in)
                add(f"{name}.programs", g, scaled)
                if layer.bias is not None:
                    add(f"{name}.bias", g, attention)
            else:
                add(f"{name}.weight", x, g)
                if layer.bias is not None:
                    add(f"{name}.bias", ones, g)
    return total
