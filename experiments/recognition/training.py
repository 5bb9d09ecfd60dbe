"""Training of picture classifiers, and their error."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.common.data import Images
from experiments.common.layers import auxiliary_loss
from experiments.common.processes import Scalar

BATCH = 128
_AT_ONCE = 1000
# Largest shift of augmented pictures, in pixels (He et al. 2016).
_SHIFT = 4


def train(
    model: nn.Module,
    images: Images,
    epochs: int,
    learning_rate: float,
    scalar: Scalar,
    *,
    orthogonality: float,
    augment: bool = False,
) -> list[float]:
    """Train with Adam, its learning rate annealed to zero; return the test error after each epoch.

    Args:
        model: maps pictures to logits.
        images: the training and test pictures.
        epochs: passes over the pictures.
        learning_rate: the learning rate at the start.
        scalar: called with name, value and epoch.
        orthogonality: weight of the Neurocoders' orthogonality loss.
        augment: whether a batch is mirrored and shifted at random.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    batches = -(-len(images.train) // BATCH)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, epochs * batches)
    errors = []
    for epoch in range(1, epochs + 1):
        model.train()
        for chosen in torch.randperm(len(images.train)).split(BATCH):
            optimizer.zero_grad()
            pictures = images.train[chosen]
            if augment:
                pictures = augmented(pictures)
            loss = F.cross_entropy(model(pictures), images.train_labels[chosen])
            (loss + auxiliary_loss(model, orthogonality=orthogonality)).backward()
            optimizer.step()
            schedule.step()
        errors.append(error_of(model, images.test, images.test_labels))
        scalar("loss", loss.item(), epoch)
        scalar("test_error", errors[-1], epoch)
    return errors


def augmented(pictures: Tensor) -> Tensor:
    """Randomly mirror each picture, and shift it by up to four pixels, filling with zeros."""
    count, _, height, width = pictures.shape
    mirrored = torch.where(torch.rand(count, 1, 1, 1) < 0.5, pictures.flip(-1), pictures)
    windows = F.pad(mirrored, (_SHIFT,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    down, right = torch.randint(0, 2 * _SHIFT + 1, (2, count))
    return windows[torch.arange(count), :, down, right]


@torch.no_grad()
def error_of(model: nn.Module, pictures: Tensor, labels: Tensor) -> float:
    """The fraction of misclassified images; NaN for a diverged model.

    The argmax of NaN logits is the first class, which would look like an error of 90 %.
    """
    model.eval()
    logits = torch.cat([model(part) for part in pictures.split(_AT_ONCE)])
    if not logits.isfinite().all():
        return math.nan
    return float((logits.argmax(dim=1) != labels).double().mean())
