"""Co-supervised learning on arrays, in scikit-learn's manner."""

import copy
from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from cosup.array_rounds import ArrayRounds
from cosup.arrays import ArrayLike, codes_of, plain
from cosup.assignment import Assigner
from cosup.config.rounds import FUSED_ROUNDS, RoundsSection
from cosup.config.student import StudentSection
from cosup.consistency import Filter
from cosup.crowd import Crowd, read_crowd
from cosup.decisions import (
    Choosable,
    build_assigner,
    build_filters,
    check_given,
    check_student,
    needs_of,
    provenance_of,
)
from cosup.errors import Mistakes, UserError
from cosup.evidence import ScopesLike, Truth
from cosup.levels import ArrayAnnotations, Level, Task
from cosup.losses import Loss, Objective, build_loss
from cosup.losses.softening import check_softening
from cosup.models.compute import resolve_device
from cosup.models.heads import HeadBank, head_bank
from cosup.models.samples import chunks
from cosup.protocols import Student
from cosup.recipe import Recipe
from cosup.validation import find_mistakes

__all__ = ["CoSupervision"]

TRAINING = ("steps", "batch_size", "lr", "weight_decay", "standardize")
NAMES = {"repeat": "rounds", "kind": "student"}
"""The names of settings here that differ from those of configs."""
ABSENT = frozenset({"truth", "domains", "labels"})
"""What assigners and filters may read and `fit` does not take."""
STUDENTS = frozenset({"coarse_probs", "global_probs", "local_probs"})
"""What filters read and the rounds themselves provide."""


