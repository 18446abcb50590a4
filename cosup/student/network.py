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
from cosup.models.classifier import Classifier, build_classifier
from cosup.models.compute import Compute
from cosup.probabilities import ProbTable
from cosup.protocols import (
    Guidance,
    Inputs,
    PartPredictor,
    Student,
    TestInputs,
    Update,
    by_fold,
)
from cosup.seeds import seed_for
from cosup.student.jobs import Lesson, NetworkJob
from cosup.student.meta_stage import MetaStage
from cosup.student.setup import StudentSetup

META = "meta."
"""Prefix of the tensor names of the network that went through the meta stage."""


class NetworkStudent(Student):
    """A whole network. Inputs are images (`ImageRows`), or episodes to predict (`EpisodeRows`).

    Predictions are of images without augmentation. With `cross_fit` folds, one more network per
    fold is trained on the samples outside the fold. With a meta stage, the trained network keeps
    predicting classes, which assignment needs, and a copy that went through the stage predicts
    episodes. live_annotations: learn from the live teachers' annotations of augmented images.
    hard: from their most probable classes.
    """

    def __init__(
        self,
        setup: StudentSetup,
        objective: Objective,
        seed: int,
        meta: MetaStage | None = None,
        live_annotations: bool = False,
        hard: bool = False,
    ) -> None:
        self.setup = setup
        self.objective = objective
        self.seed = seed
        self.meta = meta
        self.live_annotations = live_annotations
        self.hard = hard
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
        """Train the network and one more per fold, and then the copy of the meta stage."""
        self.update_together([Update(self, inputs, targets, weights, guidance)])

    @classmethod
    def update_together(cls, updates: Sequence[Update]) -> None:
        """Train the networks of several students of a run, side by side where there is room.

        Steps are reported of the first student.
        """
        students = [each.student for each in updates if isinstance(each.student, NetworkStudent)]
        assert 0 < len(students) == len(updates)
        setup = students[0].setup
        data, lessons = _lessons(updates)
        jobs = [s._update_jobs(lesson) for s, lesson in zip(students, lessons, strict=True)]
        several = [job for own in jobs for job in own]
        networks = setup.launcher.networks(several, data, setup.compute, setup.on_step)
        for student, own in zip(students, jobs, strict=True):
            student.network_, *student.folds_ = networks[: len(own)]
            networks = networks[len(own) :]
        staged = [pair for pair in zip(students, lessons, strict=True) if pair[0].meta is not None]
        last = [student._meta_job(lesson) for student, lesson in staged]
        copies = setup.launcher.networks(last, data, setup.compute, None)
        for (student, _), network in zip(staged, copies, strict=True):
            student.meta_ = network

    def predict(self, inputs: TestInputs) -> ProbTable:
        """Predict class probabilities of samples it was not trained on, or, of the queries of
        episodes, probabilities of their ways."""
        if isinstance(inputs, EpisodeRows):
            network = self.meta_ or self._network()
            return predict_episodes(network, inputs, self.setup.compute)
        return _predict(self.setup, self._network(), inputs)

    def predict_own(self, inputs: Inputs) -> ProbTable:
        """Predict class probabilities of its training samples, each by its fold's network if
        cross-fitted."""
        folds = self.setup.folds
        if folds is None:
            return self.predict(inputs)
        return by_fold(
            folds[: len(inputs)],
            self.setup.fold_count,
            lambda fold, rows: _predict(self.setup, self.folds_[fold], inputs[rows]),
        )

    def fit_parts(
        self, inputs: Inputs, targets: ProbTable, members: Sequence[Tensor]
    ) -> "NetworkParts":
        """Train one network per set of rows, on annotations only."""
        update = Update(self, inputs, targets, torch.ones(len(targets)))
        data, (lesson,) = _lessons([update])
        jobs = [self._job(lesson, rows, f"part-{place}") for place, rows in enumerate(members)]
        setup = self.setup
        return NetworkParts(setup.launcher.networks(jobs, data, setup.compute, None), setup)

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
            name=f"{self.seed}-{purpose}",
            live_annotations=live,
            hard=self.hard,
        )

    def _update_jobs(self, lesson: Lesson) -> list[NetworkJob]:
        """Return the trainings of the network, and of one more per fold."""
        rows = torch.nonzero(lesson.weights > 0)[:, 0]
        # Controls without teachers, or with several of a loss on maps, have stored targets alone.
        live = self.live_annotations and lesson.guidance.live is not None
        job = replace(self._job(lesson, rows, "update", live), watched=self.setup.watched)
        folds = enumerate(self.setup.outside_folds(rows))
        return [job, *(self._job(lesson, outside, f"fold-{k}", live) for k, outside in folds)]

    def _meta_job(self, lesson: Lesson) -> NetworkJob:
        """Return the meta stage of a copy of the trained network."""
        assert self.meta is not None
        copy = self._build()
        copy.model.load_state_dict(self._network().model.state_dict())
        rows = torch.nonzero(lesson.weights > 0)[:, 0]
        return self.meta.job(copy, lesson, rows, self.seed)


class NetworkParts(PartPredictor):
    """Networks that were trained, one per set of rows."""

    def __init__(self, networks: Sequence[Classifier], setup: StudentSetup) -> None:
        self.networks = networks
        self.setup = setup

    def predict(self, part: int, inputs: Inputs) -> ProbTable:
        """Predict class probabilities with the network of one set."""
        return _predict(self.setup, self.networks[part], inputs)


def _predict(setup: StudentSetup, network: Classifier, inputs: TestInputs) -> ProbTable:
    """Predict class probabilities of images, without augmentation."""
    assert isinstance(inputs, ImageRows), "a network reads images"
    return setup.launcher.predict(network, inputs, setup.compute)


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
    return image_batches(
        inputs.data,
        inputs.rows,
        transform,
        compute.batch_size,
        compute.workers,
        pinned=compute.pins,
    )


def _lessons(updates: Sequence[Update]) -> tuple[ImageData, list[Lesson]]:
    """Return the images that the updates read, and what each teaches."""
    data, lessons = None, []
    for each in updates:
        assert isinstance(each.inputs, ImageRows), "a network reads images"
        assert data is None or data is each.inputs.data, "students of one run read its images"
        data, guidance = each.inputs.data, each.guidance or Guidance()
        lessons.append(Lesson(each.inputs.rows, each.targets, each.weights, guidance))
    assert data is not None
    return data, lessons


def _tensors(network: Classifier) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu() for name, tensor in network.model.state_dict().items()}
