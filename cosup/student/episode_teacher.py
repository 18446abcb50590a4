"""A teacher that answers episodes by its own centroids, for the meta stage.

Guo et al., "Vision Superalignment", arXiv 2402.03749, few-shot section and its code: the teacher
embeds the images of the episode itself, and its logits of a query are the scaled cosines to the
means of its support embeddings. It is used as it is, or after a meta stage of its own.
"""

import copy
from dataclasses import replace

from torch import Tensor

from cosup.errors import UserError
from cosup.losses.base import Objective
from cosup.losses.cross_entropy import CrossEntropy
from cosup.models.centroids import SCALE, MetaLearner, episode_logits
from cosup.models.train import Batches, TrainContext, train_network
from cosup.models.training_section import TrainingSection
from cosup.protocols import NetworkOutput, TeacherNetworks
from cosup.teachers.live import LiveTeachers

__all__ = ["EpisodeTeacher", "meta_trained", "single_network"]


class EpisodeTeacher:
    """(pixels of episodes, teacher of each image) -> log-probabilities of the ways.

    live: a level of one network, which returns embeddings. ways, shots, queries: of an episode.
    """

    def __init__(self, live: TeacherNetworks, ways: int, shots: int, queries: int) -> None:
        self.live = live
        self.size = ways, shots, queries

    def __call__(self, pixels: Tensor, teacher: Tensor) -> NetworkOutput:
        """Return log-probabilities [e * N * Q, N] of the queries of e consecutive episodes.

        pixels: [e * N * (K + Q), 3, S, S] as `MetaLearner` reads them, but not normalised.
        """
        embedding = self.live(pixels, teacher).embedding
        assert embedding is not None, "the teacher returns embeddings"
        logits = SCALE * episode_logits(embedding.float(), *self.size)
        return NetworkOutput(logits.log_softmax(-1))


def single_network(live: TeacherNetworks) -> LiveTeachers:
    """Return the level, if it is one network. Raises `UserError` for several teachers."""
    assert isinstance(live, LiveTeachers)
    if len(live.networks) != 1:
        raise UserError(
            "needs levels of one teacher, who answers whole episodes",
            key="student.meta.teacher",
            value=len(live.networks),
            allowed="annotations",
        )
    return live


def meta_trained(
    live: LiveTeachers,
    batches: Batches,
    training: TrainingSection,
    steps: int,
    context: TrainContext,
    learner: tuple[int, int, int, float],
) -> LiveTeachers:
    """Return a copy of a level of one teacher after a meta stage of its own.

    batches: with the ways as labels, from which alone it learns. learner: ways, shots, queries and
    the initial scale (`MetaLearner`). It is not saved: a resumed run trains it again.
    """
    trained = copy.deepcopy(live)
    (classifier,) = trained.networks
    classifier.requires_grad_(True)
    alone = replace(context, states=None, live=None, live_annotations=False, report=None)
    objective = Objective(CrossEntropy(), annotation_weight=0.0, true_label_weight=1.0)
    module, pixels = MetaLearner(classifier, *learner), classifier.pixels
    train_network(module, batches, objective, training, steps, alone, pixels)
    trained.to(context.compute.device).eval().requires_grad_(False)
    return trained
