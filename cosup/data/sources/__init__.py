"""Registry of data sources. A new source is a class in a file here and one line below."""

from cosup.data.sources.base import SPLITS, Collection, Columns, Source, collect
from cosup.data.sources.digits import Digits
from cosup.data.sources.folders import DomainFolder, ImageFolder
from cosup.data.sources.huggingface import HuggingFace
from cosup.data.sources.idx import Idx
from cosup.data.sources.images import ImageFiles
from cosup.data.sources.inaturalist import INaturalist
from cosup.data.sources.manifest import Manifest
from cosup.data.sources.mini_imagenet import MiniImageNet
from cosup.data.sources.table import Table
from cosup.data.sources.torchvision import Torchvision
from cosup.data.sources.wilds import Wilds
from cosup.registry import Registry

SOURCES: Registry[Source] = Registry(
    "source",
    {
        "digits": Digits,
        "domain_folder": DomainFolder,
        "huggingface": HuggingFace,
        "idx": Idx,
        "image_folder": ImageFolder,
        "images": ImageFiles,
        "inaturalist": INaturalist,
        "manifest": Manifest,
        "mini_imagenet": MiniImageNet,
        "table": Table,
        "torchvision": Torchvision,
        "wilds": Wilds,
    },
    "cosup.sources",
)

__all__ = ["SOURCES", "SPLITS", "Collection", "Columns", "Source", "collect"]
