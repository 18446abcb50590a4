"""What a run ran on: versions, machine, device, commit."""

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from cosup.config import Config
from cosup.models.compute import resolve_device

PACKAGES = (
    "cosup",
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "pandas",
    "pyarrow",
    "safetensors",
    "scikit-learn",
    "pydantic",
    "ray",
)


def describe_environment(config: Config) -> dict[str, Any]:
    """Plain values for `environment.json`; `UserError` if the config's device isn't there."""
    return {
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": {
            "cores": os.cpu_count(),
            "usable": _usable_cores(),
            "threads": torch.get_num_threads(),
        },
        "device": _device(resolve_device(config.execution.device)),
        "commit": _commit(),
        "command": sys.argv,
        "working_directory": str(Path.cwd()),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _device(device: torch.device) -> dict[str, Any]:
    if device.type != "cuda":
        return {"name": str(device)}
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": str(device),
        "model": properties.name,
        "memory_gb": round(properties.total_memory / 2**30, 1),
        "cuda": torch.version.cuda,
    }


def _commit() -> dict[str, Any] | None:
    """The commit of the working directory's repository, and whether files differ from it."""
    commit = _git("rev-parse", "HEAD")
    return {"id": commit, "changed": bool(_git("status", "--porcelain"))} if commit else None


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
