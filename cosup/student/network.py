"""A student that is a whole network, trained on images."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from cosup.config.student import StudentSection
from cosup.data.episodes import EpisodeRows
from cosup.data.loader import ImageRows, image_batches
from cosup.data.table import ImageData
from cosup.data.transforms import eval_transform
from cosup.losses import CrossEntropy
from cosup.losses.base import Objective
from cosup.losses.features import FeatureLoss
from cosup.models.centroids import episode_probs
from cosup.models.classifier import Classifier, build_classifier, predict_network
from cosup.models.compute import Compute
from cosup.models.fit import OnStep
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
from cosup.student.fit_network import Lesson
from cosup.student.jobs import Launcher, LocalLauncher, NetworkJob
from cosup.student.meta_stage import MetaStage

META = "meta."
"""How the names of the network begin that went through the meta stage."""


class NetworkStudent(Student):
    """Inputs are images (`ImageRows`), or episodes to predict (`EpisodeRows`).

    Predictions are of images without augmentation. With `cross_fit` folds, one network per fold is
    trained beside the student on the samples outside the fold. With a meta stage, the network that
    has learnt to classify keeps predicting classes (assignment needs them), and its copy that went
    through the stage answers episodes. launcher: who trains; None is this process.
    """

    def __init__(
        self,
        section: StudentSection,
        num_classes: int,
        objective: Objective,
        *,
        seed: int,
        compute: Compute,
        folds: Tensor | None = None,
        meta: MetaStage | None = None,
        live_annotations: bool = False,
        on_step: OnStep | None = None,
        launcher: Launcher | None = None,
    ) -> None:
        assert (folds is not None) == (section.cross_fit > 0)
        self.section = section
        self.num_classes = num_classes
        self.objective = objective
        self.seed = seed
        self.compute = compute
        self.folds = folds
        self.meta = meta
        self.live_annotations = live_annotations
        self.on_step = on_step
        self.launcher = launcher or LocalLauncher()
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
        """Train the network, one per fold, and the copy of the meta stage, one after another."""
        data, lesson = _lesson(inputs, targets, weights, guidance)
        rows = torch.nonzero(weights > 0)[:, 0]
        self.network_ = self._fit(data, lesson, rows, "update", self.on_step)
        self.folds_ = []
        for fold in range(self.section.cross_fit):
            assert self.folds is not None
            outside = rows[self.folds[rows] != fold]
            self.folds_.append(self._fit(data, lesson, outside, f"fold-{fold}", None))
        if self.meta is not None:
            self.meta_ = self._through_meta(self.network_, data, lesson, rows, self.meta)

    def predict(self, inputs: TestInputs) -> ProbTable:
        """Class probabilities of samples it did not train on; of episodes' queries, of the ways."""
        network = self._network()
        if isinstance(inputs, EpisodeRows):
            return predict_episodes(self.meta_ or network, inputs, self.compute)
        assert isinstance(inputs, ImageRows)
        return predict_images(network, inputs, self.compute)

    def predict_own(self, inputs: Inputs) -> ProbTable:
        """Class probabilities of its training samples, by its fold's network if cross-fitted."""
        if self.folds is None:
            return self.predict(inputs)
        return by_fold(
            self.folds,
            self.section.cross_fit,
            lambda fold, rows: predict_images(self.folds_[fold], inputs[rows], self.compute),
        )

    def fit_parts(
        self, inputs: Inputs, targets: ProbTable, members: Sequence[Tensor]
    ) -> "NetworkParts":
        """One network per set of rows, one after another."""
        data, lesson = _lesson(inputs, targets, torch.ones(len(targets)), None)
        parts = [self._fit(data, lesson, rows, f"part-{p}", None) for p, rows in enumerate(members)]
        return NetworkParts(parts, self.compute)

    def state_dict(self) -> dict[str, Tensor]:
        """The network's tensors under timm's names; after a meta stage also those of its copy."""
        state = _tensors(self._network())
        if self.meta_ is not None:
            state |= {META + name: tensor for name, tensor in _tensors(self.meta_).items()}
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up a network's tensors; `update` then goes on from it."""
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
        backbone, training = self.section.backbone, self.section.training
        return build_classifier(
            backbone.name,
            self.num_classes,
            None if self.start is not None else backbone.weights,
            backbone.image_size,
            self.seed,
            drop_path=training.drop_path,
        )

    def _through_meta(
        self, network: Classifier, data: ImageData, lesson: Lesson, rows: Tensor, stage: MetaStage
    ) -> Classifier:
        """A copy of the network that has gone through the meta stage."""
        copy, training = self._build(), stage.section.training()
        copy.model.load_state_dict(network.model.state_dict())
        job = NetworkJob(
            copy,
            lesson,
            rows,
            stage.objective,
            training,
            stage.section.steps,
            seed_for(self.seed, "meta"),
            state=f"{self.seed}-meta.state",
            meta=stage,
        )
        return self.launcher.network(job, data, self.compute, None)

    def _fit(
        self, data: ImageData, lesson: Lesson, rows: Tensor, use: str, on_step: OnStep | None
    ) -> Classifier:
        classifier, training = self._build(), self.section.training
        if self.start is not None:
            classifier.model.load_state_dict(dict(self.start))
        asked = lesson.guidance.live is not None  # controls learn from what is stored
        plain = use.startswith("part")  # parts learn from annotations alone, as filters need them
        job = NetworkJob(
            classifier,
            lesson,
            rows,
            _plain(self.objective) if plain else self.objective,
            training,
            # Counted on all samples: rejecting some must not shorten the training (CSL).
            training.total_steps(len(lesson.targets)),
            seed_for(self.seed, use),
            state=f"{self.seed}-{use}.state",
            live_annotations=self.live_annotations and not plain and asked,
        )
        return self.launcher.network(job, data, self.compute, on_step)


