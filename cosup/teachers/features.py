"""A weak backbone's features of the samples, out of the cache that teachers and student share."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cosup.data.loader import image_batches
from cosup.data.table import ImageData
from cosup.data.transforms import eval_transform
from cosup.models.compute import Compute
from cosup.models.features import cached_features, feature_blocks, features_key
from cosup.models.networks import Backbone, load_backbone
from cosup.models.section import BackboneSection
from cosup.teachers.base import Resources, Rows

__all__ = ["FeatureSource", "cached_part", "feature_source", "split_features"]


def split_features(
    backbone: Backbone,
    section: BackboneSection,
    data: ImageData,
    split: str,
    resources: Resources,
    on_rows: Callable[[int], None] | None = None,
) -> Tensor:
    """Features [n, D] float16 of a split's samples in the order of its rows.

    Drawn splits change with the seed, so the features of all samples are cached, once for every
    seed; given ones don't, so only this split's are (and memory-mapped). Computed where the cache
    doesn't hold them. Raises `RunError` for a full disk or an image that broke.
    """
    rows = data.rows(split)
    part = cached_part(data, split)
    transform = eval_transform(backbone.input)
    key = features_key(backbone.identity, transform.key, part.fingerprint)

    def blocks(start: int) -> Iterator[Tensor]:
        if resources.blocks is not None:
            elsewhere = resources.blocks(section, data, split, start)
            if elsewhere is not None:
                return elsewhere
        rows = np.arange(start, len(part))
        images = image_batches(part, rows, transform, resources.batch_size, resources.workers)
        return feature_blocks(backbone, images)

    shape = (len(part), backbone.num_features)
    found = cached_features(blocks, shape, resources.cache, key, on_rows, backbone.name)
    return found[torch.from_numpy(rows)] if data.drawn else found


def cached_part(data: ImageData, split: str) -> ImageData:
    """The samples whose features are cached together with this split's."""
    return data if data.drawn else data.subset(data.rows(split))


@dataclass(frozen=True)
class FeatureSource:
    """Where teachers that read the same backbone get their features."""

    backbone: Backbone
    section: BackboneSection
    resources: Resources

    @property
    def key(self) -> str:
        """Of the backbone and its transform."""
        return features_key(self.backbone.identity, eval_transform(self.backbone.input).key, "")

    def of_split(
        self, data: ImageData, split: str, on_rows: Callable[[int], None] | None = None
    ) -> Tensor:
        """Features [n, D] float16 of a split, in the order of its rows."""
        memo = f"features {self.key} {data.split_fingerprint(split)}"
        if memo not in self.resources.memo:
            found = split_features(
                self.backbone, self.section, data, split, self.resources, on_rows
            )
            self.resources.memo[memo] = found
        features: Tensor = self.resources.memo[memo]
        return features

    def batches(self, data: ImageData, rows: Rows, size: int) -> Iterator[Tensor]:
        """Features [b, D] of rows that lie in one split, in their order."""
        splits = data.table["split"].iloc[rows].unique()
        if len(splits) != 1:
            raise ValueError(f"rows of one split are needed, not of {list(splits)}")
        features = self.of_split(data, str(splits[0]))
        places = torch.from_numpy(np.searchsorted(data.rows(str(splits[0])), rows))
        for start in range(0, len(rows), size):
            yield features[places[start : start + size]]


def feature_source(section: BackboneSection, resources: Resources) -> FeatureSource:
    """The section's backbone, loaded once per process. Raises `UserError` if it can't be had."""
    memo = f"backbone {section.model_dump_json()}"
    if memo not in resources.memo:
        backbone = load_backbone(section, Compute(resources.device, resources.precision))
        resources.memo[memo] = FeatureSource(backbone, section, resources)
    source: FeatureSource = resources.memo[memo]
    return source
