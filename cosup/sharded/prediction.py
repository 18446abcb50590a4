"""Predictions of shards by networks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from cosup.data.transforms import Transform, eval_transform
from cosup.models.classifier import Classifier, build_classifier, predict_network
from cosup.models.compute import Compute
from cosup.models.section import BackboneSection
from cosup.probabilities import ProbTable
from cosup.protocols import by_fold
from cosup.sharded.store import FOLD, Product
from cosup.sharded.work import Done, ImageWork, Samples

__all__ = ["PredictNetwork", "predict_work"]


@dataclass(frozen=True)
class PredictNetwork(ImageWork):
    """Class probabilities by a network, or of each sample by that of its fold.

    section: what the networks are built from. states: their weights. folds: the product that has
    the samples' folds, where there are several networks.
    """

    processes = "features"
    name: str
    samples: Samples
    transform: Transform
    batch: int
    products: tuple[Product, ...]
    section: BackboneSection
    num_classes: int
    states: tuple[Mapping[str, Tensor], ...] = field(repr=False)
    folds: Product | None = None

    def begin_images(self, compute: Compute) -> Callable[[int, Iterator[Tensor]], Done]:
        """Return the function of a shard's number and its images."""
        networks = [self._network(state) for state in self.states]
        (product,), store = self.products, self.samples.store

        def process(number: int, batches: Iterator[Tensor]) -> Done:
            if self.folds is None:
                probs = predict_network(networks[0], batches, compute)
            else:
                folds = store.tensor(self.folds, number, FOLD).to(torch.int64)
                probs = predict_by_fold(networks, folds, batches, compute)
            return Done(len(probs), (store.write_probs(product, number, probs),))

        return process

    def _network(self, state: Mapping[str, Tensor]) -> Classifier:
        section = self.section
        network = build_classifier(section.name, self.num_classes, None, section.image_size)
        network.model.load_state_dict(dict(state))
        return network


def predict_by_fold(
    networks: Sequence[Classifier], folds: Tensor, batches: Iterator[Tensor], compute: Compute
) -> ProbTable:
    """Predict images, each by the network of its fold. folds: [n] int64 of the images in order."""
    tables = [ProbTable.compress(torch.zeros(0, networks[0].num_classes))]
    start = 0
    for images in batches:
        own = folds[start : start + len(images)]
        start += len(images)
        by_network = partial(_predict_rows, networks, images, compute)
        tables.append(by_fold(own, len(networks), by_network))
    return ProbTable.concat(tables)


def _predict_rows(
    networks: Sequence[Classifier], images: Tensor, compute: Compute, fold: int, rows: Tensor
) -> ProbTable:
    return predict_network(networks[fold], [images[rows]], compute)


def predict_work(
    product: Product,
    networks: Sequence[Classifier],
    section: BackboneSection,
    samples: Samples,
    compute: Compute,
    folds: Product | None = None,
) -> PredictNetwork:
    """Return the work that predicts with a network, or with one for each fold.

    product: what it writes. section: what the networks were built from. compute: of the processes
    that predict. folds: the product that has the samples' folds.
    """
    first = networks[0]
    states = (network.model.state_dict() for network in networks)
    return PredictNetwork(
        f"predictions of {product.name}",
        samples,
        eval_transform(first.input),
        compute.batch_size,
        (product,),
        section,
        first.num_classes,
        tuple({name: one.detach().cpu() for name, one in state.items()} for state in states),
        folds,
    )
