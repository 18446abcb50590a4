"""The checks of a config: one table, shared by `cosup validate`, `cosup plan` and `cosup run`.

A check gets the facts that it needs (sections of the config, or what other checks found) and raises
`UserError` with all that it finds. All checks run whose facts are there, so a mistake hides only
what cannot be checked because of it. `validate` runs those that need no look at the samples and
import neither torch nor pandas unless a setting asks for it; `plan` and `run` run all.
"""

import importlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import eq
from typing import Any

from cosup.config import Draft
from cosup.config.schema import RunSection
from cosup.errors import Key, Mistakes, UserError
from cosup.progress import working_on

__all__ = [
    "CONFIG_CHECKS",
    "SAMPLE_CHECKS",
    "Check",
    "Facts",
    "check_config",
    "check_samples",
    "run_checks",
]

Facts = dict[str, Any]
"""Sections of the config by name, `config` if all of it is valid, and what checks found."""


@dataclass(frozen=True)
class Check:
    """One check.

    function: `MODULE:FUNCTION` of `cosup.runs`, imported when it is called, with the facts that it
    needs in this order. needs: their names. gives: the name of the fact that it returns, if any; it
    is missing if the check found a mistake.
    """

    function: str
    needs: tuple[str, ...]
    gives: str = ""

    def __call__(self, facts: Facts) -> None:
        """Run the check and add what it gives to the facts. Raises `UserError`."""
        module, _, name = self.function.partition(":")
        function = getattr(importlib.import_module(f"cosup.runs.{module}"), name)
        found = function(*(facts[need] for need in self.needs))
        if self.gives:
            facts[self.gives] = found


CONFIG_CHECKS = (
    Check("check_config:names_of_source", ("data",), gives="names"),
    Check("check_config:check_data_files", ("data",)),
    Check("check_config:check_teacher_models", ("teachers",)),
    Check("check_config:streams_tables", ("data", "teachers"), gives="streamed"),
    Check("check_config:check_table_files", ("teachers", "streamed")),
    Check("check_config:check_tables", ("teachers", "names", "streamed")),
    Check("check_config:check_scopes", ("teachers", "names")),
    Check("check_config:check_student_names", ("student",)),
    Check("check_config:check_output", ("run",)),
    Check("check_config:check_loggers", ("run",)),
    Check("check_config:check_execution", ("execution",), gives="device"),
)
"""What `cosup validate` checks, besides the settings themselves."""

SAMPLE_CHECKS = (
    Check("check:listed", ("run", "data", "names"), gives="source"),
    Check("check:check_images", ("data", "source")),
    Check("check:check_tables", ("data", "teachers", "source")),
    Check("check_config:trains_on_labels", ("teachers",), gives="teacher_train"),
    Check("check_config:wants_teacher_train", ("teachers", "rounds"), gives="teacher_train"),
    Check("check:split", ("run", "data", "source", "teacher_train"), gives="samples"),
    Check("check:check_noise", ("data", "samples")),
    Check("check:planned", ("run", "teachers", "samples"), gives="hierarchy"),
    Check("check:find_compute", ("run", "execution", "device"), gives="compute"),
    Check("check:open_features", ("run", "execution"), gives="features"),
    Check("check:check_teachers", ("run", "teachers", "samples", "hierarchy", "features")),
    Check("check:load_backbone", ("student", "features"), gives="backbone"),
    Check("check:build_student", ("student", "samples"), gives="network"),
    Check("check:check_student", ("student", "samples", "network")),
    Check("check:check_meta_stage", ("student", "rounds", "samples")),
    Check("check:check_episodes", ("run", "data", "samples")),
    Check("check:check_text", ("student", "samples", "backbone")),
    Check("check:check_labels", ("rounds", "samples")),
    Check("check:check_losses", ("rounds", "samples")),
    Check("check_softening:check_losses_soften", ("rounds", "student", "samples")),
    Check("check:check_pairs", ("config", "samples", "network")),
    Check("check:check_assigner", ("rounds", "hierarchy", "samples")),
    Check("check:check_recipes", ("config", "hierarchy", "samples")),
    Check("check:check_seeds", ("config", "samples", "hierarchy")),
)
"""What `cosup plan` and `cosup run` check in addition."""

SHARDED_CHECKS = (
    Check("sharded_check:check_sharded", ("config",)),
    Check("check:find_compute", ("run", "execution", "device"), gives="compute"),
    Check("check:open_features", ("run", "execution"), gives="features"),
    Check("check:load_backbone", ("student", "features"), gives="backbone"),
)
"""What `cosup run` checks in addition of a run whose samples are not listed."""


def run_checks(draft: Draft, checks: Sequence[Check]) -> tuple[Facts, Mistakes]:
    """Run the checks whose facts are there, in order; return all facts and all mistakes.

    Mistakes in the settings come first; what is found of such a setting besides is left out, as it
    may follow from that. What is logged on the way, the run logs itself.
    """
    # Where the section `run` is wrong, the samples are split by some seed all the same.
    facts: Facts = {"run": RunSection(), "streamed": False, **draft.sections}
    if draft.config is not None:
        facts["config"] = draft.config
    found = Mistakes()
    with _silent(), working_on("checking the config", len(checks)) as advance:
        for check in checks:
            if facts.keys() >= set(check.needs):
                with found.caught():
                    check(facts)
            advance(1)
    mistakes = Mistakes()
    mistakes.add(draft.errors)
    settled = [error.key for error in draft.errors if len(error.key) > 1]
    mistakes.add(e for e in found.errors if not any(_overlap(e.key, key) for key in settled))
    return facts, mistakes


def _overlap(key: Key, other: Key) -> bool:
    """Return whether two settings are the same, or one a part of the other."""
    return len(key) > 1 and all(map(eq, key, other))


def check_config(draft: Draft) -> None:
    """Check the settings and what they name (`cosup validate`).

    Raises `UserError` with every mistake.
    """
    run_checks(draft, CONFIG_CHECKS)[1].raise_all()


def check_samples(draft: Draft) -> Facts:
    """Check everything (`cosup plan`, `cosup run`); return what was found.

    Raises `UserError` with every mistake.
    """
    more = SHARDED_CHECKS if _is_sharded(draft) else SAMPLE_CHECKS
    facts, mistakes = run_checks(draft, (*CONFIG_CHECKS, *more))
    mistakes.raise_all()
    return facts


def _is_sharded(draft: Draft) -> bool:
    """Return whether the samples are not listed; False where the checks will tell what is wrong."""
    if draft.config is None:
        return False
    from cosup.sharded.opening import is_sharded

    try:
        return is_sharded(draft.config.data)
    except UserError:
        return False


@contextmanager
def _silent() -> Iterator[None]:
    logger = logging.getLogger("cosup")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
