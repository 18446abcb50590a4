"""`cosup annotate`: what every teacher says of new images, as a long table.

It has the columns task (the path), worker (the teacher), label and probability, as those of
`cosup export labels --format long`, and can be the table of `teachers.external` of another config.
"""

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import RenderableType

from cosup.analysis.records import Answers, Run, load_run
from cosup.config import read_config
from cosup.config.files import find_config
from cosup.config.schema import Config, ExecutionSection, RunSection
from cosup.config.teachers import TeachersSection
from cosup.data.given import GivenImages, Readable, as_samples
from cosup.errors import Mistakes, UserError, about
from cosup.layout import Layout
from cosup.layout.kinds import damaged
from cosup.models.compute import Compute
from cosup.models.trusted import check_backbone_from_elsewhere
from cosup.origins import obtain_below
from cosup.probabilities import ProbTable
from cosup.remote import is_uri
from cosup.remote_copy import folder_of
from cosup.runs.bars import Pace
from cosup.runs.checks import check_samples
from cosup.runs.kept_rows import Row, written_alone
from cosup.runs.new_images import ImagesRequest, Said, Speakers, ask_about, check_request
from cosup.runs.prepare import list_samples, make_compute, obtain_levels
from cosup.settings.teachers import TEACHERS
from cosup.teachers.annotate import annotate_by_name
from cosup.teachers.base import Teacher, Training
from cosup.teachers.features import FeatureCache
from cosup.teachers.hierarchy import Hierarchy, plan_hierarchy
from cosup.teachers.train import recorded_spec, stored_teacher
from cosup.teachers.trusted import check_teacher_from_elsewhere
from cosup.words import listed

__all__ = ["Request", "annotate_images"]

log = logging.getLogger(__name__)

COLUMNS = ("task", "worker", "label", "probability")
CANNOT = "annotation tables and simulated annotators cannot answer new images"
BATCHES = 4
"""Batches of images that are decoded ahead of each other, and whose answers are written at once."""


@dataclass(frozen=True, kw_only=True)
class Request(ImagesRequest):
    """What is to be annotated.

    source: a run's directory or URI, or a config: its file or the name of a shipped one. settings:
    `section.key=value`, instead of those of a config. probabilities: write those of all classes
    too. packages: modules that the teachers of a run may import, as for `load_student`; those of a
    config may import any. device: `auto` is a config's own. The rest is that of `ImagesRequest`.
    """

    source: str
    settings: Sequence[str] = ()
    probabilities: bool = False
    packages: Sequence[str] = ()


def annotate_images(request: Request) -> RenderableType:
    """Let every teacher annotate images, write the output, and return what to print.

    The teachers of a run are those that it has trained, of all levels. Those of a config are
    trained first if they need it, on its data and with its seed, as its run would. Annotation
    tables and simulated annotators cannot answer. The rows of an image are in the order of the
    levels; a teacher that abstains has none. Broken images are left out, and named in the log.

    Raise `UserError` as `predict_images` does for output and images, for every mistake in a config,
    for what is neither a config nor a run with trained teachers, and where no teacher can answer.
    """
    mistakes = Mistakes()
    paths = check_request(request, mistakes)
    with mistakes.caught():
        source = _source(request)
    mistakes.raise_all()
    with written_alone(request.output, request.may_exist), _folder(request.output) as folder:
        asked = _asked(source, request, folder)
        if source.absent:
            log.warning("left out: %s; %s", listed(source.absent), CANNOT)
        return ask_about(paths, _speakers(asked, request), request)


@dataclass(frozen=True)
class _Source:
    """Where teachers are from. names: of those that can answer. absent: of those that cannot."""

    of: Run | Config
    names: Sequence[str]
    absent: Sequence[str]


@dataclass(frozen=True)
class _Asked:
    """Teachers that answer, in order. features: those of the images at hand alone."""

    teachers: Sequence[Teacher]
    classes: tuple[str, ...]
    domains: tuple[str, ...]
    features: FeatureCache

    def annotate(self, images: GivenImages) -> dict[str, ProbTable]:
        """Return the annotations of images by each teacher."""
        data, rows = as_samples(images, self.classes, self.domains), np.arange(len(images))
        found = annotate_by_name(self.teachers, data, rows, self.features.compute)
        self.features.opened.clear()
        return found


def _source(request: Request) -> _Source:
    """Return the run, or the config without any mistake, and its teachers."""
    of, can = _run_or_config(request)
    names = [name for name, answers in can.items() if answers]
    if not names:
        raise UserError(f"has no teacher to ask: {CANNOT}", where=request.source)
    return _Source(of, names, [name for name in can if name not in names])


def _run_or_config(request: Request) -> tuple[Run | Config, dict[str, bool]]:
    """Return the run or config, and which of its teachers can answer new images."""
    path = folder_of(request.source)
    if is_uri(request.source) or Layout(path).is_run() or find_config(path).is_dir():
        run = load_run(request.source)
        if request.settings:
            problem = "--set changes the settings of a config, and this is a run"
            raise UserError(problem, value=request.source)
        if not run.prepared:
            problem = "its teachers are not trained yet; `cosup run CONFIG --resume` goes on"
            raise UserError(problem, where=request.source)
        return run, {one.name: not _is_external(one.kind) for one in run.teachers}
    draft = read_config(path, request.settings)
    hierarchy: Hierarchy = check_samples(draft)["hierarchy"]
    config = draft.checked()
    if config.run.seeds is not None:
        raise UserError(
            "several seeds train several teachers of each name; choose one",
            key="run.seeds",
            value=config.run.seeds,
            allowed="--set run.seeds=null --set run.seed=0",
        )
    return config, {spec.name: spec.external is None for level in hierarchy for spec in level}


