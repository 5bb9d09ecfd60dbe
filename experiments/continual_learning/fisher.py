"""The diagonal of the Fisher information, from gradients of single images."""

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

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
