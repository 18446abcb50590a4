"""List configs, registered classes and runs (`cosup ls`)."""

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cosup.config.files import shipped_configs
from cosup.config.schema import Assigners, Filters, Losses
from cosup.controls import CONTROLS
from cosup.data.sources import SOURCES
from cosup.errors import RunError, unknown_name
from cosup.layout import Layout
from cosup.registry import Registry
from cosup.sections import allowed, settings_of
from cosup.settings.teachers import known_kinds
from cosup.validation import setting_docs

CONFIGS = Path("configs")
RUNS = Path("outputs")


def list_kinds(kind: str | None = None) -> RenderableType:
    """Return what there is of one kind, with settings; or the names of every kind."""
    if kind is None:
        return Group(*(_names(name, things()) for name, things in _KINDS.items()))
    if kind not in _KINDS:
        raise unknown_name("kind", kind, _KINDS)
    if kind in _REGISTRIES:
        return _settings(_REGISTRIES[kind])
    return _names(kind, _KINDS[kind]())


def _names(kind: str, things: dict[str, str]) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column()
    for name, text in things.items():
        table.add_row(f"  {name}", Text(text))
    none = Text(f"  (none{_LOOKED.get(kind, '')})")
    return Group(Text(kind, style="bold"), table if things else none)


def _settings(registry: Registry[Any]) -> RenderableType:
    """List each class of a registry with its settings, defaults and allowed values."""
    parts: list[RenderableType] = []
    for name, entry in sorted(registry.known().items()):
        cls = entry.settings
        parts.append(Text.assemble((name, "bold"), "  ", _first_line(cls)))
        types = settings_of(cls)
        for setting, (text, default) in setting_docs(cls).items():
            value = "must be given" if default is ... else json.dumps(default)
            head = f"    {setting}: {value}  ({allowed(types[setting])})"
            parts.append(Text(head))
            parts.append(Text("        " + " ".join(text.split()), style="dim"))
    return Group(*parts)


def _first_line(cls: type[Any]) -> str:
    return (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " ")


def _registered(registry: Registry[Any]) -> Callable[[], dict[str, str]]:
    return lambda: {
        name: _first_line(entry.settings) for name, entry in sorted(registry.known().items())
    }


def _configs() -> dict[str, str]:
    """List the configs that come with cosup by name, and other YAML files of `configs/` here."""
    shipped = shipped_configs()
    # By content: in a checkout beside an installed cosup, both have a copy.
    known = {path.read_bytes() for path in shipped.values()}
    here = [path for path in sorted(CONFIGS.glob("*.y*ml")) if path.read_bytes() not in known]
    found = {**shipped, **{str(path): path for path in here}}
    return {name: _first_sentence(path) for name, path in found.items()}


def _first_sentence(config: Path) -> str:
    """Return the first sentence of a config's first comment, below the command that runs it."""
    heading, _, _ = config.read_text(encoding="utf-8", errors="replace").partition("\n\n")
    text = heading.partition("\n#\n")[2] or heading
    words = " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
    return words.split(": ")[0].split(". ")[0]


def _teachers() -> dict[str, str]:
    """List the kinds of teachers."""
    return {name: _first_line(entry.settings) for name, entry in known_kinds().items()}


def _controls() -> dict[str, str]:
    """List the controls with their labels."""
    return {name: control.label for name, control in CONTROLS.items()}


def _runs() -> dict[str, str]:
    """List the run directories of `outputs/` with their results."""
    folders = sorted(RUNS.iterdir()) if RUNS.is_dir() else []
    return {str(folder): _summary(folder) for folder in folders if Layout(folder).is_run()}


def _summary(folder: Path) -> str:
    try:
        summary = Layout(folder).summary.read()
        if "losses" in summary:
            reached = ", ".join(
                f"{name} {one['student']['accuracy']:.3f}"
                for name, one in summary["losses"].items()
            )
            return f"{summary['status']}, student by loss: {reached}"
        student = summary["student"]
        pgr = "" if student.get("pgr_ci95") is None else f", PGR {student['pgr']:.3f}"
        return f"{summary['status']}, student {student['accuracy']:.3f}{pgr}"
    except (RunError, KeyError, TypeError):
        return "not finished"


_REGISTRIES: dict[str, Registry[Any]] = {
    "assigners": Assigners,
    "filters": Filters,
    "losses": Losses,
    "sources": SOURCES,
}
_LOOKED = {"runs": f" in {RUNS}/"}
_KINDS: dict[str, Callable[[], dict[str, str]]] = {
    "configs": _configs,
    **{kind: _registered(registry) for kind, registry in _REGISTRIES.items()},
    "teachers": _teachers,
    "controls": _controls,
    "runs": _runs,
}
