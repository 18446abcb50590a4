"""`cosup export student`: a student as a file for other runtimes, and on the Hugging Face hub.

`FORMATS` is the only list of formats. The exported network takes `images`, float32 [N, 3, S, S] for
any N >= 1, which are prepared and normalised (as the metadata in the file says), and returns
`probabilities`, float32 [N, C]. Each file is read back and compared with the student.
"""

import copy
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from cosup.errors import RunError, UserError, in_short, unknown_name
from cosup.files import write_atomic
from cosup.links import check_own_files
from cosup.models.images import InputSpec
from cosup.models.names import HUB
from cosup.origins import is_there, obtain_below, shown
from cosup.remote_copy import alone, copy_of
from cosup.runs.deliver import delivered
from cosup.runs.push import Hub
from cosup.student.exported import ExportedStudent, load_student
from cosup.student.folder import student_folder
from cosup.student.timm_folder import TOLERANCE, tried_images

__all__ = ["FORMATS", "Format", "Request", "export_student_as"]

OPSET = 18
METADATA = "metadata.json"
"""The extra file of torch_export that holds the metadata."""
ROUNDINGS, MOST = 4, 1e-3
"""A file may differ from the student by so many of its roundings, and never by more than `MOST`."""
Predict = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Format:
    """A format of a student.

    suffix: of the file. about: what it is, in short. needs: modules that write and read it. write:
    writes an exported program and its metadata to a path. read: loads the file, to predict with it.
    """

    suffix: str
    about: str
    needs: tuple[str, ...]
    write: Callable[[ExportedProgram, Mapping[str, str], Path], None]
    read: Callable[[Path], Predict]


@dataclass(frozen=True)
class Request:
    """What is to be exported.

    place, packages: as for `load_student`. form: of `FORMATS`, or None. output: the file to write;
    None names it after the student. push: `owner/name` on the hub, or None. private: a new
    repository there is private.
    """

    place: str
    form: str | None = None
    output: Path | None = None
    overwrite: bool = False
    push: str | None = None
    private: bool = False
    packages: Sequence[str] = ()


def export_student_as(request: Request) -> Iterator[str]:
    """Write the student as a file, push its folder to the hub, or both; yield lines to print.

    Raises `UserError`, before anything is written, for an unknown format or one whose packages are
    missing, for what is no student, for a file that exists unless `overwrite`, and as `Hub` does.
    Raises `RunError` for a network that cannot be exported, or that predicts something else there.
    """
    form = _checked(request)
    folder = student_folder(request.place)
    student = load_student(folder, "cpu", request.packages)
    if request.push is not None and not request.place.startswith(HUB):
        obtain_below(folder)
        check_own_files(folder)  # the hub's cache is made of links
    output = None if form is None else _output(request, folder, form)
    if form is not None and student.meta:
        problem = "the student went through the meta stage, and has no classifier to export"
        raise UserError(problem, where=str(folder))
    hub = None if request.push is None else Hub.signed_in(request.push, request.private)
    if form is not None and output is not None:
        with alone(output):
            lines = list(_written(student, form, output))
            place, told = str(output), list[str]()
            if request.output is None:
                place, told = delivered(output, Path(output.name), request.overwrite)
        yield f"{form.about} of the student: {place}"
        yield from [*lines, *told]
    if hub is not None:
        yield hub.push(folder, output)


def _checked(request: Request) -> Format | None:
    """Return the format; raise `UserError` for options that do not fit together."""
    if request.form is None and request.push is None:
        raise UserError("give --format, --push or both", allowed=f"--format {', '.join(FORMATS)}")
    if request.private and request.push is None:
        raise UserError("needs --push", key=("--private",))
    if request.form is None:
        if request.output is not None:
            raise UserError("needs --format", key=("--output",), value=str(request.output))
        return None
    if request.form not in FORMATS:
        raise unknown_name("format", request.form, FORMATS, key=("--format",))
    form = FORMATS[request.form]
    missing = [module for module in form.needs if find_spec(module) is None]
    if missing:
        raise UserError(
            f"needs {', '.join(missing)}; install: pip install 'cosup[onnx]'",
            key=("--format",),
            value=request.form,
        )
    return form


def _output(request: Request, folder: Path, form: Format) -> Path:
    """Return the file to write; raise `UserError` for one that must not be written."""
    copy = copy_of(folder)
    named = request.place.startswith(HUB) or (copy is not None and copy.folder == folder)
    name = folder.name if copy else request.place.partition("@")[0].rpartition("/")[2]
    beside = Path(name) if named else folder
    path = request.output or beside.with_name(f"{beside.name}{form.suffix}")
    if path.is_dir():
        raise UserError("is a directory; give a file", key=("--output",), value=str(path))
    if path.suffix != form.suffix:
        problem = f"the format {request.form} needs {{allowed}}, not {{value}}"
        raise UserError(problem, key=("--output",), value=str(path), allowed=form.suffix)
    if is_there(path) and not request.overwrite:
        raise UserError("the file exists; --overwrite replaces it", where=shown(path))
    return path