def _is_external(kind: str) -> bool:
    return kind in TEACHERS and TEACHERS[kind].settings.selected_by == "external"


def _asked(source: _Source, request: Request, folder: Path) -> _Asked:
    """Return the teachers, loaded. folder: for those that are trained."""
    if isinstance(source.of, Run):
        return _of_run(source.of, source.names, request)
    return _of_config(source.of, source.names, request, folder)


def _of_run(run: Run, names: Sequence[str], request: Request) -> _Asked:
    """Return the teachers that a run has stored."""
    execution = ExecutionSection.model_validate(run.config["execution"])
    execution = execution.model_copy(update={"device": request.device})
    features = _without_cache(make_compute(RunSection(), execution), request)
    parts = tuple(run.classes), tuple(run.domains)
    obtain_below(run.files.teachers.folder)
    for name in names:
        _check_teacher(run, name, request.packages)
    return _stored(names, run.files.teachers.folder, parts, features)


def _check_teacher(run: Run, name: str, packages: Sequence[str]) -> None:
    """Raise `UserError` for a teacher of a run that names code or a pickle; anybody may have
    written it."""
    record = run.files.teachers.record(name)
    try:
        model = recorded_spec(record.read()).model
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(record.path, error) from error
    with about(f"teacher '{name}'"):
        check_teacher_from_elsewhere(model, packages)
        if model.features is not None:
            check_backbone_from_elsewhere(model.features, packages)


def _of_config(config: Config, names: Sequence[str], request: Request, folder: Path) -> _Asked:
    """Return the teachers of a config, trained as its run trains them and stored in a folder."""
    execution = config.execution
    if request.device != "auto":
        execution = execution.model_copy(update={"device": request.device})
    compute = make_compute(config.run, execution)
    data = list_samples(config, compute)
    hierarchy = plan_hierarchy(config.teachers, data.classes, data.domains, config.run.seed)
    features, paces = FeatureCache(compute), dict[str, Pace]()

    def record(name: str, step: int, loss: float, steps: int) -> None:
        paces.setdefault(name, Pace(f"teacher {name}", steps))(step, loss)

    training = Training(config.teachers, data, config.run.seed, features, record, folder)
    own = [[spec for spec in level if spec.name in names] for level in hierarchy]
    obtain_levels([level for level in own if level], training)
    again = _without_cache(compute, request, features)
    return _stored(names, folder, (data.classes, data.domains), again)


def _without_cache(
    compute: Compute, request: Request, loaded: FeatureCache | None = None
) -> FeatureCache:
    """Return a cache without a disk, whose features are dropped after each part of the images.

    loaded: a cache with backbones to go on with.
    """
    alone = replace(compute, cache=None, batch_size=request.batch_size)
    return FeatureCache(alone, backbones={} if loaded is None else loaded.backbones)


def _stored(
    names: Sequence[str],
    folder: Path,
    parts: tuple[tuple[str, ...], tuple[str, ...]],
    features: FeatureCache,
) -> _Asked:
    """Return the teachers in a folder. parts: the names of classes and domains."""
    nothing = as_samples(GivenImages([]), *parts)
    training = Training(TeachersSection(), nothing, 0, features, directory=folder)
    return _Asked([stored_teacher(name, training) for name in names], *parts, features)


def _speakers(asked: _Asked, request: Request) -> Speakers:
    more = [f"probability_{name}" for name in asked.classes] if request.probabilities else []

    def say(paths: Sequence[str]) -> Iterator[Said]:
        size = BATCHES * request.batch_size
        for start in range(0, len(paths), size):
            part = paths[start : start + size]
            images = Readable(part, files=True)
            annotations = asked.annotate(images)
            rows: dict[str, list[Row]] = {
                path: [] for place, path in enumerate(part) if place not in images.broken
            }
            _add_rows(rows, part, annotations, asked.classes, more)
            yield Said(rows, [images.broken[place] for place in sorted(images.broken)])

    known = [asked.classes, [[one.name, one.identity] for one in asked.teachers]]
    return Speakers(
        columns=(*COLUMNS, *more),
        origin=hashlib.sha256(json.dumps(known).encode()).hexdigest(),
        doing="annotating",
        say=say,
        image="task",
        speaker="worker",
    )


def _add_rows(
    rows: Mapping[str, list[Row]],
    paths: Sequence[str],
    annotations: Mapping[str, ProbTable],
    classes: Sequence[str],
    more: Sequence[str],
) -> None:
    """Add what each teacher says of each path to its rows. more: columns of all probabilities."""
    for name, table in annotations.items():
        said = Answers.of(table)
        dense = table.dense().tolist() if more else []
        answers = zip(paths, said.label.tolist(), said.confidence.tolist(), strict=True)
        for place, (path, label, confidence) in enumerate(answers):
            if label < 0 or path not in rows:
                continue
            row: Row = {
                "task": path,
                "worker": name,
                "label": classes[label],
                "probability": round(confidence, 6),
            }
            if more:
                row |= {key: round(p, 6) for key, p in zip(more, dense[place], strict=True)}
            rows[path].append(row)


@contextmanager
def _folder(output: Path | None) -> Iterator[Path]:
    """Give a folder for trained teachers: beside the output, and kept while it is unfinished."""
    if output is None:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)
        return
    folder = output.with_name(f".{output.name}.teachers")
    was_there = folder.exists()
    try:
        yield folder
    except UserError:
        if not was_there:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    except BaseException as error:
        if folder.exists() and not hasattr(error, "__notes__"):
            error.add_note("the trained teachers are kept")
        raise
    shutil.rmtree(folder, ignore_errors=True)
