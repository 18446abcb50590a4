"""Check that a config that extends another equals one written out whole."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.user_errors import mistakes_of
from hypothesis import given, settings
from hypothesis import strategies as st

from cosup.cli import call
from cosup.config import Config, check_config, config_hash, dump_config, load_config
from cosup.config.bases import Layer, merge
from cosup.config.yaml import parse_yaml
from cosup.validation import MissingKey

BASE = """\
# the method
run: {name: method, seed: 3}
data:
  source: digits
  rotations: [0, 90]
  splits: {student_train: 0.8, test: 0.2}
  limit: 300
  share_train: true
  noise: {kind: symmetric, rate: 0.2}
teachers:
  hierarchy: {by: domain, levels: [1, 2]}
  model: {name: linear_features, backbone: {name: resnet18, weights: null, image_size: 64}}
  training: &training {steps: 10, lr: 1e-3}
student:
  backbone: {name: resnet50, weights: null, image_size: 48}
  head: {kind: prototype, scale: 8}
  training: *training
rounds:
  assignment: {name: gate, prior: provenance}
  consistency: [teacher_student, {name: unanimity, share: 0.5}]
  loss: {name: adaptive_confidence, temperature: 0.5}
controls: [best_teacher]
"""

Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def _base(write: Write) -> None:
    write(BASE, "base.yaml", base="")


def whole(*overrides: str) -> Config:
    """Return the base with keys replaced by overrides, which do not depend on bases."""
    return check_config(parse_yaml(BASE, "base"), overrides=overrides)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("", []),
        ("# a word alone", []),
        ("run: {name: other}", ["run.name=other"]),  # and the seed is kept
        ("data: {limit: null}", ["data.limit=null"]),
        ("data: {source: digits, limit: 9}", ["data.limit=9"]),
        ("data: {noise: {rate: 0.4}}", ["data.noise.rate=0.4"]),
        ("data: {splits: {test: 0.1}}", ["data.splits.test=0.1"]),
        ("controls: []", ["controls=[]"]),
        ("rounds: {consistency: [unanimity]}", ["rounds.consistency=[unanimity]"]),
        ("rounds: {repeat: 2}", ["rounds.repeat=2"]),
        ("execution: {workers: 2}", ["execution.workers=2"]),
        # What an anchor says twice is changed in one place alone.
        ("teachers: {training: {steps: 7}}", ["teachers.training.steps=7"]),
        (
            "student: {training: {steps: null, epochs: 3}}",
            ["student.training={epochs: 3, lr: 1e-3}"],
        ),
    ],
)
def test_mappings_merge_and_anything_else_replaces(
    write: Write, text: str, same: list[str]
) -> None:
    config = load_config(write(text))
    assert config == whole(*same)
    assert (config == whole()) == (not same)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        # Another name or kind: nothing of the old choice is left.
        ("rounds: {assignment: {name: agreement}}", "rounds.assignment=agreement"),
        ("rounds: {assignment: agreement}", "rounds.assignment=agreement"),
        (
            "rounds: {loss: {name: distillation, tau: 2}}",
            "rounds.loss={name: distillation, tau: 2}",
        ),
        ("student: {head: {kind: linear}}", "student.head={kind: linear}"),
        ("student: {backbone: {name: vgg11}}", "student.backbone={name: vgg11}"),
        ("teachers: {model: {name: linear_pixels}}", "teachers.model={name: linear_pixels}"),
        ("teachers: {model: {backbone: {name: vgg11}}}", "teachers.model.backbone={name: vgg11}"),
        (
            "data: {noise: {kind: matrix, matrix: m.csv}}",
            "data.noise={kind: matrix, matrix: m.csv}",
        ),
        ("data: {source: idx, root: r}", "data={source: idx, root: r}"),
        # The same one, or none: the base's settings stay.
        ("rounds: {assignment: {prior: uniform}}", "rounds.assignment.prior=uniform"),
        ("rounds: {assignment: {name: gate, hard: false}}", "rounds.assignment.hard=false"),
        ("student: {head: {scale: 4}}", "student.head.scale=4"),
        ("student: {backbone: {image_size: 32}}", "student.backbone.image_size=32"),
        # A bare name is a whole choice, with the settings that it has by default.
        ("rounds: {assignment: gate}", "rounds.assignment=gate"),
    ],
)
def test_another_choice_starts_afresh(write: Write, text: str, same: str) -> None:
    config = load_config(write(text))
    assert config == whole(same)
    assert config != whole()


def test_settings_are_laid_over_a_bare_name(write: Write) -> None:
    write("rounds: {assignment: gate}", "bare.yaml")
    path = write("rounds: {assignment: {hard: false}}", base="bare.yaml")
    assert load_config(path) == whole("rounds.assignment={name: gate, hard: false}")
    path = write("rounds: {assignment: {name: agreement}}", base="bare.yaml")
    assert load_config(path) == whole("rounds.assignment=agreement")


values = st.integers() | st.none() | st.lists(st.integers(), max_size=2)
trees = st.dictionaries(
    st.sampled_from("abc"),
    st.recursive(
        values,
        lambda inner: st.dictionaries(st.sampled_from("abc"), inner, min_size=1),
        max_leaves=6,
    ),
)


def leaves(tree: Any, key: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    if not isinstance(tree, dict):
        return {key: tree}
    return {k: v for name, item in tree.items() for k, v in leaves(item, (*key, name)).items()}


@settings(deadline=None, max_examples=50)
@given(trees, trees)
def test_the_leaves_are_the_top_ones_and_those_of_the_base_beside_them(
    base: dict[str, Any], over: dict[str, Any]
) -> None:
    top = leaves(over)
    kept = {
        key: value
        for key, value in leaves(base).items()
        if not any(key[: len(other)] == other or other[: len(key)] == key for other in top)
    }
    before = json.dumps([base, over])
    assert leaves(merge([Layer(Path("o"), over), Layer(Path("b"), base)])) == {**kept, **top}
    assert json.dumps([base, over]) == before


def test_bases_chain_and_overrides_come_last(write: Write) -> None:
    write("run: {seed: 5}\nrounds: {repeat: 2, loss: {name: distillation, tau: 2}}", "mid.yaml")
    path = write("rounds: {loss: {tau: 3}}\nstudent: {backbone: {name: vgg11}}", base="mid.yaml")
    same = [
        "run.seed=5",
        "rounds.repeat=2",
        "rounds.loss={name: distillation, tau: 3}",
        "student.backbone={name: vgg11}",
    ]
    assert load_config(path) == whole(*same)
    # An override sets its key, and no other.
    more = ["rounds.loss.tau=4", "run.seed=6", "student.backbone.name=vgg13"]
    assert load_config(path, *more) == whole(*same, *more)


def test_a_base_need_not_be_complete(write: Write) -> None:
    write("student: {backbone: {weights: null}}\nrounds: {repeat: 2}", "part.yaml", base="")
    (error,) = (e for e in mistakes_of(load_config, "part.yaml") if e.key == ("data",))
    assert isinstance(error, MissingKey)
    assert error.where == "part.yaml"
    path = write("data: {source: digits}\nstudent: {backbone: {name: vgg11}}", base="part.yaml")
    config = load_config(path)
    assert (config.student.backbone.weights, config.rounds.repeat) == (None, 2)


def test_the_way_to_a_base_starts_at_the_file_that_names_it(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("run: {seed: 5}", "papers/mid.yaml", base="../base.yaml")
    path = write("run: {name: x}", "papers/tables/c.yaml", base="../mid.yaml")
    absolute = write("run: {name: x}", "a.yaml", base=str(tmp_path / "papers" / "mid.yaml"))
    expected = whole("run.name=x", "run.seed=5")
    assert load_config(path) == load_config(absolute) == expected
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mid.yaml").write_text("run: {seed: 99}\n")
    monkeypatch.chdir(elsewhere)
    assert load_config(tmp_path / path) == load_config("../papers/tables/c.yaml") == expected


def test_the_resolved_config_is_complete_by_itself(write: Write, tmp_path: Path) -> None:
    path = write("run: {name: x}\nrounds: {loss: cross_entropy}")
    config = load_config(path)
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "config.yaml").write_text(dump_config(config))
    assert "base" not in parse_yaml(dump_config(config), "here")
    assert load_config(alone / "config.yaml") == config
    text = BASE.replace("{name: adaptive_confidence, temperature: 0.5}", "cross_entropy")
    out = check_config(parse_yaml(text.replace("name: method", "name: x"), "written out whole"))
    assert config == out
    assert config_hash(config) == config_hash(out) != config_hash(whole())


def test_every_verb_reads_it(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    text = (
        "run: {name: alone, seed: 4}\n"
        "teachers: {model: {name: linear_pixels}}\n"
        "student: {backbone: {name: test_vit, weights: null, image_size: 32}}\n"
    )
    path = write(text, "configs/c.yaml", base="../base.yaml")
    commented = "# cosup run configs/c.yaml\n#\n# The baseline without a gate: so and so.\n\n"
    path.write_text(commented + path.read_text())
    assert call(["validate", str(path)]) == 0
    assert call(["ls", "configs"]) == 0
    listed = " ".join(capsys.readouterr().out.split())
    assert "configs/c.yaml The baseline without a gate" in listed
    assert call(["run", str(path), "--print-config", "run.seed=5"]) == 0
    printed = capsys.readouterr().out
    assert printed == dump_config(load_config(path, "run.seed=5"))
    assert "base.yaml" not in printed


@pytest.mark.ray
def test_a_job_is_shipped_whole(write: Write) -> None:
    pytest.importorskip("ray")
    from cosup.cluster.submit import job_config

    path = write("run: {name: x, output: /shared/runs}")
    config = job_config(path, ["run.seed=5"], None)
    shipped = Path("shipped.yaml")
    shipped.write_text(dump_config(config))
    Path("base.yaml").unlink()
    assert load_config(shipped) == config
    assert (config.run.seed, config.execution.backend) == (5, "ray")
    assert config.student == whole().student


@pytest.mark.ray
def test_a_job_may_extend_a_shipped_config(write: Write) -> None:
    pytest.importorskip("ray")
    from cosup.cluster.submit import job_config

    by_name = job_config(Path("quickstart"), ["run.output=/shared/runs"], None)
    by_base = job_config(write("run: {output: /shared/runs}", base="quickstart"), [], None)
    assert by_name == by_base
    assert by_name.student == load_config("quickstart").student
