"""What is wrong with a config that stands on another, or with its base, is said with the file."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cosup.config import load_config
from cosup.errors import UserError

Write = Callable[..., Path]


def lines_of(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        load_config(path, overrides)
    return str(caught.value).splitlines()


@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("before", [0, 1])
def test_a_cycle_is_one_line_that_shows_the_chain(write: Write, length: int, before: int) -> None:
    names = [f"{number}.yaml" for number in range(before + length)]
    following = [*names[1:], f"./{names[before]}"]
    for name, base in zip(names, following, strict=True):
        write("", name, base=base)
    (line,) = lines_of(Path(names[0]))
    chain = " -> ".join([*names, names[before]])
    assert line == f"{names[-1]}: base: a config can't stand on itself: {chain}"


def test_the_same_file_by_another_way_is_a_cycle_too(write: Write) -> None:
    write("", "a.yaml", base="b.yaml")
    Path("b.yaml").symlink_to("a.yaml")
    (line,) = lines_of(Path("a.yaml"))
    assert line == "a.yaml: base: a config can't stand on itself: a.yaml -> b.yaml"
    (line,) = lines_of(write("", "in/c.yaml", base="../in/c.yaml"))
    assert line.endswith("a config can't stand on itself: in/c.yaml -> in/../in/c.yaml")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "config in/b.yaml: no such file (in in: c.yaml)"),
        ("run: [1, 2\nb: 3\n", "in/b.yaml:2:"),
        ("a: 1\na: 2\n", "in/b.yaml:2:1: not valid YAML: 'a' is given twice (first in line 1)"),
        ("", "in/b.yaml: empty; a base is a mapping of sections"),
        ("- 1\n", "in/b.yaml: holds list; a base is a mapping of sections"),
        ("text\n", "in/b.yaml: holds str; a base is a mapping of sections"),
    ],
)
def test_a_base_that_cannot_be_read_names_both_files(
    write: Write, content: str | None, says: str
) -> None:
    path = write("run: {sed: 1}", "in/c.yaml", base="b.yaml")
    if content is not None:
        Path("in/b.yaml").write_text(content)
    (line,) = lines_of(path)
    assert line.startswith(f"in/c.yaml: base: {says}")


def test_of_a_chain_the_file_that_names_the_missing_one_is_named(write: Write) -> None:
    write("", "mid.yaml", base="none.yaml")
    (line,) = lines_of(write("", base="mid.yaml"))
    assert line.startswith("mid.yaml: base: config none.yaml: no such file")
    (line,) = lines_of(write("", base="."))
    assert line == "c.yaml: base: config .: is a folder; give a YAML file"


@pytest.mark.parametrize("value", ["3", "null", "[base.yaml, b.yaml]", "{a: b}", "''", r'"\0"'])
def test_a_base_that_is_no_path(write: Write, value: str) -> None:
    (line,) = lines_of(write("run: {seed: 1}", base=value))
    assert line.startswith("c.yaml: base: ")
    assert line.endswith(": must be the path of one YAML file")


def test_only_a_file_names_its_base(write: Write) -> None:
    write("data: {source: digits}\nstudent: {backbone: {name: vgg11}}", "base.yaml", base="")
    path = write("run: {seed: 4}")
    for override in ("base=other.yaml", "base.x=1"):
        first, second = lines_of(path, override, "run.sed=1")
        assert first == (
            f"c.yaml: override '{override}': only a file can name its base; write 'base: ...' in it"
        )
        assert second.startswith("c.yaml: run.sed: unknown key")
    (line,) = lines_of(write("run: {base: base.yaml}"))
    assert line.startswith("c.yaml: run.base: unknown key 'base'")


def files_of(lines: Sequence[str]) -> dict[str, str]:
    return {line.split(": ")[1]: line.split(": ")[0] for line in lines}


def test_mistakes_come_at_once_each_with_the_file_it_stands_in(write: Write) -> None:
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
    lines = lines_of(path, "controls=[celing]", "rounds.annotation_weight=-1")
    assert files_of(lines) == {
        "run.sed": "b.yaml",
        "data.limit": "b.yaml",
        "data.rotation": "b.yaml",
        "data.max_broken": "c.yaml",
        "teachers.external.0.annotations": "c.yaml",  # stands in none
        "student.cross_fit": "b.yaml",
        "student.training": "c.yaml",  # steps of the base, epochs of this one: this one mends it
        "student.backbone.name": "c.yaml",
        "rounds.assignment.name": "b.yaml",
        "rounds.repeat": "c.yaml",
        "rounds.loss.tua": "b.yaml",
        "rounds.loss.tau": "c.yaml",
        "rounds.annotation_weight": "c.yaml",
        "controls.0": "c.yaml",
        "execution.workers": "c.yaml",
    }
    # What an override set stands in no file's name but the one that was asked for.
    assert files_of(lines_of(path, "run.sed=2"))["run.sed"] == "c.yaml"


def test_what_a_new_choice_leaves_out_is_no_mistake_of_the_base(write: Write) -> None:
    write("data: {source: image_folder, root: images}", "b.yaml", base="")
    (line, *_) = lines_of(write("data: {source: domain_folder}", base="b.yaml"))
    assert line == "c.yaml: data.root: must be given: text"


def test_an_anchor_within_itself_is_refused(write: Write) -> None:
    write("run: &same {name: x, seed: *same}\n", "b.yaml", base="")
    (line,) = lines_of(write("run: &same {name: x, seed: *same}\n", base="b.yaml"))
    assert line == "c.yaml, b.yaml: each has an anchor within itself; write it out"
