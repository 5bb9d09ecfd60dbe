"""The diagonal of the Fisher information, from gradients of single images."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, vmap

# Every image's gradients are held at once for this many images.
_IMAGES_AT_ONCE = 16


def fisher_diagonal(model: nn.Module, images: Tensor, task: int) -> list[Tensor]:
    """F_i = mean over images x, sum over classes y of p(y | x) (d log p(y | x) / d theta_i)^2.

    The expectation over y is taken under the model, exactly, class by class, so that neither labels
    nor samples are needed. The square of a batch's mean gradient, which is often taken for this, is
    something else.

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
    """Mean over images of the squared gradient of the loss for the class that is predicted.

    This is what the benchmark of Hsu et al. (2018) takes for the Fisher information. The
    Neurocoder's authors add their layers' orthogonality loss to every image's loss, so that its
    gradient, which no image has a part in, counts as importance too.

    Args:
        model: as for `fisher_diagonal`.
        images: shape (N, in), N at least 1.
        task: which task's logits.
        auxiliary_loss: of the model; it is added to each image's loss.

    Returns:
        As `fisher_diagonal`.

    Raises:
        ValueError: if there are no images.
    """
    if len(images) == 0:
        raise ValueError("the Fisher information needs at least one image")
    named = dict(model.named_parameters())
    parameters = {name: p.detach() for name, p in named.items()}
    constant: dict[str, Tensor | None] = dict.fromkeys(named)
    if auxiliary_loss is not None:
        extra = auxiliary_loss(model)
        if extra.requires_grad:
            slopes = torch.autograd.grad(extra, list(named.values()), allow_unused=True)
            constant = dict(zip(named, slopes, strict=True))

    def loss(values: dict[str, Tensor], image: Tensor) -> Tensor:
        logits = functional_call(model, values, (image.unsqueeze(0), task))
        return -torch.log_softmax(logits.squeeze(0), dim=-1).amax()

    of_each_image = vmap(grad(loss), in_dims=(None, 0))
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for chunk in images.split(_IMAGES_AT_ONCE):
        for name, slope in of_each_image(parameters, chunk).items():
            every = constant[name]
            # In place, since memory is what this waits for; what is not the caller's is ours.
            whole = slope.contiguous() if every is None else slope + every
            total[name] += whole.square_().sum(0)
    return [t / len(images) for t in total.values()]
