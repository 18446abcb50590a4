"""A student that is a whole network: its training reads the images of shards where it runs.

Each process of the training looks up the samples of a step, reads their shards' rows and targets,
and decodes their images; it keeps the shards of about one window in memory. Any step can be looked
up, so that processes load steps ahead, and a training is resumed at any step.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from cosup.config.student import StudentSection
from cosup.data.loader import ImageRows, augmented, load_steps
from cosup.data.table import ImageData
from cosup.data.transforms import eval_transform
from cosup.models.classifier import Classifier, build_classifier
from cosup.models.compute import Compute
from cosup.models.images import TwoViews, training_transform
from cosup.models.train import Batch, Batches
from cosup.models.training_section import TrainingSection
from cosup.models.watch import OnStep
from cosup.probabilities import ProbTable
from cosup.protocols import Guidance, TestInputs, predict_sets
from cosup.seeds import seed_for
from cosup.sharded.lesson import LabelledRows, Lesson, ShardSamples, State, Trained
from cosup.sharded.order import ShardOrder
from cosup.sharded.prediction import predict_work
from cosup.sharded.shards import Shard
from cosup.sharded.store import Product
from cosup.sharded.work import Executor, Samples, Work
from cosup.student import jobs
from cosup.student.launcher import Launcher

__all__ = ["ShardNetwork"]


@dataclass(frozen=True)
class ShardNetwork:
    """Trains networks. data: the listed samples. test: the images of the test split, or of several
    sets of test samples.

    compute: of this process, with a folder for the states of unfinished trainings as its scratch.
    there: of the processes that predict shards.
    """

    section: StudentSection
    num_classes: int
    data: ImageData
    test: TestInputs
    launcher: Launcher
    compute: Compute
    there: Compute

    @property
    def training(self) -> TrainingSection:
        """Return the settings of its training."""
        return self.section.training

    def fit(self, lesson: Lesson, executor: Executor, on_step: OnStep | None) -> Trained:
        """Train a network on a lesson, and one more on each subset, side by side where there is
        room."""
        samples = lesson.samples
        trainings = [self._job(lesson, samples, "update", lesson.name)]
        for place in range(len(samples.subsets)):
            name = f"{lesson.name}-fold-{place}"
            trainings.append(self._job(lesson, samples.subset(place), f"fold-{place}", name))
        networks = self.launcher.networks(trainings, self.data, self.compute, on_step)
        state, *folds = map(_tensors, networks)
        return Trained(state, tuple(folds))

    def predicting(
        self,
        source: Samples,
        features: Product,
        trained: Trained,
        product: Product,
        folds: Product | None = None,
    ) -> Work[Any]:
        """Return the work that predicts shards with a network, or one for each fold."""
        networks = [self._network(0, state) for state in trained.folds or [trained.state]]
        own = folds if trained.folds else None
        return predict_work(product, networks, self.section.backbone, source, self.there, own)

    def predict_test(self, trained: Trained) -> ProbTable:
        """Predict the test samples, set by set."""
        network = self._network(0, trained.state)

        def predict(images: TestInputs) -> ProbTable:
            assert isinstance(images, ImageRows), "a network reads images"
            return self.launcher.predict(network, images, self.compute)

        return predict_sets(self.test, predict)

    def _job(self, lesson: Lesson, samples: ShardSamples, purpose: str, name: str) -> "ShardJob":
        empty = ProbTable.compress(torch.zeros(0, lesson.num_classes))
        nothing = jobs.Lesson(np.empty(0, np.int64), empty, torch.zeros(0), Guidance())
        return ShardJob(
            self._network(lesson.seed, lesson.start),
            nothing,
            torch.zeros(0, dtype=torch.int64),
            lesson.objective,
            self.training,
            lesson.steps(self.training),
            seed_for(lesson.seed, purpose),
            name,
            samples=samples,
        )

    def _network(self, seed: int, state: State | None) -> Classifier:
        """Return a network with these tensors, or with initial weights."""
        backbone = self.section.backbone
        network = build_classifier(
            backbone.name,
            self.num_classes,
            None if state is not None else backbone.weights,
            backbone.image_size,
            seed,
            drop_path=self.training.drop_path,
        )
        if state is not None:
            network.model.load_state_dict(dict(state))
        return network


@dataclass(frozen=True)
class ShardJob(jobs.NetworkJob):
    """Trains a network on the samples of shards that are kept, in place of a lesson's."""

    samples: ShardSamples = field(kw_only=True)

    def workers(self, most: int) -> int:
        """Return how many workers train it together; as for other trainings."""
        jobs.check_shares(self.training, len(self.samples), most)
        return most

    def identity(self, data: ImageData) -> str:
        """Hash what is learned: the decisions of the round, which depend on all before."""
        samples = self.samples
        about = f"{data.fingerprint} {self.objective!r} {samples.products} {samples.source.key}"
        about += f" {samples.only}"
        return hashlib.sha256(about.encode()).hexdigest()

    def batches(self, data: ImageData, compute: Compute) -> Batches:
        """Return the function of a step that yields the batches from there on."""
        source = _Steps(self, data, compute)
        workers = compute.workers if data.images.files else 0

        def batches(start: int) -> Iterator[Batch]:
            with closing(load_steps(source, range(start, self.steps), workers)) as stream:
                for images, targets, weights, labels in stream:
                    plain = images[:, 3:] if images.shape[1] > 3 else None
                    yield Batch(images[:, :3], targets, weights, labels, plain=plain)

        return batches


