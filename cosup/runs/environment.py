"""Describe what a run is computed with: for `environment.json` and, for bug reports, `cosup env`.

The latter works where something is missing: what cannot be found is null, and why is in words.
"""

import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from cosup import words
from cosup.config.schema import Config, RunSection
from cosup.errors import in_short
from cosup.runs.staging import feature_cache
from cosup.secrets import mask

if TYPE_CHECKING:
    import torch

__all__ = ["describe_environment", "describe_machine", "machine_table"]

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

DEVELOPMENT = ("test", "bench")
"""Extras that no user of cosup needs."""

VARIABLES = re.compile(
    r"COSUP_\w+|CUDA_VISIBLE_DEVICES|(OMP|MKL|OPENBLAS)_\w+|PYTORCH_\w+|TORCH_(HOME|LOGS)"
    r"|HF_(HOME|HUB_\w+|DATASETS_\w+|ENDPOINT)|TRANSFORMERS_OFFLINE|RAY_(ADDRESS|API_SERVER_ADDRESS)"
    r"|(https?|all|no)_proxy|COLUMNS|TMPDIR|XDG_CACHE_HOME",
    re.IGNORECASE,
)
SECRET = re.compile(r"TOKEN|KEY|SECRET|PASSWORD", re.IGNORECASE)


def describe_environment(config: Config) -> dict[str, Any]:
    """Return the content of `environment.json`: versions, machine, device and commit.

    Raises `UserError` if this machine does not have the device of the config.
    """
    import torch

    from cosup.models.compute import resolve_device

    local = config.execution.backend == "local"
    return {
        **_versions(),
        "cpu": {**_cores(), "threads": torch.get_num_threads()},
        "device": _device(resolve_device(config.execution.device if local else "cpu")),
        "commit": _commit(),
        "command": list(map(mask, sys.argv)),
        "working_directory": str(Path.cwd()),
    }


def describe_machine() -> dict[str, Any]:
    """Return what a bug report should tell: versions, extras, devices, caches and variables.

    Sizes are in bytes, memory in GiB. Secrets are left out.
    """
    return {
        **_versions(),
        "executable": sys.executable,
        "installed_in": str(Path(__file__).parents[1]),
        "extras": {name: _lacking(packages) for name, packages in _extras().items()},
        "cpu": {"model": _cpu(), **_cores(), "memory_gb": _memory()},
        **_torch(),
        "caches": _caches(),
        "offline": _is_offline(),
        "variables": _variables(os.environ),
    }


def machine_table(machine: Mapping[str, Any]) -> RenderableType:
    """Return what `describe_machine` found as plain lines."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column()
    for name, text in _lines(machine):
        table.add_row(name, Text(text))
    return table


def _lines(machine: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    cpu, packages = machine["cpu"], dict(machine["packages"])
    yield "cosup", f"{packages.pop('cosup', 'not installed')} in {machine['installed_in']}"
    yield "python", f"{machine['python']} ({machine['executable']})"
    yield "platform", machine["platform"]
    yield "packages", ", ".join(f"{name} {found}" for name, found in packages.items())
    for name, lacking in machine["extras"].items():
        yield f"extra {name}", f"lacks {', '.join(lacking)}" if lacking else "installed"
    memory = "" if cpu["memory_gb"] is None else f", {cpu['memory_gb']} GiB memory"
    threads = "" if machine["threads"] is None else f", {machine['threads']} threads of torch"
    yield "cpu", f"{cpu['model']}, {cpu['usable']} of {cpu['cores']} cores{threads}{memory}"
    for device in machine["devices"]:
        more = f"{device['model']}, {device['memory_gb']} GiB, CUDA {device['cuda']}"
        yield "gpu", f"{device['name']}: {more}" if "model" in device else device["name"]
    if not machine["devices"]:
        yield "gpu", machine["no_devices"]
    for name, cache in machine["caches"].items():
        used = "not there" if cache["bytes"] is None else words.size(cache["bytes"])
        yield f"cache {name}", f"{cache['folder']}: {used}"
    hub = {True: "offline mode", False: "online", None: "huggingface_hub is missing"}
    yield "hub", hub[machine["offline"]]
    for name, value in machine["variables"].items():
        yield name, value


def _versions() -> dict[str, Any]:
    return {
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _extras() -> dict[str, list[str]]:
    """Return the packages of each extra of the installed cosup."""
    found: dict[str, list[str]] = {}
    try:
        lines = requires("cosup") or []
    except PackageNotFoundError:
        lines = []
    for line in lines:
        package, extra = re.match(r"[\w.-]+", line), re.search(r"extra == ['\"]([\w-]+)['\"]", line)
        if package and extra and extra[1] not in DEVELOPMENT:
            found.setdefault(extra[1], []).append(package[0])
    return found


def _lacking(packages: list[str]) -> list[str]:
    return [name for name in packages if _version(name) is None]


def _cores() -> dict[str, int | None]:
    cores = os.cpu_count()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores or 1
    return {"cores": cores, "usable": usable}


def _cpu() -> str:
    try:
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:  # not Linux
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def _memory() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _torch() -> dict[str, Any]:
    """Return the threads and GPUs that torch sees; nothing, and why, if it cannot be imported."""
    try:
        import torch

        devices = [
            _device(torch.device("cuda", index)) for index in range(torch.cuda.device_count())
        ]
        if torch.backends.mps.is_available():
            devices.append({"name": "mps"})
        threads = torch.get_num_threads()
    except Exception as error:  # a broken installation raises ImportError, OSError, RuntimeError
        reason = f"torch cannot be used ({in_short(error)})"
        return {"threads": None, "devices": [], "no_devices": reason}
    return {"threads": threads, "devices": devices, "no_devices": None if devices else "none"}


def _device(device: "torch.device") -> dict[str, Any]:
    import torch

    if device.type != "cuda":
        return {"name": str(device)}
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": str(device),
        "model": properties.name,
        "memory_gb": round(properties.total_memory / 2**30, 1),
        "cuda": torch.version.cuda,
    }


def _caches() -> dict[str, dict[str, Any]]:
    """Return the folder and size of the features that runs share by default, and of the hub's."""
    folders = {"features": feature_cache(RunSection().output)}
    try:
        from huggingface_hub.constants import HF_HUB_CACHE

        folders["hub"] = Path(HF_HUB_CACHE)
    except ImportError:
        pass
    return {
        name: {"folder": str(folder), "bytes": _size(folder)} for name, folder in folders.items()
    }


def _size(folder: Path) -> int | None:
    """Return the bytes of all files in a folder; None if there is no such folder."""
    if not folder.is_dir():
        return None
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # removed meanwhile
                total += os.lstat(os.path.join(place, name)).st_size
    return total


def _is_offline() -> bool | None:
    try:
        from huggingface_hub import is_offline_mode
    except ImportError:
        return None
    return bool(is_offline_mode())


def _variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that change what cosup does, without secrets."""
    return {
        name: "(set)" if SECRET.search(name) else mask(value)
        for name, value in sorted(environment.items())
        if VARIABLES.fullmatch(name)
    }


def _commit() -> dict[str, Any] | None:
    """Return the commit of the working directory, and whether files differ from it."""
    commit = _git("rev-parse", "HEAD")
    return {"id": commit, "changed": bool(_git("status", "--porcelain"))} if commit else None


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
