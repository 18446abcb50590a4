"""A student that is a whole network, trained on images."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from cosup.data.episodes import EpisodeRows
from cosup.data.loader import ImageRows, image_batches
from cosup.data.table import ImageData
from cosup.data.transforms import eval_transform
from cosup.losses.base import Objective
from cosup.losses.features import without_features
from cosup.models.centroids import episode_probs
from cosup.models.classifier import Classifier, build_classifier, predict_network
from cosup.models.compute import Compute
from cosup.models.watch import OnStep
from cosup.probabilities import ProbTable
from cosup.protocols import (
    Guidance,
    Inputs,
    PartPredictor,
    Student,
    TestInputs,
    by_fold,
)
from cosup.seeds import seed_for
from cosup.student.jobs import Lesson, NetworkJob, StudentSetup
from cosup.student.meta_stage import MetaStage

META = "meta."
"""Prefix of the tensor names of the network that went through the meta stage."""


class NetworkStudent(Student):
    """A whole network. Inputs are images (`ImageRows`), or episodes to predict (`EpisodeRows`).

    Predictions are of images without augmentation. With `cross_fit` folds, one more network per
    fold is trained on the samples outside the fold. With a meta stage, the trained network keeps
    predicting classes, which assignment needs, and a copy that went through the stage predicts
    episodes. live_annotations: learn from the live teachers' annotations of augmented images.
    """

    def __init__(
        self,
        setup: StudentSetup,
        objective: Objective,
        seed: int,
        meta: MetaStage | None = None,
        live_annotations: bool = False,
    ) -> None:
        self.setup = setup
        self.objective = objective
        self.seed = seed
        self.meta = meta
        self.live_annotations = live_annotations
        self.start: Mapping[str, Tensor] | None = None
        self.network_: Classifier | None = None
        self.meta_: Classifier | None = None
        self.folds_: list[Classifier] = []

    def update(
        self,
        inputs: Inputs,
        targets: ProbTable,
        weights: Tensor,
        guidance: Guidance | None = None,
    ) -> None:
        """Train the network, one more per fold, and the copy of the meta stage, in turn."""
        data, lesson = _lesson(inputs, targets, weights, guidance)
        rows = torch.nonzero(weights > 0)[:, 0]
        # Controls that no single teacher annotates have stored targets alone.
        live = self.live_annotations and lesson.guidance.live is not None
        job = replace(self._job(lesson, rows, "update", live), watched=self.setup.watched)
        self.network_ = self._fit(data, job, self.setup.on_step)
        self.folds_ = [
            self._fit(data, self._job(lesson, outside, f"fold-{fold}", live))
            for fold, outside in enumerate(self.setup.outside_folds(rows))
        ]
        if self.meta is not None:
            copy = self._build()
            copy.model.load_state_dict(self.network_.model.state_dict())
            self.meta_ = self._fit(data, self.meta.job(copy, lesson, rows, self.seed))

    def predict(self, inputs: TestInputs) -> ProbTable:
        """Predict class probabilities of samples it was not trained on, or, of the queries of
        episodes, probabilities of their ways."""
        network, compute = self._network(), self.setup.compute
        if isinstance(inputs, EpisodeRows):
            return predict_episodes(self.meta_ or network, inputs, compute)
        assert isinstance(inputs, ImageRows)
        return predict_images(network, inputs, compute)

    def predict_own(self, inputs: Inputs) -> ProbTable:
        """Predict class probabilities of its training samples, each by its fold's network if
        cross-fitted."""
        folds = self.setup.folds
        if folds is None:
            return self.predict(inputs)
        return by_fold(
            folds,
            self.setup.fold_count,
            lambda fold, rows: predict_images(self.folds_[fold], inputs[rows], self.setup.compute),
        )

    def fit_parts(
        self, inputs: Inputs, targets: ProbTable, members: Sequence[Tensor]
    ) -> "NetworkParts":
        """Train one network per set of rows, in turn, on annotations only."""
        data, lesson = _lesson(inputs, targets, torch.ones(len(targets)), None)
        parts = []
        for number, rows in enumerate(members):
            parts.append(self._fit(data, self._job(lesson, rows, f"part-{number}")))
        return NetworkParts(parts, self.setup.compute)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the network's tensors under timm's names, and those of the meta stage's copy."""
        state = _tensors(self._network())
        if self.meta_ is not None:
            state |= {META + name: tensor for name, tensor in _tensors(self.meta_).items()}
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load a network's tensors; the next `update` starts from them."""
        self.start, meta = split_state(state)
        self.network_ = self._build()
        self.network_.model.load_state_dict(dict(self.start))
        self.meta_ = None
        if meta:
            self.meta_ = self._build()
            self.meta_.model.load_state_dict(meta)

    def _network(self) -> Classifier:
        assert self.network_ is not None, "predict before update"
        return self.network_

    def _build(self) -> Classifier:
        """Build the network, with initial weights unless it starts from a loaded state."""
        section, start = self.setup.section, self.start
        backbone = section.backbone
        return build_classifier(
            backbone.name,
            self.setup.num_classes,
            None if start is not None else backbone.weights,
            backbone.image_size,
            self.seed,
            drop_path=section.training.drop_path,
        )

    def _job(self, lesson: Lesson, rows: Tensor, purpose: str, live: bool = False) -> NetworkJob:
        classifier, training = self._build(), self.setup.section.training
        if self.start is not None:
            classifier.model.load_state_dict(dict(self.start))
        return NetworkJob(
            classifier,
            lesson,
            rows,
            self.objective if lesson.guidance.live else without_features(self.objective),
            training,
            # Counted on all samples: rejected samples must not shorten the training (CSL).
            training.total_steps(len(lesson.targets)),
            seed_for(self.seed, purpose),
            state=f"{self.seed}-{purpose}.state",
            live_annotations=live,
        )

    def _fit(self, data: ImageData, job: NetworkJob, on_step: OnStep | None = None) -> Classifier:
        return self.setup.launcher.network(job, data, self.setup.compute, on_step)


