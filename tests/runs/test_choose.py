"""`rounds.choose: auto`: what is compared, what is taken, and that the run is that recipe's."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from cosup.analysis import load_run
from cosup.config import Config, check_config, load_config
from cosup.data.load import load_data
from cosup.errors import RunError, UserError
from cosup.report.page import write_report
from cosup.runs import choose, run_config
from cosup.runs.choose import TIE, learns_labels, pick
from cosup.runs.recipes import RECIPES, candidates
from cosup.teachers.hierarchy import plan_hierarchy

SPLITS = {"teacher_train": 0.3, "student_train": 0.2, "validation": 0.3, "test": 0.2}
CLASSES = [str(number) for number in range(10)]
DOMAINS = ["rot0", "rot90"]


def tree(output: Path, rounds: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    return {
        "run": {"output": str(output)},
        "data": {"source": "digits", "rotations": [0, 90], "limit": 1040, "splits": SPLITS},
        "teachers": {
            "hierarchy": {"by": "domain", "levels": [1, 2]},
            "model": {"name": "linear_pixels", "size": 4},
            "training": {"steps": 40, "lr": 0.02},
        },
        "student": {
            "backbone": {"name": "test_resnet.r160_in1k", "weights": None, "image_size": 32},
            "training": {"steps": 20, "lr": 0.02, "standardize": True},
        },
        "rounds": {"choose": "auto"} if rounds is None else rounds,
        "controls": ["mean_ensemble"],
        "execution": {"device": "cpu", "workers": 1},
        **changes,
    }


def config(output: Path, rounds: dict[str, Any] | None = None, **changes: Any) -> Config:
    return check_config(tree(output, rounds, **changes))


def named(found: Config) -> list[str]:
    hierarchy = plan_hierarchy(found.teachers, CLASSES, DOMAINS, 0)
    return [item.name for item in candidates(found, hierarchy, labels=True)]


@pytest.fixture(scope="module")
def auto(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Return a run that chose its recipe, and its summary."""
    folder = tmp_path_factory.mktemp("auto")
    return folder / "run", run_config(config(folder), folder / "run")


def test_the_run_is_the_one_with_the_chosen_recipe(
    auto: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    path, summary = auto
    choice = summary["choice"]
    assert (choice["by"], choice["samples"]) == ("validation", 312)
    assert len({item["accuracy"] for item in choice["candidates"]}) > 2, "a test of nothing"
    chosen = next(c for c in choice["candidates"] if c["name"] == choice["chosen"])
    fixed = config(tmp_path, chosen["rounds"])
    student = fixed.student.model_copy(update={"cross_fit": 5})
    same = run_config(fixed.model_copy(update={"student": student}), tmp_path / "same")
    for part in ("student", "rounds", "controls"):
        assert summary[part] == same[part]
    assert "choice" not in same
    run = load_run(path)
    assert not run.missing
    assert run.config["rounds"]["assignment"] == chosen["rounds"]["assignment"]
    assert write_report(run).exists()
    spent = json.loads((path / "stages" / "choose-recipe.json").read_text())["seconds"]
    assert summary["seconds"]["rounds"] >= spent > 0


def test_recipes_with_labelled_samples_are_compared_cross_fitted(tmp_path: Path) -> None:
    # A teacher of five steps is poor, and the labels are many: what learns them wins.
    rounds = {"choose": "auto", "assignment": "mean", "loss": "cross_entropy", "targets": "hard"}
    made = tree(tmp_path, {**rounds, "consistency": []})
    splits = {"teacher_train": 0.6, "student_train": 0.2, "test": 0.2}
    made["data"] = {"source": "digits", "limit": 600, "rotations": [0], "splits": splits}
    made["teachers"] |= {"hierarchy": {"by": "class", "levels": [1]}, "training": {"steps": 5}}
    summary = run_config(check_config(made), tmp_path / "run")
    choice = summary["choice"]
    found = {item["name"]: item["accuracy"] for item in choice["candidates"]}
    assert choice["by"] == "teacher_train"
    assert found["mean as a hint, labelled"] > found["mean"]
    assert max(found.values()) < 1, "no student is compared on a label that it has learned"
    assert "labelled" in choice["chosen"]
    chosen = next(c["rounds"] for c in choice["candidates"] if c["name"] == choice["chosen"])
    fixed = check_config({**made, "rounds": chosen})
    student = fixed.student.model_copy(update={"cross_fit": 5})
    same = run_config(fixed.model_copy(update={"student": student}), tmp_path / "same")
    assert summary["student"] == same["student"]


def test_settings_that_exclude_labels_leave_their_recipes_out(tmp_path: Path) -> None:
    made = config(tmp_path, {"choose": "auto", "labelled": False, "refine": None})
    hierarchy = plan_hierarchy(made.teachers, CLASSES, DOMAINS, 0)
    data = load_data(made.data, 0, 1, None)
    assert learns_labels(config(tmp_path), data)
    assert not learns_labels(made, data)
    found = candidates(made, hierarchy, labels=False)
    assert not any("labelled" in item.name or "refined" in item.name for item in found)
    assert not any(item.config.rounds.labelled or item.config.rounds.refine for item in found)
    both = {"teacher_train": 0, "student_train": 0.8, "test": 0.2}
    shared = config(tmp_path, data={**made.data.model_dump(), "share_train": True, "splits": both})
    assert not learns_labels(shared, load_data(shared.data, 0, 1, None))
    few = {**SPLITS, "teacher_train": 0.1, "student_train": 0.4}
    few_labels = config(tmp_path, data={**made.data.model_dump(), "splits": few})
    assert not learns_labels(few_labels, load_data(few_labels.data, 0, 1, None))


def test_the_resolved_config_chooses_again_also_when_its_choice_is_interrupted(
    auto: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = load_config(auto[0] / "config.yaml", f"run.output={tmp_path}")
    assert made.rounds.choose == "auto"
    assert made.rounds.open == config(tmp_path).rounds.open

    def killed(*_: Any) -> None:
        raise RunError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(choose, "_values", killed)
        with pytest.raises(RunError, match="killed"):
            run_config(made, tmp_path / "run")
    summary = run_config(made, tmp_path / "run", resume=True)
    assert summary["choice"] == auto[1]["choice"]
    assert summary["student"] == auto[1]["student"]


def test_settings_that_are_given_stay(tmp_path: Path) -> None:
    loss = {"name": "distillation", "tau": 3.0}
    made = config(tmp_path, {"choose": "auto", "loss": loss, "targets": "soft"})
    hierarchy = plan_hierarchy(made.teachers, CLASSES, DOMAINS, 0)
    found = candidates(made, hierarchy, labels=True)
    assert 2 < len(found) < len(RECIPES)
    assert {item.config.rounds.loss.name for item in found} == {"distillation"}
    assert {item.config.rounds.targets for item in found} == {"soft"}
    assert {item.config.rounds.loss.settings["tau"] for item in found} == {3.0}
    written = [str(item.settings) for item in found]
    assert len(set(written)) == len(written), "equal recipes are compared once"


def test_no_recipe_needs_what_the_run_lacks(tmp_path: Path) -> None:
    everything = named(config(tmp_path))
    hierarchy = {"hierarchy": None, "external": [{"name": "a", "annotations": "a.parquet"}]}
    single = named(config(tmp_path, teachers=hierarchy))
    hierarchy["external"].append({"name": "b", "annotations": "b.parquet"})
    annotators = named(config(tmp_path, teachers=hierarchy))
    assert everything == [recipe.name for recipe in RECIPES]
    assert set(single) < set(annotators) < set(everything)
    assert not any("gate" in name for name in annotators)
    # A function of a part of the task is no specialist that was trained: no input of it is known.
    rules = {"name": "rules", "scope": {"class": [0]}, "model": {"name": "call:rules:annotate"}}
    hierarchy["hierarchy"] = {"by": "explicit", "teachers": [[rules]]}
    assert named(config(tmp_path, teachers=hierarchy)) == annotators


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"rounds": {"choose": "auto", "losses": ["cross_entropy"]}}, "rounds.choose"),
        (
            {
                "rounds": {
                    "choose": "auto",
                    "loss": {"name": "adaptive_confidence", "weight": "best_constant"},
                }
            },
            "rounds.choose",
        ),
        ({"student": {"mode": "finetune", "backbone": {"name": "resnet10t"}}}, "rounds.choose"),
        (
            {"student": {"backbone": {"name": "resnet10t"}, "cross_fit": 0}},
            "student.cross_fit",
        ),
    ],
)
def test_what_cannot_be_chosen_is_refused(
    tmp_path: Path, changes: dict[str, Any], key: str
) -> None:
    with pytest.raises(UserError, match=key):
        config(tmp_path, **changes)


