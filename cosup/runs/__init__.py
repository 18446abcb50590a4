"""Run experiments, from a config to a summary. Modules are imported when they are used, as torch,
timm and pandas are slow to load."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType

from cosup.config import Config, Draft
from cosup.errors import Mistakes, UserError
from cosup.progress import working_on
from cosup.remote import Place

if TYPE_CHECKING:
    from cosup.runs.backend import Backend
    from cosup.runs.plan import Plan


def run_config(
    config: Config,
    directory: Path,
    resume: bool = False,
    overwrite: bool = False,
    backend: "Backend | None" = None,
) -> dict[str, Any]:
    """Run a config, once or for each of `run.seeds` and of `rounds.losses`.

    Returns the content of `summary.json`. backend: what computes; None is this process, and
    `cosup.cluster.run_with_backend`, which checks the config first, uses that of
    `execution.backend`. Raises as `run_one`, and before anything is made `UserError` with every
    mistake (`cosup.runs.checks`).
    """
    if backend is None and config.execution.backend != "local":
        raise UserError(
            "needs cosup.cluster.run_with_backend, or `cosup run`",
            key="execution.backend",
            value=config.execution.backend,
        )
    with working_on("loading torch and timm"):
        from cosup.runs.ablation import run_ablation
        from cosup.runs.repeat import run_seeds
        from cosup.runs.single import run_single

    if backend is None:
        check_run(config, directory, resume, overwrite)
    if config.rounds.losses is not None:
        return run_ablation(config, directory, resume=resume, overwrite=overwrite, backend=backend)
    run = run_single if config.run.seeds is None else run_seeds
    return run(config, directory, resume=resume, overwrite=overwrite, backend=backend)


def ready(draft: Draft, output: str | None = None) -> tuple[Config, Path | Place]:
    """Return the config of a run, and where it is written.

    output: the place, instead of the run's folder in `run.output`. Raises `UserError` with every
    mistake in the settings, and then also with those in the data and files.
    """
    from cosup.runs.staging import run_place

    if draft.errors:
        from cosup.runs.checks import check_samples

        check_samples(draft)
    config = draft.checked()
    return config, run_place(config, output)


def check_run(
    config: Config, directory: Path | None, resume: bool = False, overwrite: bool = False
) -> None:
    """Raise `UserError` with every mistake that can be found before a run.

    directory: None for one at a URI. A run that is resumed was checked when it was started; what is
    left of it is checked when it goes on.
    """
    from cosup.runs.checks import check_samples
    from cosup.runs.directory import check_directory

    mistakes = Mistakes()
    if directory is not None:
        with mistakes.caught():
            check_directory(directory, config, resume, overwrite)
    if not resume:
        with mistakes.caught():
            check_samples(Draft.of(config))
    mistakes.raise_all()


def describe_run(summary: dict[str, Any], directory: Path | Place) -> RenderableType:
    """Return the table that a finished run prints."""
    from cosup.runs.ablation_table import ablation_table
    from cosup.runs.tables import summary_table

    if "losses" in summary:
        return ablation_table(summary, directory)
    return summary_table(summary, directory)


def plan_config(config: Config | Draft) -> "Plan":
    """Return what a run would do, as data that rich prints as tables.

    Raises `UserError` with every mistake.
    """
    from cosup.runs.checks import check_samples

    draft = Draft.of(config) if isinstance(config, Config) else config
    facts = check_samples(draft)
    from cosup.runs.planning import make_plan
    from cosup.runs.sharded_plan import sharded_facts

    if "samples" not in facts:
        facts |= sharded_facts(draft.checked(), facts)
    return make_plan(draft.checked(), facts)


def review_run(
    place: str, number: int | None, answers: Path | None, seed: int | None, page: bool
) -> RenderableType:
    """Choose images of a run to review, or read the answers. Returns what to print."""
    from cosup.runs.review import ask, read

    if answers is not None:
        return read(place, answers)
    assert number is not None
    return ask(place, number, seed, page)
