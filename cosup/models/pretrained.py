"""Pretrained classifiers with their own classes, which are merged into those of a task."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cosup.models.classifier import Classifier
from cosup.models.networks import Network, build_network, with_classifier
from cosup.models.weights import load_into, read_weights
from cosup.protocols import NetworkOutput

__all__ = [
    "MergedClassifier",
    "class_names",
    "plain_name",
    "pretrained_classifier",
    "restored_classifier",
]

OWN = "pretrained"
"""The weights that a library publishes for a network."""


class MergedClassifier(Classifier):
    """A classifier of other classes, whose probabilities are added up to those of C classes.

    groups: [F] int64, for each of its F classes the one that it is a part of, or -1. The logits
    [B, C] are logarithms of the added probabilities, so that they sum to less than 1 where some of
    its classes are a part of none; -inf for a class without parts.
    """

    groups: Tensor

    def __init__(self, classifier: Classifier, groups: Tensor, num_classes: int) -> None:
        parts = classifier.name, classifier.model, classifier.input
        super().__init__(*parts, num_classes, classifier.slot)
        self.register_buffer("groups", groups, persistent=False)

    def logits(self, pixels: Tensor) -> Tensor:
        """Return log-probabilities [B, C] of normalised images."""
        return self._merged(super().logits(pixels))

    def outputs(self, pixels: Tensor) -> NetworkOutput:
        """Return log-probabilities, feature maps and embedding; see `Classifier.outputs`."""
        found = super().outputs(pixels)
        return NetworkOutput(self._merged(found.logits), found.maps, found.embedding)

    def _merged(self, logits: Tensor) -> Tensor:
        """Return the logarithms of sums of probabilities, by the largest term of each sum."""
        whole = logits.float()
        # Classes that are a part of none are collected in one more column.
        to = torch.where(self.groups < 0, self.num_classes, self.groups).expand_as(whole)
        blank = whole.new_zeros(len(whole), self.num_classes + 1)
        largest = blank.fill_(-torch.inf).scatter_reduce(1, to, whole, "amax")
        terms = (whole - largest.gather(1, to)).exp()
        sums = torch.zeros_like(largest).scatter_add(1, to, terms).log() + largest
        return sums[:, :-1] - whole.logsumexp(1, keepdim=True)


def pretrained_classifier(name: str, weights: str | None, image_size: int | None) -> Classifier:
    """Return a classifier with its own classes, in eval mode on the CPU.

    weights: None or `pretrained` for those that timm, torchvision or the hub have for this name; a
    file, or `package:MODULE`. Raises `UserError` as `build_network` does, and for weights that do
    not fit.
    """
    if weights not in (None, OWN):
        return restored_classifier(name, read_weights(weights), image_size, weights)
    network = build_network(name, OWN, image_size, published=True)
    return _classifier(network, network.num_features)


def restored_classifier(
    name: str, state: Mapping[str, Tensor], image_size: int | None, source: str = ""
) -> Classifier:
    """Return the classifier with these weights, which say how many classes it has.

    source: where they come from, for errors.
    """
    with torch.random.fork_rng(devices=[]):
        network = build_network(name, None, image_size)
        outputs = _outputs_of(network, state)
        with_classifier(network, outputs)
    load_into(network.model, state, source or name)
    return _classifier(network, outputs)


def _classifier(network: Network, outputs: int) -> Classifier:
    found = Classifier(network.name, network.model, network.input, outputs, network.slot)
    return found.eval()


def _outputs_of(network: Network, state: Mapping[str, Tensor]) -> int:
    """Return the number of classes of weights: the size of the tensors that depend on it, found by
    name (which may have a prefix), or else that of the last tensor."""
    one, two = (_shapes(with_classifier(network, count)) for count in (1, 2))
    last = [name for name in one if one[name] != two[name]]
    for name, tensor in state.items():
        if any(name == own or name.endswith(f".{own}") for own in last):
            return len(tensor)
    return next((len(t) for t in reversed(list(state.values())) if t.dim()), 1)


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def class_names(classifier: Classifier) -> list[frozenset[str]] | None:
    """Return the names of each class of a pretrained classifier, as `plain_name` gives them.

    Those of a hub's description, else ImageNet's (known by the number of classes): the synset and
    its lemmas (`n02123045`, `tabby`, `tabby cat`). None where they are not known.
    """
    from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

    about = getattr(classifier.model, "pretrained_cfg", None) or {}
    labels = about.get("label_names")
    if labels and len(labels) == classifier.num_classes:
        return [frozenset({plain_name(str(label))}) for label in labels]
    subset = infer_imagenet_subset({"num_classes": classifier.num_classes})
    if subset is None:
        return None
    info: Any = ImageNetInfo(subset)
    pairs = zip(info.label_names(), info.label_descriptions(), strict=True)
    return [frozenset(map(plain_name, [synset, text, *text.split(", ")])) for synset, text in pairs]


def plain_name(name: str) -> str:
    """Return a name as names are compared: in lower case, with single spaces."""
    return " ".join(name.replace("_", " ").casefold().split())
