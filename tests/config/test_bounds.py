"""Bounds of settings: no number, name or text of a config is taken that no run could use."""

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import pytest
from helpers.user_errors import keys_of, mistakes_of

from cosup.config import Config, check_config
from cosup.config.loggers import Loggers
from cosup.data.sources import SOURCES
from cosup.registries import Assigners, Filters, Losses
from cosup.sections import is_section, item_of, members_of, settings_of
from cosup.validation import find_mistakes, setting_docs

GOOD: dict[str, Any] = {
    "data": {"source": "digits"},
    "student": {"backbone": {"name": "resnet18", "weights": None}},
}
REGISTRIES = (Assigners, Filters, Losses, Loggers, SOURCES)


def sections(cls: type[Any], seen: set[type[Any]]) -> Iterator[type[Any]]:
    """Yield a section and those within it, each once."""
    if cls in seen:
        return
    seen.add(cls)
    yield cls
    for setting in settings_of(cls).values():
        for member in members_of(setting):
            for inner in (member, *members_of(item_of(member.annotation))):
                if is_section(inner.annotation):
                    yield from sections(inner.annotation, seen)


def numbers() -> Iterator[tuple[type[Any], str, bool]]:
    """Yield the class and the name of each setting that takes numbers; whether it lists them."""
    chosen = [entry.settings for one in REGISTRIES for entry in one.builtin.values()]
    for cls in (*sections(Config, set()), *chosen):
        for name, setting in settings_of(cls).items():
            for member in members_of(setting):
                items = {inner.annotation for inner in members_of(item_of(member.annotation))}
                if {int, float} & {member.annotation, *items}:
                    yield cls, name, bool({int, float} & items)


NUMBERS = sorted({(cls.__name__, name, many): cls for cls, name, many in numbers()}.items())


HARMLESS = {
    *("RunSection.seed", "RunSection.seeds", "SimulateSection.seed"),  # hashed
    *(
        "DataSection.limit",
        "ShiftedSection.limit",
        "INaturalist.year",
    ),  # more than all is all; a part of file names
    # Compared with what there is, before anything is computed:
    *("FewShotSection.novel", "FewShotSection.validation", "ScopeSection.class"),
    *("ScopeSection.domain", "ExternalSection.level", "FitNetSettings.hint_stage"),
    # Floats: the run says that the loss is not finite, and which setting may help.
    *("TrainingSection.lr", "TrainingSection.min_lr", "TrainingSection.weight_decay"),
    *("MetaSection.lr", "MetaSection.weight_decay"),
}


def needed(cls: type[Any]) -> dict[str, str]:
    """Return what a registered class must be given, so that its other settings are looked at."""
    docs = setting_docs(cls) if dataclasses.is_dataclass(cls) else {}
    return {name: "x" for name, (_, default) in docs.items() if default is ...}


def takers(value: float) -> set[str]:
    """Return the settings that take a number."""
    return {
        f"{owner}.{name}"
        for (owner, name, many), cls in NUMBERS
        if not any(
            error.key[:1] == (name,)
            for error in find_mistakes(cls, {**needed(cls), name: [value] if many else value})[1]
        )
    }


@pytest.mark.parametrize("value", [10**19, -(10**19), 10**400, 1e300, -1e300, float("nan")])
def test_no_setting_takes_a_number_that_nothing_computes_with(value: float) -> None:
    """Every section and every registered name is asked, so that a new setting has its bound."""
    assert len(NUMBERS) > 100
    assert takers(value) == set()


def test_what_costs_memory_or_time_has_a_bound() -> None:
    assert takers(10**10) <= HARMLESS
    assert takers(-(10**10)) <= HARMLESS


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("execution.threads=1000000", "execution.threads"),
        ("student.backbone.image_size=20000", "student.backbone.image_size"),
        ("teachers.model={name: linear_pixels, size: 100000}", "teachers.model.size"),
        ("student.training.steps=99999999999999999999", "student.training.steps"),
        (f"student.training.steps=1{'0' * 400}", "student.training.steps"),
        ("rounds.repeat=1000000000", "rounds.repeat"),
        ("student.cross_fit=1000000", "student.cross_fit"),
        ("run.seeds=[-1]", "run.seeds.0"),
        ("teachers.hierarchy.levels=[2, 1]", "teachers.hierarchy.levels"),
        ("teachers.hierarchy.levels=[0, 1]", "teachers.hierarchy.levels.0"),
        ("teachers.hierarchy.levels=[1, 100000]", "teachers.hierarchy.levels.1"),
        ("controls=[ceiling, team, ceiling]", "controls"),
        ("data.rotations=[0, 1e9]", "data.rotations"),
        ("data.few_shot={novel: 2, ways: 1000, shots: 500}", "data.few_shot"),
        *((f"run.name={name}", "run.name") for name in (".", "..", ".cache", "-x", "a/b")),
        (f"run.name={'x' * 300}", "run.name"),
        (f"teachers.external=[{{name: {'x' * 300}}}]", "teachers.external.0.name"),
        (r'run.output="a\0b"', "run.output"),
        (r'run.output="a\ud800b"', "run.output"),
    ],
)
def test_the_setting_is_named(override: str, key: str) -> None:
    errors = mistakes_of(check_config, GOOD, "c.yaml", [override])
    assert key in keys_of(errors)
    assert all(len(str(error).splitlines()) == 1 for error in errors)


def test_levels_may_repeat_a_number_of_teachers() -> None:
    assert check_config(GOOD, "c.yaml", ["teachers.hierarchy.levels=[1, 2, 2, 4]"])


def test_a_thousand_mistakes_are_told_in_part() -> None:
    """Each is looked up among the known names, which would take minutes for all of them."""
    tree = {**GOOD, "run": {f"nmae{number}": 1 for number in range(50_000)}}
    started = time.process_time()
    assert 1 < len(mistakes_of(check_config, tree)) <= 300
    assert time.process_time() - started < 20
