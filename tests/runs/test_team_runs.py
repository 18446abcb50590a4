"""Student and team: fitted in a run, exported, and loaded with the answers of the run."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from helpers.tiny_clip import write_clip
from helpers.user_errors import error_of
from PIL import Image
from safetensors.torch import load_file, save_file

import cosup
from cosup.analysis import load_run
from cosup.analysis.teachers import teachers_sentence, teachers_table
from cosup.config.schema import Config, RoundsSection
from cosup.data.load import load_data
from cosup.data.table import ImageData
from cosup.layout import Layout
from cosup.models.classifier import build_classifier
from cosup.runs.pipeline import run_one
from cosup.team import Exponents
from cosup.words import percent

RESNET = {"name": "cifar_resnet8", "weights": None, "image_size": 16}
SHORT = {"steps": 15, "batch_size": 32, "lr": 0.03}
NETWORK = {"steps": 6, "batch_size": 32, "lr": 0.05}
SPLITS = {"teacher_train": 0.35, "student_train": 0.35, "test": 0.3}
VALIDATION = {"teacher_train": 0.3, "student_train": 0.3, "validation": 0.2, "test": 0.2}
DOMAINS = {"by": "domain", "levels": [1, 2]}
BLOCKS = {"by": "class", "levels": [2]}

MIXED = {
    "by": "explicit",
    "teachers": [
        [
            {"name": "small", "scope": {"domain": "rot0"}},
            {"name": "large", "model": {"name": "linear_pixels", "size": 12}},
            *(
                {
                    "name": f"features_{size}",
                    "scope": {"domain": "rot90"},
                    "model": {
                        "name": "linear_features",
                        "backbone": {**RESNET, "image_size": size},
                    },
                }
                for size in (16, 24)
            ),
            {"name": "rules", "model": {"name": f"call:{__name__}:half", "image_size": 16}},
        ]
    ],
}


def half(images: torch.Tensor, teacher: str) -> torch.Tensor:
    """Answer by brightness: a teacher that is a function."""
    probs = torch.full((len(images), 10), 0.05)
    bright = images.float().mean((1, 2, 3)) > 60
    probs[torch.arange(len(images)), torch.where(bright, 8 if "5-9" in teacher else 3, 1)] = 0.55
    return probs


def config(name: str, **changes: Any) -> Config:
    tree: dict[str, Any] = {
        "run": {"name": name},
        "data": {"source": "digits", "rotations": [0, 90], "limit": 300, "splits": SPLITS},
        "teachers": {
            "hierarchy": DOMAINS,
            "model": {"name": "linear_pixels", "size": 8},
            "training": SHORT,
        },
        "student": {"backbone": RESNET, "training": SHORT},
        "rounds": {"assignment": {"name": "gate", "prior": "provenance"}},
        "controls": ["student_and_team"],
    }
    for key, value in changes.items():
        tree[key] = {**tree[key], **value} if isinstance(value, dict) else value
    return Config.model_validate(tree)


def network(**settings: Any) -> dict[str, Any]:
    return {"model": {"name": "cifar_resnet8", "image_size": 16}, "training": NETWORK, **settings}


CASES: dict[str, dict[str, Any]] = {
    "linear_pixels, gate": {},
    "linear_features, block": {
        "data": {"splits": VALIDATION},
        "teachers": {
            "hierarchy": BLOCKS,
            "model": {"name": "linear_features", "backbone": {**RESNET, "image_size": 24}},
        },
        "rounds": {"assignment": "block"},
    },
    "networks, gate of a network student": {
        "data": {"splits": VALIDATION},
        "teachers": network(hierarchy=DOMAINS),
        "student": {"mode": "finetune", "training": {**NETWORK, "optimizer": "sgd"}},
    },
    "functions, dawid_skene": {
        "teachers": {
            "hierarchy": BLOCKS,
            "model": {"name": f"call:{__name__}:half", "image_size": 16},
        },
        "rounds": {"assignment": "dawid_skene"},
    },
    "a model per teacher, gate": {"teachers": {"hierarchy": MIXED}},
    "fused": {"rounds": {"assignment": "fused"}},
    "agreement": {"rounds": {"assignment": "agreement"}},
    "confidence": {"rounds": {"assignment": "confidence"}},
    "mean": {"rounds": {"assignment": "mean"}},
    "one of them": {
        "rounds": {"assignment": {"name": "single", "teacher": "all"}},
        "teachers": {"hierarchy": {"by": "domain", "levels": [1]}},
    },
}


def finished(folder: Path, made: Config) -> tuple[dict[str, Any], Layout]:
    summary = run_one(made, folder / "run")
    return summary, Layout(folder / "run")


def images_of(made: Config) -> tuple[ImageData, list[Image.Image]]:
    wanted = made.wants_teacher_train
    data = load_data(made.data, made.run.seed, 1, None, teacher_train=wanted)
    return data, [data.read(int(row)) for row in data.rows("test")]


@pytest.mark.parametrize("case", CASES)
def test_the_loaded_team_answers_as_in_the_run(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    made = config("team", **CASES[case])
    summary, files = finished(tmp_path, made)
    team = summary["team"]
    assert team["reason"] is None
    given = "data" in CASES[case]
    assert team["fitted_on"] == ("validation" if given else "teacher_train")
    assert team["samples"] > 50
    data, images = images_of(made)
    student = cosup.load_student(files.student, "cpu", ["test_team_runs"])
    probs, weights = student.predict_team(images)
    recorded = files.student_and_team.read(10).dense()
    torch.testing.assert_close(probs, recorded, atol=2e-3, rtol=0)
    assert torch.equal(probs, student.predict(images, team=True))
    in_parts, asked = student.predict_team(images, batch_size=50)
    torch.testing.assert_close(in_parts, probs, atol=2e-3, rtol=0)
    torch.testing.assert_close(asked, weights, atol=2e-3, rtol=0)
    assert student.team.names == tuple(summary["rounds"][-1]["teachers"])
    torch.testing.assert_close(weights.sum(1), torch.ones(len(images)))
    accuracy = float((recorded.argmax(1) == data.truth(data.rows("test")).labels).double().mean())
    assert summary["controls"]["student_and_team"]["accuracy"] == accuracy
    # The team alone, whatever the exponents.
    alone = replace(student.team, exponents=Exponents(0.0, 1.0))
    student.__dict__["team"] = alone
    torch.testing.assert_close(
        student.predict(images, team=True), files.team.read(10).dense(), atol=2e-3, rtol=0
    )


def test_models_used_as_they_are_travel_with_the_student(tmp_path: Path) -> None:
    """The files that they came from are gone when the team is loaded. No label trains anybody, so
    there is no teacher_train."""
    weights, clip = tmp_path / "ready.safetensors", tmp_path / "clip"
    save_file(build_classifier("cifar_resnet8", 12, None, 16).model.state_dict(), weights)
    write_clip(clip)
    ready = {"name": "cifar_resnet8", "use": "pretrained", "weights": str(weights)}
    classes = {"1": [0, 3], "7": [2], "4": 11, "9": 5}
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    zero_shot = {"name": f"open_clip:{clip}", "use": "zero_shot", "class_names": names}
    level = [
        {"name": "ready", "model": {**ready, "image_size": 16, "classes": classes}},
        {"name": "clip", "model": zero_shot},
    ]
    made = config(
        "ready",
        data={"splits": {**VALIDATION, "teacher_train": 0.0, "student_train": 0.6}},
        teachers={"hierarchy": {"by": "explicit", "teachers": [level]}},
        rounds={"assignment": "mean"},
    )
    summary, files = finished(tmp_path, made)
    assert summary["team"]["fitted_on"] == "validation"
    outside = {teacher["name"]: teacher["outside"] for teacher in summary["teachers"]}
    assert outside["clip"] is None
    assert 0 < outside["ready"] < 1
    run = load_run(tmp_path / "run")
    assert percent(outside["ready"]) in teachers_sentence(run, teachers_table(run))
    weights.unlink()
    shutil.rmtree(clip)
    _, images = images_of(made)
    student = cosup.load_student(copy_of(tmp_path / "run", tmp_path / "moved"), "cpu")
    student.__dict__["team"] = replace(student.team, exponents=Exponents(0.0, 1.0))
    probs, asked = student.predict_team(images)
    torch.testing.assert_close(probs, files.team.read(10).dense(), atol=2e-3, rtol=0)
    assert (asked == 0.5).all()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a student with its team, one of whose teachers is a table."""
    folder = tmp_path_factory.mktemp("exported")
    made = config("exported")
    data = load_data(made.data, made.run.seed, 1, None)
    path = folder / "people.csv"
    labels = [data.classes[label] for label in data.table["label"]]
    pd.DataFrame({"sample_id": data.table["sample_id"], "label": labels}).to_csv(path, index=False)
    people = [{"name": "people", "annotations": str(path), "level": 1}]
    run_one(config("exported", teachers={"external": people}), folder / "run")
    return folder / "run"