class _Probabilities(nn.Module):
    """Normalised images [N, 3, S, S] -> probabilities [N, C]."""

    def __init__(self, student: ExportedStudent) -> None:
        super().__init__()
        self.model = student.model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.logits(images).softmax(1)


@torch.no_grad()
def _written(student: ExportedStudent, form: Format, output: Path) -> Iterator[str]:
    """Write the file, and compare what it predicts, before it gets its name."""
    model = _Probabilities(student).eval().requires_grad_(False)
    model.to(memory_format=torch.contiguous_format)
    spec = student.model.input
    images = student.model.pixels(tried_images(spec))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the libraries' own versions
            program = torch.export.export(model, (images,), dynamic_shapes=({0: Dim("batch")},))
            write = partial(form.write, program, _metadata(student, spec))
            rounding = _rounding(model, images)
            apart = _write_checked(write, form.read, output, model, images, rounding)
    except RunError:
        raise
    except Exception as error:  # exporters raise errors of many kinds
        problem = f"the student cannot be exported ({in_short(error, named=True)})"
        raise RunError(problem) from error
    yield (
        f"input images: float32 [N, 3, {spec.size}, {spec.size}], RGB in [0, 1] minus the mean "
        f"{list(spec.mean)}, divided by {list(spec.std)}; output probabilities: [N, "
        f"{len(student.classes)}]"
    )
    yield (
        f"read back: its probabilities differ from the student's by at most {apart:.1e}; the "
        f"student's own rounding is {rounding:.1e}"
    )


def _rounding(model: nn.Module, images: Tensor) -> float:
    """Return by how much the probabilities in float32 differ from those in float64."""
    exact = copy.deepcopy(model).double()
    return float((model(images) - exact(images.double())).abs().max())


def _write_checked(
    write: Callable[[Path], None],
    read: Callable[[Path], Predict],
    output: Path,
    model: nn.Module,
    images: Tensor,
    rounding: float,
) -> float:
    """Write the file; return by how much its probabilities differ from those of the model.

    rounding: of the model itself. Another runtime adds up in another order, so its rounding is
    another one of that size.
    """
    apart, most = 0.0, min(max(TOLERANCE, ROUNDINGS * rounding), MOST)

    def checked(path: Path) -> None:
        nonlocal apart
        write(path)
        predict = read(path)
        for batch in (images, images[:1]):
            apart = max(apart, float((predict(batch) - model(batch)).abs().max()))
        if not apart <= most:
            problem = f"its probabilities differ from the student's by up to {apart:.1e}"
            raise RunError(f"{problem}; nothing was written", where=str(output))

    write_atomic(output, checked)
    return apart


def _metadata(student: ExportedStudent, spec: InputSpec) -> dict[str, str]:
    """Return what a reader must know, each value as JSON but for texts."""
    return {
        "classes": json.dumps(student.classes, ensure_ascii=False),
        "input": "images: float32 [N, 3, S, S], RGB in [0, 1], minus mean, divided by std",
        "output": "probabilities: float32 [N, C], columns as classes",
        "size": json.dumps(spec.size),
        "mean": json.dumps(spec.mean),
        "std": json.dumps(spec.std),
        "crop_pct": json.dumps(spec.crop_pct),
        "crop_mode": "squash" if spec.squash else "center",
        "interpolation": spec.interpolation,
    }


def _write_onnx(program: ExportedProgram, metadata: Mapping[str, str], path: Path) -> None:
    made = torch.onnx.export(
        program,
        (),
        dynamo=True,
        opset_version=OPSET,
        input_names=["images"],
        output_names=["probabilities"],
        verbose=False,
    )
    assert made is not None
    made.model.metadata_props.update(metadata)
    made.save(str(path), external_data=False)


def _read_onnx(path: Path) -> Predict:
    import onnxruntime  # an extra

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def predict(images: Tensor) -> Tensor:
        (found,) = session.run(["probabilities"], {"images": images.contiguous().numpy()})
        return torch.from_numpy(found)

    return predict


def _write_torch(program: ExportedProgram, metadata: Mapping[str, str], path: Path) -> None:
    with path.open("wb") as file:  # torch wants another ending than that of a temporary file
        torch.export.save(program, file, extra_files={METADATA: json.dumps(dict(metadata))})


def _read_torch(path: Path) -> Predict:
    with path.open("rb") as file:
        return partial(_call, torch.export.load(file).module())


def _call(module: Any, images: Tensor) -> Tensor:
    found: Tensor = module(images)
    return found


FORMATS = {
    "onnx": Format(
        ".onnx", "ONNX model", ("onnx", "onnxscript", "onnxruntime"), _write_onnx, _read_onnx
    ),
    "torch_export": Format(".pt2", "exported program of torch", (), _write_torch, _read_torch),
}
"""The formats by name."""
