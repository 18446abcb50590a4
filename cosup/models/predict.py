"""What a network says of images: one pass without augmentation."""

from collections.abc import Iterable

import torch
from torch import Tensor

from cosup.models.classifier import Classifier
from cosup.models.device import Precision
from cosup.models.precision import autocast
from cosup.probabilities import ProbTable


@torch.inference_mode()
def predict_network(
    classifier: Classifier,
    batches: Iterable[Tensor],
    device: torch.device | str = "cpu",
    precision: Precision = "float32",
) -> ProbTable:
    """Probabilities of images, one row each and in their order.

    batches: uint8 [B, 3, S, S]. The classifier is moved to `device` and put into eval mode.
    """
    device = torch.device(device)
    classifier.to(device).eval()
    tables = [ProbTable.compress(torch.zeros(0, classifier.num_classes))]
    for images in batches:
        with autocast(device, precision):
            logits = classifier(images)
        tables.append(ProbTable.compress(logits.float().softmax(-1).cpu()))
    return ProbTable.concat(tables)