class NetworkParts(PartPredictor):
    """Networks fitted one after another, one per set of rows."""

    def __init__(self, networks: Sequence[Classifier], compute: Compute) -> None:
        self.networks = networks
        self.compute = compute

    def predict(self, part: int, inputs: Inputs) -> ProbTable:
        """Class probabilities by the network of this set."""
        return predict_images(self.networks[part], inputs, self.compute)


def predict_images(network: Classifier, inputs: Inputs, compute: Compute) -> ProbTable:
    """Class probabilities of images, without augmentation."""
    assert isinstance(inputs, ImageRows), "a network reads images"
    batches = _plain_batches(network, inputs, compute)
    return predict_network(network, batches, compute)


@torch.inference_mode()
def predict_episodes(network: Classifier, inputs: EpisodeRows, compute: Compute) -> ProbTable:
    """Probabilities [E * N * Q, N] of the queries' ways, by nearest centroid in the embedding."""
    network.to(compute.device).eval()
    images = ImageRows(inputs.data, inputs.used)
    embeddings = []
    for batch in _plain_batches(network, images, compute):
        with compute.autocast():
            embeddings.append(network.embed(batch).float().cpu())
    return episode_probs(torch.cat(embeddings), inputs.support, inputs.query)


def split_state(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of the network, and those of the one that went through the meta stage."""
    plain = {name: t for name, t in state.items() if not name.startswith(META)}
    meta = {name.removeprefix(META): t for name, t in state.items() if name.startswith(META)}
    return plain, meta


def _plain_batches(network: Classifier, inputs: ImageRows, compute: Compute) -> Iterator[Tensor]:
    transform = eval_transform(network.input)
    return image_batches(inputs.data, inputs.rows, transform, compute.batch_size, compute.workers)


def _lesson(
    inputs: Inputs, targets: ProbTable, weights: Tensor, guidance: Guidance | None
) -> tuple[ImageData, Lesson]:
    assert isinstance(inputs, ImageRows), "a network reads images"
    return inputs.data, Lesson(inputs.rows, targets, weights, guidance or Guidance())


def _plain(objective: Objective) -> Objective:
    """What parts of the samples are learnt with: no live teacher is asked about them."""
    if isinstance(objective.loss, FeatureLoss):
        return Objective(CrossEntropy())
    return objective


def _tensors(network: Classifier) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu() for name, tensor in network.model.state_dict().items()}