def copy_of(exported: Path, folder: Path) -> Path:
    """Return a copy of the student without a manifest, as somebody else may have written it."""
    shutil.copytree(exported / "student", folder / "student")
    (folder / "student" / "manifest.jsonl").unlink()
    return folder / "student"


IMAGE = Image.new("L", (8, 8), 90)


def test_a_table_is_left_out_of_the_team_and_that_is_said(exported: Path) -> None:
    summary = json.loads((exported / "summary.json").read_text())
    assert summary["team"]["left_out"] == ["people"]
    assert "people" not in summary["team"]["teachers"]
    assert "people" in summary["rounds"][-1]["teachers"]
    student = cosup.load_student(exported / "student", "cpu")
    _, weights = student.predict_team([IMAGE])
    assert float(weights[0, student.team.names.index("people")]) == 0
    assert "people" in (exported / "student" / "README.md").read_text().split("team=True")[1]


def test_the_folder_stands_alone(exported: Path, tmp_path: Path) -> None:
    moved = cosup.load_student(copy_of(exported, tmp_path), "cpu")
    here = cosup.load_student(exported / "student", "cpu")
    assert torch.equal(moved.predict([IMAGE], team=True), here.predict([IMAGE], team=True))


def test_the_team_reads_files_and_names_those_it_cannot(exported: Path, tmp_path: Path) -> None:
    student = cosup.load_student(exported / "student", "cpu")
    path = tmp_path / "grey.png"
    IMAGE.save(path)
    expected = student.predict([IMAGE, IMAGE], team=True)
    assert torch.equal(student.predict([path, str(path)], team=True), expected)
    assert student.predict_team([])[1].shape == (0, len(student.team.names))
    assert "gone.png" in str(error_of(student.predict, [path, tmp_path / "gone.png"], team=True))


