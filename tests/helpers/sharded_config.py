"""A config of a sharded run on a manifest of digits."""

from pathlib import Path
from typing import Any

from cosup.config.schema import Config


def sharded_config(manifest: Path, **sections: Any) -> Config:
    backbone = {"name": "test_resnet", "weights": None, "image_size": 32}
    tree: dict[str, Any] = {
        "run": {"name": "sharded", "loggers": []},
        "data": {"source": "manifest", "path": str(manifest), "sharded": True},
        "teachers": {
            "hierarchy": {"by": "class", "levels": [1, 2]},
            "model": {"name": "linear_pixels", "size": 8},
            "training": {"steps": 30, "batch_size": 32},
        },
        "student": {"backbone": backbone, "training": {"steps": 30, "batch_size": 32}},
        "rounds": {"assignment": "dawid_skene"},
        "execution": {"shard_size": 100, "device": "cpu", "threads": 1, "workers": 1},
        "controls": ["ceiling"],
    }
    for name, section in sections.items():
        tree[name] = {**tree.get(name, {}), **section} if isinstance(section, dict) else section
    return Config.model_validate(tree)
