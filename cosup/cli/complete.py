"""What the shell offers after Tab (`cosup --install-completion`)."""

from collections.abc import Iterable
from pathlib import Path


def configs(incomplete: str) -> list[str]:
    """Offer the configs that come with cosup, by name, and YAML files and folders at a path."""
    from cosup.config.files import shipped_configs

    return [*_starting(incomplete, shipped_configs()), *_files(incomplete)]


def shipped(incomplete: str) -> list[str]:
    """Offer the configs that come with cosup."""
    from cosup.config.files import shipped_configs

    return _starting(incomplete, shipped_configs())


def kinds(incomplete: str) -> list[str]:
    """Offer what can be listed."""
    from cosup.runs.listing import KINDS

    return _starting(incomplete, KINDS)


def keys(incomplete: str) -> list[str]:
    """Offer the keys of configs."""
    from cosup.config.keys import documented_settings

    return _starting(incomplete, dict.fromkeys(one.key for one in documented_settings()))


def overrides(incomplete: str) -> list[str]:
    """Offer the keys of configs, to be followed by a value."""
    return [f"{key}=" for key in keys(incomplete)]


def _starting(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _files(incomplete: str) -> list[str]:
    folder, _, start = incomplete.rpartition("/")
    place = Path(folder or ("/" if incomplete.startswith("/") else "."))
    try:
        found = sorted(path for path in place.iterdir() if path.name.startswith(start))
    except OSError:
        return []
    before = incomplete[: len(incomplete) - len(start)]
    return [
        f"{before}{path.name}{'/' if path.is_dir() else ''}"
        for path in found
        if path.is_dir() or path.suffix in (".yaml", ".yml")
    ]