class NetworkParts(PartPredictor):
    """Networks that were trained in turn, one per set of rows."""

    def __init__(self, networks: Sequence[Classifier], compute: Compute) -> None:
        self.networks = networks
        self.compute = compute

    def predict(self, part: int, inputs: Inputs) -> ProbTable:
        """Predict class probabilities with the network of one set."""
        return predict_images(self.networks[part], inputs, self.compute)


def predict_images(network: Classifier, inputs: Inputs, compute: Compute) -> ProbTable:
    """Predict class probabilities of images, without augmentation."""
    assert isinstance(inputs, ImageRows), "a network reads images"
    batches = _image_batches(network, inputs, compute)
    return predict_network(network, batches, compute)


@torch.inference_mode()
def predict_episodes(network: Classifier, inputs: EpisodeRows, compute: Compute) -> ProbTable:
    """Predict the ways of queries by nearest centroid in the embedding: [E * N * Q, N]."""
    network.to(compute.device).eval()
    images = ImageRows(inputs.data, inputs.used)
    embeddings = []
    for batch in _image_batches(network, images, compute):
        with compute.autocast():
            embeddings.append(network.embed(batch).float().cpu())
    return episode_probs(torch.cat(embeddings), inputs.support, inputs.query)


def split_state(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split a state into the network's tensors and those of the meta stage's copy."""
    plain = {name: t for name, t in state.items() if not name.startswith(META)}
    meta = {name.removeprefix(META): t for name, t in state.items() if name.startswith(META)}
    return plain, meta


def _image_batches(network: Classifier, inputs: ImageRows, compute: Compute) -> Iterator[Tensor]:
    transform = eval_transform(network.input)
    return image_batches(inputs.data, inputs.rows, transform, compute.batch_size, compute.workers)


def _lesson(
    inputs: Inputs, targets: ProbTable, weights: Tensor, guidance: Guidance | None
) -> tuple[ImageData, Lesson]:
    assert isinstance(inputs, ImageRows), "a network reads images"
    return inputs.data, Lesson(inputs.rows, targets, weights, guidance or Guidance())


def _tensors(network: Classifier) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu() for name, tensor in network.model.state_dict().items()}
