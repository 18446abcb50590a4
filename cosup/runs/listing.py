"""List what there is (`cosup ls`): configs, all that a config chooses by name, its keys, and runs.

`list_things` returns it as data, which `cosup ls --json` prints; `listing` puts the same data into
words.
"""

import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from cosup.config.files import shipped_benches, shipped_configs
from cosup.config.keys import Setting, choice_settings, settings_below
from cosup.config.loggers import Loggers
from cosup.config.rounds import Assigners, Filters, Losses, Refiners
from cosup.controls import CONTROLS, Control
from cosup.data.sources import SOURCES
from cosup.errors import MISSING, UserError, unknown_name
from cosup.registry import Registry
from cosup.runs.run_results import results_in
from cosup.secrets import mask
from cosup.settings.teachers import TeacherTraits, known_kinds

CONFIGS = Path("configs")
RUNS = Path("outputs")
KEYS = "keys"
ALIASES = {"filters": "consistency"}
"""Other words for kinds: a config has the filters under `rounds.consistency`."""


@dataclass(frozen=True)
class Thing:
    """One entry of a list. more: further lines about it. facts: what JSON has in their place."""

    name: str
    text: str
    settings: tuple[Setting, ...] = ()
    more: tuple[str, ...] = ()
    facts: Mapping[str, Any] | None = None

    def tree(self) -> dict[str, Any]:
        """Return it as plain values."""
        settings = {"settings": [_setting_tree(one) for one in self.settings]}
        return {
            "name": self.name,
            "description": self.text,
            **(settings if self.settings else {}),
            **(self.facts or {}),
        }


def list_things(kind: str = "", section: str = "") -> Any:
    """Return what there is of one kind as plain values, or of every kind (but keys) by its name.

    section: of the kind `keys`, the section or key to list; of `runs`, the folder or URI that they
    are in. Raises `UserError` for an unknown kind or section, and `RunError` for a URI that cannot
    be read.
    """
    kind = _known_kind(kind, section)
    if not kind:
        return {name: [one.tree() for one in things()] for name, things in _KINDS.items()}
    if kind == KEYS:
        return [_setting_tree(one) for one in settings_below(section)]
    return [one.tree() for one in _things(kind, section)]


def listing(kind: str = "", section: str = "") -> RenderableType:
    """Return what there is of one kind, with settings; or the names of every kind (but keys).

    Parameters and errors as for `list_things`.
    """
    kind = _known_kind(kind, section)
    if not kind:
        hint = Text("cosup ls KIND tells more of one; cosup ls keys explains every setting")
        return Group(*(_names(name, things()) for name, things in _KINDS.items()), hint)
    if kind == KEYS:
        return _explained(settings_below(section), expanded=bool(section))
    things = _things(kind, section)
    return _names(kind, things, section) if kind in _PLAIN else Group(*_in_full(things))


def _things(kind: str, section: str) -> list[Thing]:
    return runs_in(section) if section else _KINDS[kind]()


def _known_kind(kind: str, section: str) -> str:
    kind = ALIASES.get(kind, kind)
    if kind and kind not in KINDS:
        raise unknown_name("kind", kind, [*KINDS, *ALIASES])
    if section and kind not in (KEYS, "runs"):
        problem = "is for `cosup ls keys` and `cosup ls runs`"
        raise UserError(problem, key="SECTION", value=section)
    return kind


def _names(kind: str, things: Iterable[Thing], place: str = "") -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column()
    for thing in things:
        table.add_row(f"  {thing.name}", Text(thing.text))
    looked = f" in {mask(place)}" if place else _LOOKED.get(kind, "")
    none = Text(f"  (none{looked})")
    title = Text(_TITLES.get(kind, kind), style="bold")
    return Group(title, table if table.row_count else none)


def _in_full(things: Iterable[Thing]) -> Iterable[RenderableType]:
    """Yield each thing with what it needs, and its settings."""
    for thing in things:
        yield Text.assemble((thing.name, "bold"), "  ", thing.text)
        for line in thing.more:
            yield _indented(Text(line))
        yield from map(_setting_lines, thing.settings)


def _explained(settings: Iterable[Setting], expanded: bool) -> RenderableType:
    """List settings of a config. expanded: with those of registered names."""
    parts: list[RenderableType] = []
    choice = None
    for one in settings:
        if one.choice != choice:
            choice = one.choice
            parts.append(Text(f"with {choice}", style="bold"))
        parts.append(_setting_lines(one))
    return Group(*parts)