def _tensors(network: Classifier) -> State:
    return {name: tensor.cpu() for name, tensor in network.model.state_dict().items()}


class _Loaded(NamedTuple):
    """The kept samples of a shard, or the labelled ones. images: their numbers in `data.images`."""

    data: ImageData
    images: NDArray[np.int64]
    targets: ProbTable
    weights: Tensor
    labels: Tensor


class _Steps(Dataset[Any]):
    """The batch of a step by its number: (images, targets, weights, labels), or an error message.

    The images without augmentation follow as further channels, for an objective that corrects
    labels. data: the listed samples.
    """

    def __init__(self, job: ShardJob, data: ImageData, compute: Compute) -> None:
        samples, training, ranks = job.samples, job.training, compute.ranks
        self.samples, self.used = samples, samples.used
        self.seed = seed_for(job.seed, "batches")
        size = training.batch_for(len(samples), ranks.size)
        counts = [kept for kept in samples.kept if kept]
        self.order = ShardOrder(counts, size, self.seed, labelled=samples.labelled)
        if samples.labelled is not None:
            self.labelled = _labelled(samples.labelled, data, job.classifier.num_classes)
        spec, objective = job.classifier.input, job.objective
        transform = training_transform(training.augment, spec)
        both = objective.own_labels and objective.true_label_weight
        self.transform = TwoViews(transform, eval_transform(spec)) if both else transform
        self.rank, self.ranks = ranks.rank, ranks.size
        self.loaded: OrderedDict[int, _Loaded] = OrderedDict()

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor] | str:
        whole = self.order.places(step)
        first, stop = (len(whole) * rank // self.ranks for rank in (self.rank, self.rank + 1))
        own = whole[first:stop].tolist()
        found = {place: self._at(place) for place, _ in own}
        reads = (
            partial(found[place].data.images.read, int(found[place].images[row]))
            for place, row in own
        )
        images = augmented(reads, self.transform, self.seed, step, first)
        if isinstance(images, str):
            return images
        rows = [(found[place], torch.tensor([row])) for place, row in own]
        targets = torch.cat([shard.targets.dense(row) for shard, row in rows])
        weights = torch.cat([shard.weights[row] for shard, row in rows])
        return images, targets, weights, torch.cat([shard.labels[row] for shard, row in rows])

    def _at(self, place: int) -> _Loaded:
        """Return the samples of a place of the order."""
        return self._load(self.used[place]) if place < len(self.used) else self.labelled

    def _load(self, shard: Shard) -> _Loaded:
        """Return the kept samples of a shard; those used last stay in memory."""
        if shard.number not in self.loaded:
            samples = self.samples
            data, (weights, labels, _) = samples.source.read(shard), samples.marks(shard)
            kept = torch.nonzero(weights > 0)[:, 0]
            images = data.table["image"].to_numpy(np.int64)[kept.numpy()]
            self.loaded[shard.number] = _Loaded(
                data, images, samples.targets(shard).take(kept), weights[kept], labels[kept]
            )
            while len(self.loaded) > self.order.most_shards:
                self.loaded.popitem(last=False)
        self.loaded.move_to_end(shard.number)
        return self.loaded[shard.number]


def _labelled(rows: LabelledRows, data: ImageData, num_classes: int) -> _Loaded:
    """Return labelled samples, which have no annotation."""
    images = data.table["image"].to_numpy(np.int64)[rows.rows.numpy()]
    nothing = ProbTable.one_hot(torch.full((len(rows),), -1), num_classes)
    return _Loaded(data, images, nothing, torch.ones(len(rows)), rows.labels)