def test_nothing_to_choose_is_refused(tmp_path: Path) -> None:
    given = RECIPES[0].rounds
    with pytest.raises(UserError, match=r"rounds\.choose"):
        named(config(tmp_path, {"choose": "auto", **given}))


def test_ties_go_to_the_simpler_recipe() -> None:
    # 400 samples; the second is right on 2 more, the third on 40 more.
    first = (torch.arange(400) < 300).double()
    second = (torch.arange(400) < 302).double()
    third = (torch.arange(400) < 340).double()

    def chosen(*parts: torch.Tensor, allowed: list[bool] | None = None) -> int:
        values = [float(part.mean()) for part in parts]
        errors = [[float((a - b).std()) / 400**0.5 for b in parts] for a in parts]
        return pick(values, errors, allowed or [True] * len(parts))

    assert TIE < 1
    assert chosen(first, first) == 0
    assert chosen(first, third) == 1
    assert chosen(first, third, allowed=[True, False]) == 0
    # A difference of 2 samples, each way uncertain, is noise; of 2 samples alone it is not.
    noisy = torch.where(torch.arange(400) % 10 < 7, 1.0, 0.0).double()
    noisier = torch.cat([noisy[:200], 1 - noisy[200:300], noisy[300:]])
    assert chosen(noisier, noisy) == 1
    assert chosen(noisy.roll(3), noisy) == 0
    assert chosen(first, second) == 1


@pytest.mark.parametrize(
    ("splits", "by"),
    [
        ({"teacher_train": 0.4, "student_train": 0.4, "test": 0.2}, "teacher_train"),
        ({"teacher_train": 0.1, "student_train": 0.7, "test": 0.2}, "score"),
    ],
)
def test_without_enough_labels_others_decide(
    tmp_path: Path, splits: dict[str, float], by: str
) -> None:
    made = tree(tmp_path, {"choose": "auto", "targets": "hard", "loss": "cross_entropy"})
    made["data"] = {"source": "digits", "limit": 900, "rotations": [0], "splits": splits}
    made["teachers"]["hierarchy"] = {"by": "class", "levels": [1, 2]}
    summary = run_config(check_config(made), tmp_path / "run")
    choice = summary["choice"]
    assert choice["by"] == by
    key = "score" if by == "score" else "accuracy"
    assert all(0 < item[key] < 1 for item in choice["candidates"])
