"""Features of a run's samples, cached on disk and shared by teachers and student."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cosup.data.loader import image_batches
from cosup.data.table import ImageData
from cosup.data.transforms import eval_transform
from cosup.models.backbone import Backbone, load_backbone
from cosup.models.compute import Compute
from cosup.models.described import Described, Description, remember, remembered
from cosup.models.extraction import Conditions, feature_blocks
from cosup.models.features import Rows, cached_features, features_key
from cosup.models.section import BackboneSection

__all__ = ["FeatureCache", "FeatureSource", "RemoteExtraction", "cached_part"]


@dataclass(frozen=True)
class RemoteExtraction:
    """Extracts features in other processes.

    data: the samples that they have, with its shifted sets; features of others are left to this
    process. device, threads: that they compute with. blocks: function of a backbone, a split (as
    `ImageData.part` names it) and the first row of the samples that are cached with the split ->
    blocks [b, D] float16 from that row to the last, in order.
    """

    data: ImageData
    device: torch.device
    threads: int
    blocks: Callable[[BackboneSection, str, int], Iterator[Tensor]]

    def has(self, data: ImageData) -> bool:
        """Return whether they have these samples."""
        return self.data.name_of(data, "test") is not None

    def name_of(self, data: ImageData, split: str) -> str:
        """Return how they name a split of samples that they have."""
        found = self.data.name_of(data, split)
        assert found is not None, "they have the samples"
        return found


@dataclass
class FeatureCache:
    """Backbones and features that this process has loaded, each of them once.

    compute: its `cache` is the folder of features on disk. remote: extracts features in other
    processes; None extracts them in this one. device: that features are extracted on; None is that
    of `compute`.
    """

    compute: Compute
    remote: RemoteExtraction | None = None
    backbones: dict[str, Backbone] = field(default_factory=dict, repr=False)
    opened: dict[str, Tensor] = field(default_factory=dict, repr=False)
    device: torch.device | None = None

    def extracting_with(self, remote: RemoteExtraction) -> Self:
        """Return a cache of the same backbones and features whose missing features `remote`
        extracts."""
        return type(self)(self.compute, remote, self.backbones, self.opened)

    def source(self, section: BackboneSection) -> "FeatureSource":
        """Load a backbone, once per process. Raises `UserError` if it is not available."""
        key = section.model_dump_json()
        if key not in self.backbones:
            self.backbones[key] = load_backbone(section, self.compute)
        return FeatureSource(self.backbones[key], section, self)

    def describe(self, section: BackboneSection) -> Description:
        """Return what a backbone is, without loading it if it was loaded before (`remembered`).

        Raises `UserError` as `source`.
        """
        found = remembered(section, self.compute.precision)
        if found is None:
            one = self.source(section).backbone
            found = Description(one.name, one.identity, one.num_features, one.input)
            remember(section, self.compute.precision, found)
        return found

    def features(
        self,
        source: "FeatureSource",
        data: ImageData,
        split: str,
        on_rows: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Return the features [n, D] float16 of a split, in the order of its rows.

        on_rows: called with the number of rows that are done. Raises `RunError` for a full disk or
        an unreadable image.
        """
        key = f"{source.key} {data.split_fingerprint(split)}"
        if key not in self.opened:
            self.opened[key] = self._read(source, data, split, on_rows)
        return self.opened[key]

    def _read(
        self,
        source: "FeatureSource",
        data: ImageData,
        split: str,
        on_rows: Callable[[int], None] | None,
    ) -> Tensor:
        """Read features from the disk; extract those that are missing.

        Drawn splits change with the seed, so the features of all samples are cached together, once
        for all seeds. Given splits do not, so each split has its own, memory-mapped.
        """
        backbone, part = source.backbone, cached_part(data, split)
        conditions, remote = self._conditions(data), self._remote(data)

        def blocks(start: int) -> Iterator[Tensor]:
            if remote is not None:
                return remote.blocks(source.section, remote.name_of(data, split), start)
            rows, transform = np.arange(start, len(part)), eval_transform(backbone.input)
            workers = self.compute.workers
            images = image_batches(
                part, rows, transform, conditions.batch, workers, pinned=self.compute.pins
            )
            return feature_blocks(backbone, images)

        rows = Rows(blocks, (len(part), backbone.num_features), backbone.name, conditions)
        key = self.cache_key(backbone, data, split)
        found = cached_features(rows, self.compute.cache, key, on_rows)
        return found[torch.from_numpy(data.rows(split))] if data.drawn else found

    def cache_key(self, backbone: Described, data: ImageData, split: str) -> str:
        """Return the key of the features on disk that a split's are read from."""
        part, conditions = cached_part(data, split), self._conditions(data)
        transform = eval_transform(backbone.input)
        return features_key(backbone.identity, transform.key, part.fingerprint, conditions.key)

    def _remote(self, data: ImageData) -> RemoteExtraction | None:
        return self.remote if self.remote is not None and self.remote.has(data) else None

    def _conditions(self, data: ImageData) -> Conditions:
        """Return the conditions that features of this data are extracted in."""
        remote = self._remote(data)
        if remote is not None:
            size = self.compute.batch_size
            return Conditions.of(remote.device, size, here=False, threads=remote.threads)
        return Conditions.of(self.device or self.compute.device, self.compute.batch_size)


@dataclass(frozen=True)
class FeatureSource:
    """The features of one backbone."""

    backbone: Backbone
    section: BackboneSection
    cache: FeatureCache

    @property
    def key(self) -> str:
        """A hash of the backbone and its transform."""
        return features_key(self.backbone.identity, eval_transform(self.backbone.input).key, "")

    def of_split(
        self, data: ImageData, split: str, on_rows: Callable[[int], None] | None = None
    ) -> Tensor:
        """Return the features [n, D] float16 of a split; see `FeatureCache.features`."""
        return self.cache.features(self, data, split, on_rows)

    def batches(self, data: ImageData, rows: NDArray[np.int64], size: int) -> Iterator[Tensor]:
        """Yield the features [b, D] of rows of one split, in their order."""
        splits = data.table["split"].iloc[rows].unique()
        if len(splits) != 1:
            raise ValueError(f"rows of one split are needed, not of {list(splits)}")
        features = self.of_split(data, str(splits[0]))
        places = torch.from_numpy(np.searchsorted(data.rows(str(splits[0])), rows))
        for start in range(0, len(rows), size):
            yield features[places[start : start + size]]


def cached_part(data: ImageData, split: str) -> ImageData:
    """Return the samples whose features are cached together with those of a split."""
    return data if data.drawn else data.subset(data.rows(split))