def _setting_lines(one: Setting) -> RenderableType:
    """Return a setting with its default and what is allowed, and below it what it does."""
    if one.required:
        default = ": must be given"
    else:
        default = "" if one.default is MISSING else f": {_json(one.default)}"
    head = Text(f"{one.key}{default}  ({one.allowed})")
    lines = Group(head, _indented(Text(one.description, style="dim")))
    return _indented(lines) if one.choice else lines


def _indented(thing: RenderableType) -> RenderableType:
    return Padding(thing, (0, 0, 0, 4), expand=False)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _setting_tree(one: Setting) -> dict[str, Any]:
    return {
        "key": one.key,
        "allowed": one.allowed,
        "required": one.required,
        **({} if one.default is MISSING else {"default": one.default}),
        "description": one.description,
        **({"choice": one.choice} if one.choice else {}),
    }


def _first_line(cls: type[Any]) -> str:
    return (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " ")


def _registered(registry: Registry[Any]) -> Callable[[], list[Thing]]:
    return lambda: [
        Thing(name, _first_line(entry.settings), tuple(choice_settings(registry, name)))
        for name, entry in sorted(registry.known().items())
    ]


def _configs() -> list[Thing]:
    """List the configs and benches that come with cosup by name, and other YAML files of `configs/`
    here."""
    shipped = {**shipped_configs(), **shipped_benches()}
    # By content: in a checkout beside an installed cosup, both have a copy.
    known = {path.read_bytes() for path in shipped.values()}
    here = [path for path in sorted(CONFIGS.glob("*.y*ml")) if path.read_bytes() not in known]
    found = {**shipped, **{str(path): path for path in here}}
    return [
        Thing(name, _first_sentence(path), facts={"file": str(path)})
        for name, path in found.items()
    ]


def _first_sentence(config: Path) -> str:
    """Return the first sentence of a config's first comment, below the command that runs it."""
    heading, _, _ = config.read_text(encoding="utf-8", errors="replace").partition("\n\n")
    text = heading.partition("\n#\n")[2] or heading
    words = " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
    return words.split(": ")[0].split(". ")[0]


def _teachers() -> list[Thing]:
    """List the kinds of teachers, and how a config selects each."""
    return [_teacher(name, entry.settings) for name, entry in known_kinds().items()]


def _teacher(name: str, traits: type[TeacherTraits]) -> Thing:
    written = {
        "name": f"teachers.model: {{name: {name}}}",
        "argument": f"teachers.model: {{name: '{name}:MODULE:FUNCTION'}}",
        "other": "teachers.model: {name: NETWORK}, any other name (cosup ls keys teachers.model)",
        "use": f"teachers.model: {{name: NETWORK, use: {name}}}",
        "external": "an entry of teachers.external (cosup ls keys teachers.external)",
    }[traits.selected_by]
    trained = traits.needs_labelled_samples
    how = "on labelled images of its scope" if trained else "not here"
    needs = [f"must be given: {', '.join(traits.required)}"] if traits.required else []
    return Thing(
        name,
        _first_line(traits),
        more=(f"written as: {written}", f"trained: {how}", *needs),
        facts={"written_as": written, "trained": trained, "required": list(traits.required)},
    )


def _controls() -> list[Thing]:
    """List the controls with what they are compared as, and what they need."""
    return [_control(control) for control in CONTROLS.values()]


def _control(control: Control) -> Thing:
    more = [f"needs: {control.condition}"] if control.condition else []
    if not control.is_trained:
        more.append("trains no student of its own")
    return Thing(
        control.name,
        control.sentence or control.label,
        more=tuple(more),
        facts={
            "label": control.label,
            "needs": control.condition or None,
            "trains_a_student": control.is_trained,
            "reads_labels": control.reads_labels,
            "is_bound": control.is_bound,
        },
    )


def _runs() -> list[Thing]:
    """List the run directories of `outputs/`."""
    return runs_in(str(RUNS)) if RUNS.is_dir() else []


def runs_in(place: str) -> list[Thing]:
    """List the runs in a folder or at a URI with their results (`cosup.runs.run_results`)."""
    return [Thing(one.place, one.in_words(), facts=one.facts) for one in results_in(place)]


_TITLES = {"consistency": "consistency (filters)"}
_LOOKED = {"runs": f" in {RUNS}/"}
_PLAIN = ("configs", "runs")
"""Kinds that are listed with a sentence each."""
_KINDS: dict[str, Callable[[], list[Thing]]] = {
    "configs": _configs,
    "assigners": _registered(Assigners),
    "consistency": _registered(Filters),
    "losses": _registered(Losses),
    "refinement": _registered(Refiners),
    "loggers": _registered(Loggers),
    "sources": _registered(SOURCES),
    "teachers": _teachers,
    "controls": _controls,
    "runs": _runs,
}
KINDS = (*_KINDS, KEYS)
"""What can be listed."""