def test_a_folder_of_the_first_format_is_read(exported: Path, tmp_path: Path) -> None:
    """It said once what all teachers are made of."""
    student = cosup.load_student(exported / "student", "cpu")
    folder = copy_of(exported, tmp_path)
    about = json.loads((folder / "team/team.json").read_text())
    common = {key: about["teachers"][0][key] for key in ("model", "training", "backbone")}
    own = {*common, "encoder"}
    teachers = [{k: v for k, v in e.items() if k not in own} for e in about["teachers"]]
    edit(folder / "team", **common, format=1, teachers=teachers)
    old = cosup.load_student(folder, "cpu")
    assert torch.equal(old.predict([IMAGE], team=True), student.predict([IMAGE], team=True))


def missing_weights(team: Path) -> str:
    (team / "domain_rot0.safetensors").unlink()
    return "domain_rot0"


def other_weights(team: Path) -> str:
    path = team / "domain_rot0.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(path).items()}, path)
    return "domain_rot0"


def other_classes(team: Path) -> str:
    edit(team, classes=list("abcdefghij"))
    return "team.json"


def no_json(team: Path) -> str:
    (team / "team.json").write_text("{")
    return "team"


def no_assigner(team: Path) -> str:
    edit(team, assigner={"name": "gait"})
    return "gait"