class CoSupervision(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier that learns from the annotations of several unreliable sources.

    It runs the rounds of `cosup run` on arrays: assign sources to samples, filter their
    annotations, train a head on the features, and predict; and it gives the same numbers. The
    sources form one level.

    assigner: how sources are combined; filters: which annotations are kept; loss: of the student.
    Each is a name (`cosup ls assigners`), settings such as `{"name": "gate", "hard": False}`, or an
    object. targets: learn an annotation's probabilities ("soft") or its most probable class
    ("hard"). rounds: their number; "auto" is 1, and 3 where the assigner takes the student for a
    source. student: the head, "linear" or "prototype"; None: no student, sources are combined
    alone. steps, batch_size, lr, weight_decay, standardize: of its training in each round (by
    default the quickstart's; with few features, a larger lr).
    cross_fit: folds in which samples are predicted by heads that were not trained on them, as in
    `student.cross_fit`. classes: all classes, in the order of probabilities [N, T, C]; None: those
    that occur. random_state: the seed. device: "auto", "cpu", "cuda" and so on.

    After `fit`: `classes_` [C]; `labels_` [N], the final labels, and `probabilities_` [N, C], the
    posterior of all sources and the student that they are read from, as in a run's `labels.parquet`
    (METHODS.md section 11); without a student, what the assigner gives. `decisions_`: a row per
    round and sample, as in a run's `decisions/`. `reliability_`: a row per source, how often it is
    right, estimated without labels (section 10). `assigner_`: the fitted assigner; `head_`: the
    student as the last round left it, or None; `scopes_`; `n_features_in_`.

    >>> import numpy as np, cosup
    >>> from sklearn.datasets import load_digits
    >>> features, truth = load_digits(return_X_y=True)
    >>> rng = np.random.default_rng(0)
    >>> right = rng.random((len(truth), 3)) < [0.8, 0.6, 0.5]  # three simulated annotators
    >>> votes = np.where(right, truth[:, None], rng.integers(0, 10, right.shape))
    >>> model = cosup.CoSupervision(assigner="fused", steps=300, lr=0.01)
    >>> model = model.fit(features[:1200], votes[:1200])
    >>> bool(np.mean(model.labels_ == truth[:1200]) > 0.95)
    True
    >>> bool(model.score(features[1200:], truth[1200:]) > 0.88)
    True
    """

    def __init__(
        self,
        assigner: Assigner | Choosable = "fused",
        filters: Sequence[Filter | Choosable] = (),
        loss: Loss | Choosable = "cross_entropy",
        *,
        targets: Literal["soft", "hard"] = "soft",
        rounds: int | Literal["auto"] = "auto",
        student: Literal["linear", "prototype"] | None = "linear",
        steps: int = 600,
        batch_size: int = 128,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        standardize: bool = True,
        cross_fit: int | Literal["auto"] = "auto",
        classes: Sequence[Any] | None = None,
        random_state: int | np.random.RandomState | None = 0,
        device: str = "auto",
    ) -> None:
        self.assigner = assigner
        self.filters = filters
        self.loss = loss
        self.targets = targets
        self.rounds = rounds
        self.student = student
        self.steps = steps
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.standardize = standardize
        self.cross_fit = cross_fit
        self.classes = classes
        self.random_state = random_state
        self.device = device

    def __sklearn_tags__(self) -> Tags:
        """Return scikit-learn's description: targets may have a column per source."""
        tags = super().__sklearn_tags__()
        tags.target_tags.two_d_labels = True
        return tags

    def fit(
        self,
        features: ArrayLike | pd.DataFrame | None,
        annotations: ArrayLike | pd.DataFrame,
        scopes: ScopesLike = None,
        *,
        groups: ArrayLike | None = None,
        provenance: tuple[ArrayLike, ArrayLike] | None = None,
    ) -> Self:
        """Learn from the annotations of N samples.

        features: [N, D]; None only without a student. annotations: probabilities [N, T, C] (all 0:
        no answer); or classes [N, T] or [N]: numbers (-1: no answer) or names (None or NaN: no
        answer); or a DataFrame with a column per source, or with columns task, worker and label.
        Tables are aligned by their index if the features are a DataFrame; else their rows are in
        the features' order, and tasks are row numbers. scopes: the classes that each source knows
        (None: all), or `Scopes`. groups: [N], samples to keep together in folds and draws (whole
        numbers). provenance: features [M, D] of the sources' own training inputs and membership
        [M, T], for assigners that read them.

        Raises `UserError` with the argument that is wrong; `RunError` if the filters keep nothing
        or the loss is not finite.
        """
        rounds, student, device = self._settings()
        found, ids = self._features(features)
        samples = None if found is None else len(found)
        crowd = read_crowd(annotations, scopes, self.classes, ids, samples)
        samples = len(crowd.annotations)
        known = None if provenance is None else provenance_of(provenance, found, crowd.scopes)
        recipe = self._recipe(rounds, found is not None, known is not None)
        recipe.assigner.check(crowd.scopes)
        if self.student is not None and not recipe.hard:
            check_softening(
                recipe.objective.loss, len(crowd.classes), "loss", ", or targets 'hard'"
            )
        group = torch.arange(samples) if groups is None else codes_of(groups, "groups", samples)
        task = _task(found, crowd, known)
        made = ArrayRounds(task, recipe, student, group, self._seed(), device)
        finished = made.run_alone() if self.student is None else made.run()
        self.classes_, self.scopes_, self.assigner_ = crowd.classes, crowd.scopes, recipe.assigner
        self.head_: HeadBank | None = None
        if self.student is not None:
            self.head_ = head_bank(finished.last.student).double().requires_grad_(False)
        self.decisions_ = made.decisions(finished, crowd.ids, self.classes_.tolist())
        self.reliability_ = made.reliability(finished)
        self.probabilities_: NDArray[np.float64] = finished.posterior.double().numpy()
        self.labels_ = self.classes_[self.probabilities_.argmax(1)]
        return self

    def predict_proba(self, features: ArrayLike | pd.DataFrame) -> NDArray[np.float64]:
        """Return the student's class probabilities [N, C] of features [N, D].

        Raises `NotFittedError` before `fit`, and `UserError` without a student.
        """
        check_is_fitted(self, "classes_")
        if self.head_ is None:
            raise UserError("predicts nothing: only the sources were combined", key="student")
        found = torch.from_numpy(_writable(validate_data(self, _plain(features), reset=False)))
        with torch.inference_mode():
            rows = torch.arange(len(found))
            parts = [self.head_(found[part].double())[0].softmax(1) for part in chunks(rows)]
        probs: NDArray[np.float64] = torch.cat(parts).numpy()
        return probs

    def predict(self, features: ArrayLike | pd.DataFrame) -> NDArray[Any]:
        """Return the student's classes [N] of features [N, D]; errors as `predict_proba`."""
        probs = self.predict_proba(features)
        classes: NDArray[Any] = self.classes_[probs.argmax(1)]
        return classes

    def _features(
        self, features: ArrayLike | pd.DataFrame | None
    ) -> "tuple[Tensor | None, pd.Index[Any] | None]":
        """Return features [N, D] float32 or float16, and the names of their rows, if they have
        names."""
        if features is None:
            if self.student is not None:
                raise UserError(
                    "must be given: the student learns from them",
                    key="features",
                    allowed="[N, D]; None with student=None",
                )
            return None, None
        ids = features.index if isinstance(features, pd.DataFrame) else None
        found = validate_data(self, _plain(features), dtype=[np.float32, np.float16])
        return torch.from_numpy(_writable(found)), ids

    def _settings(self) -> tuple[RoundsSection, StudentSection, torch.device]:
        """Check the settings as those of a config. Raises `UserError` with every mistake."""
        training = {name: _plain_number(getattr(self, name)) for name in TRAINING}
        trees: list[tuple[type[Any], dict[str, Any]]] = [
            (RoundsSection, {"targets": self.targets, "repeat": _plain_number(self.rounds)}),
            (
                StudentSection,
                {
                    "backbone": {"name": "none", "weights": None},  # the features are given
                    "head": {"kind": "linear" if self.student is None else self.student},
                    "training": training,
                    "cross_fit": _plain_number(self.cross_fit),
                },
            ),
        ]
        mistakes, built = Mistakes(), []
        for section, tree in trees:
            made, found = find_mistakes(section, tree)
            built.append(made)
            mistakes.add(error.at((NAMES.get(error.key[-1], error.key[-1]),)) for error in found)
        with mistakes.caught():
            try:
                device = resolve_device(self.device)
            except UserError as error:
                raise error.at(("device",)) from None
        mistakes.raise_all()
        return built[0], built[1], device

    def _recipe(self, rounds: RoundsSection, features: bool, provenance: bool) -> Recipe:
        """Build what the rounds are run with, but for the student; check what it needs."""
        assigner = copy.deepcopy(build_assigner(self.assigner))
        chain, loss = build_filters(self.filters), build_loss(self.loss)
        for argument, name, needs in needs_of(assigner, chain):
            for absent in sorted(needs & ABSENT):
                reason = f"{name} reads {absent}, which fit does not take; cosup.decide does"
                raise UserError(reason, key=argument)
        given = {"features": features, "provenance": provenance}
        check_given(assigner, chain, STUDENTS | {name for name, there in given.items() if there})
        if self.student is None:
            check_student(assigner, chain, "student")
        if loss.reads_features:
            raise UserError("compares feature maps of networks, which a head has not", key="loss")
        least = FUSED_ROUNDS if self.rounds == "auto" and assigner.reads_student else 1
        return Recipe(
            assigner=assigner,
            objective=Objective(loss),
            new_student=_no_student,
            filters=chain,
            hard=rounds.targets == "hard",
            repeat=rounds.rounds_per_level,
            least=least,
        )

    def _seed(self) -> int:
        if isinstance(self.random_state, int | np.integer):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31 - 1))


def _task(features: Tensor | None, crowd: Crowd, provenance: tuple[Tensor, Tensor] | None) -> Task:
    """Return the task of one level of sources, without a test split and true labels."""
    samples = len(crowd.annotations)
    inputs = torch.zeros(samples, 0) if features is None else features
    unknown = torch.full((samples,), -1)
    return Task(
        levels=(Level(0, crowd.scopes, ArrayAnnotations(crowd.annotations), provenance),),
        inputs=inputs,
        test_inputs=inputs[:0],
        truth=Truth(unknown, torch.zeros_like(unknown)),
        num_classes=len(crowd.classes),
        features=features,
    )


def _no_student(objective: Objective, seed: int) -> Student:
    raise AssertionError("no student is made")


def _plain(features: Any) -> Any:
    """Return tensors as arrays; scikit-learn's check takes anything else."""
    return plain(features) if isinstance(features, Tensor) else features


def _writable(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array that a tensor can share its memory with."""
    return array if array.flags.writeable else array.copy()


def _plain_number(value: Any) -> Any:
    """Return NumPy's numbers, as of a search over settings, as Python's."""
    return value.item() if isinstance(value, np.generic) else value
