"""Check errors of configs that extend another: each names the file that it is about."""

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.user_errors import key_of, mistakes_of

from cosup.config import load_config
from cosup.errors import UserError
from cosup.validation import UnknownKey

Write = Callable[..., Path]


def errors_of(path: Path, *overrides: str) -> tuple[UserError, ...]:
    return mistakes_of(load_config, path, *overrides)


def files_of(path: Path, *overrides: str) -> dict[str, str | None]:
    return {key_of(error): error.where for error in errors_of(path, *overrides)}


@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("before", [0, 1])
def test_a_cycle_is_one_error_with_the_chain(write: Write, length: int, before: int) -> None:
    names = [f"{number}.yaml" for number in range(before + length)]
    following = [*names[1:], f"./{names[before]}"]
    for name, base in zip(names, following, strict=True):
        write("", name, base=base)
    (error,) = errors_of(Path(names[0]))
    assert error.where == f"{names[-1]}: base"
    assert error.problem.endswith(" -> ".join([*names, names[before]]))


def test_a_cycle_through_another_path(write: Write) -> None:
    write("", "a.yaml", base="b.yaml")
    Path("b.yaml").symlink_to("a.yaml")
    (error,) = errors_of(Path("a.yaml"))
    assert error.where == "a.yaml: base"
    assert error.problem.endswith("a.yaml -> b.yaml")
    (error,) = errors_of(write("", "in/c.yaml", base="../in/c.yaml"))
    assert error.problem.endswith("in/c.yaml -> in/../in/c.yaml")


@pytest.mark.parametrize(
    ("content", "where", "problem"),
    [
        (None, "config in/b.yaml", "(in in: c.yaml)"),
        ("run: [1, 2\nb: 3\n", "in/b.yaml:2:", "YAML"),
        ("a: 1\na: 2\n", "in/b.yaml:2:1", "'a' is given twice (first in line 1)"),
        ("", "in/b.yaml", "empty"),
        ("- 1\n", "in/b.yaml", "list"),
        ("text\n", "in/b.yaml", "str"),
    ],
)
def test_a_base_that_cannot_be_read_names_both_files(
    write: Write, content: str | None, where: str, problem: str
) -> None:
    path = write("run: {sed: 1}", "in/c.yaml", base="b.yaml")
    if content is not None:
        Path("in/b.yaml").write_text(content)
    (error,) = errors_of(path)
    assert str(error.where).startswith(f"in/c.yaml: base: {where}")
    assert problem in error.problem


def test_the_file_that_extends_a_missing_one_is_named(write: Write) -> None:
    write("", "mid.yaml", base="none.yaml")
    (error,) = errors_of(write("", base="mid.yaml"))
    assert error.where == "mid.yaml: base: config none.yaml"
    (error,) = errors_of(write("", base="."))
    assert error.where == "c.yaml: base: config ."
    assert "folder" in error.problem


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("null", None),
        ("[base.yaml, b.yaml]", ["base.yaml", "b.yaml"]),
        ("{a: b}", {"a": "b"}),
        ("''", ""),
        (r'"\0"', "\0"),
    ],
)
def test_a_base_must_be_a_path(write: Write, text: str, value: object) -> None:
    (error,) = errors_of(write("run: {seed: 1}", base=text))
    assert (error.where, error.value) == ("c.yaml: base", value)
    assert error.allowed == "the path of one YAML file"


def test_only_a_file_can_extend_another(write: Write) -> None:
    write("data: {source: digits}\nstudent: {backbone: {name: vgg11}}", "base.yaml", base="")
    path = write("run: {seed: 4}")
    for override in ("base=other.yaml", "base.x=1"):
        first, second = errors_of(path, override, "run.sed=1")
        assert first.where == f"override '{override}'"
        assert (second.where, key_of(second)) == ("override", "run.sed")
    (error,) = errors_of(write("run: {base: base.yaml}"))
    assert isinstance(error, UnknownKey)
    assert (error.where, key_of(error), error.value) == ("c.yaml", "run.base", "base")


def test_mistakes_come_at_once_each_with_its_file(write: Write) -> None:
    write(
        "run: {sed: 1}\n"
        "data: {limit: -1, rotation: [0]}\n"
        "teachers: {external: [{name: a}]}\n"
        "student: {cross_fit: 1, training: {steps: 5}}\n"
        "rounds: {assignment: gat, repeat: 0, loss: {name: distillation, tua: 1}}\n",
        "b.yaml",
        base="",
    )
    path = write(
        "data: {source: digits, max_broken: 2}\n"
        "student: {backbone: {weights: null}, training: {epochs: 2}}\n"
        "rounds: {assignment: {prior: 3}, repeat: -1, loss: {tau: 0}}\n"
        "execution: {workers: 0}\n",
        base="b.yaml",
    )
    assert files_of(path, "controls=[celing]", "rounds.annotation_weight=-1") == {
        "run.sed": "b.yaml",
        "data.limit": "b.yaml",
        "data.rotation": "b.yaml",
        "data.max_broken": "c.yaml",
        "teachers.external.0.annotations": "c.yaml",  # no file has it
        "student.cross_fit": "b.yaml",
        "student.training": "c.yaml",  # the base has steps, this one epochs: this one can fix it
        "student.backbone.name": "c.yaml",
        "rounds.assignment.name": "b.yaml",
        "rounds.repeat": "c.yaml",
        "rounds.loss.tua": "b.yaml",
        "rounds.loss.tau": "c.yaml",
        "rounds.annotation_weight": "override",
        "controls.0": "override",
        "execution.workers": "c.yaml",
    }
    # An override is in no file; its mistakes name the one given.
    assert files_of(path, "run.sed=2")["run.sed"] == "override"


def test_a_key_that_a_new_choice_lacks_is_not_the_mistake_of_the_base(write: Write) -> None:
    write("data: {source: image_folder, root: images}", "b.yaml", base="")
    (error, *_) = errors_of(write("data: {source: domain_folder}", base="b.yaml"))
    assert (error.where, key_of(error), error.allowed) == ("c.yaml", "data.root", "text")


def test_an_anchor_within_itself_is_refused(write: Write) -> None:
    write("run: &same {name: x, seed: *same}\n", "b.yaml", base="")
    (error,) = errors_of(write("run: &same {name: x, seed: *same}\n", base="b.yaml"))
    assert error.where == "c.yaml:2:28"
    assert "anchor" in error.problem