def no_exponent(team: Path) -> str:
    about = json.loads((team / "team.json").read_text())
    del about["student_exponent"]
    (team / "team.json").write_text(json.dumps(about))
    return "student_exponent"


def missing_function(team: Path) -> str:
    entries = json.loads((team / "team.json").read_text())["teachers"]
    edit(team, teachers=[{**e, "model": {"name": "call:nowhere:at_all"}} for e in entries])
    return "nowhere"


def edit_first(team: Path, **changes: Any) -> None:
    first, *rest = json.loads((team / "team.json").read_text())["teachers"]
    edit(team, teachers=[{**first, **changes}, *rest])


def weights_elsewhere(team: Path) -> str:
    edit_first(team, weights="../model.safetensors")
    return "weights"


def teacher_twice(team: Path) -> str:
    entries = json.loads((team / "team.json").read_text())["teachers"]
    edit(team, teachers=[*entries, entries[0]])
    return "twice"


def unknown_domain(team: Path) -> str:
    edit_first(team, domains=["nowhere"])
    return "nowhere"


def weight_no_number(team: Path) -> str:
    path = team / "domain_rot0.safetensors"
    save_file({name: tensor * torch.nan for name, tensor in load_file(path).items()}, path)
    return "domain_rot0"


def exponent_no_number(team: Path) -> str:
    edit(team, student_exponent=float("inf"))
    return "student_exponent"


def deep_json(team: Path) -> str:
    (team / "team.json").write_text('{"teachers": ' + "[" * 100_000 + "]" * 100_000 + "}")
    return "team.json"


def newer_team(team: Path) -> str:
    edit(team, format=3)
    return "upgrade"


def no_team(team: Path) -> str:
    shutil.rmtree(team)
    return "student"


def edit(team: Path, **changes: Any) -> None:
    about = json.loads((team / "team.json").read_text())
    (team / "team.json").write_text(json.dumps({**about, **changes}))


@pytest.mark.parametrize(
    "spoil",
    [
        missing_weights,
        other_weights,
        other_classes,
        no_json,
        no_assigner,
        no_exponent,
        missing_function,
        weights_elsewhere,
        teacher_twice,
        unknown_domain,
        weight_no_number,
        exponent_no_number,
        deep_json,
        newer_team,
        no_team,
    ],
)
def test_a_bad_folder_is_one_line(
    spoil: Callable[[Path], str], exported: Path, tmp_path: Path
) -> None:
    folder = copy_of(exported, tmp_path)
    named = spoil(folder / "team")
    student = cosup.load_student(folder, "cpu")
    student.predict([IMAGE])  # the student alone needs no team
    error = error_of(student.predict, [IMAGE], team=True)
    assert named in str(error)
    assert str(tmp_path) in str(error)


def test_a_run_without_teachers_that_answer_has_no_team(exported: Path, tmp_path: Path) -> None:
    people = yaml.safe_load((exported / "config.yaml").read_text())["teachers"]["external"]
    made = config("people", teachers={"hierarchy": None, "external": [{**people[0], "level": -1}]})
    made = made.model_copy(
        update={"rounds": RoundsSection.model_validate({"assignment": "single"})}
    )
    summary = run_one(made, tmp_path / "run")
    team = summary["team"]
    assert (team["uses"], team["teachers"], team["fitted_on"]) == ("student", [], None)
    assert team["reason"]
    assert "student_and_team" not in summary["controls"]
    student = cosup.load_student(tmp_path / "run/student", "cpu")
    assert team["reason"] in str(error_of(student.predict, [IMAGE], team=True))


def test_networks_without_validation_are_not_trained_again(tmp_path: Path) -> None:
    summary = run_one(config("networks", data={"limit": 120}, teachers=network()), tmp_path / "run")
    assert summary["team"]["fitted_on"] is None
    assert summary["team"]["reason"]
