"""Teachers that are CLIP: the image nearest to the prompt of a class, without any training.

Image features come from the cache, as those of linear teachers and of a student on the same
backbone. The text features of the classes are its weights, so that the text encoder runs once.
Radford et al., "Learning transferable visual models from natural language supervision", arXiv
2103.00020, section 3.1.
"""

from collections.abc import Sequence

from cosup.errors import within
from cosup.models.clip_text import prompts_of, text_features
from cosup.models.heads import HeadBank, text_heads
from cosup.settings.teachers import ZeroShotKind
from cosup.teachers.base import Teacher, Training
from cosup.teachers.features import FeatureSource
from cosup.teachers.hierarchy import TeacherSpec
from cosup.teachers.linear import FeatureTeacher, feature_source

__all__ = ["ZeroShotTeacher"]


class ZeroShotTeacher(ZeroShotKind, FeatureTeacher):
    """Answers by a softmax of CLIP's scale times the cosine of image and prompts, in its scope."""

    @classmethod
    def train(cls, specs: Sequence[TeacherSpec], training: Training) -> list[Teacher]:
        """Encode the prompts; nothing is trained."""
        source = feature_source(specs[0], training)
        head = _head_of_prompts(specs[0], source, training)
        return [cls(spec, head, source, steps=0) for spec in specs]

    @classmethod
    def check(cls, specs: Sequence[TeacherSpec], training: Training) -> None:
        """Raise `UserError` for a model, weights or prompts that cannot be used."""
        cls.train(specs, training)


def _head_of_prompts(spec: TeacherSpec, source: FeatureSource, training: Training) -> HeadBank:
    """Return the head of teachers of one model, whose prototypes are text features."""
    section = spec.model.prompted
    with within(spec.setup.model_key):
        prompts = prompts_of(source.section, section, training.data.classes)
        features = text_features(source.section, prompts, training.compute)
    scaled = section.model_copy(update={"scale": source.backbone.logit_scale})
    return text_heads(scaled, features)
