"""Only what a config sets counts as different; defaults and choices that follow stand apart."""

import json
from pathlib import Path

import pytest
from helpers.comparable_runs import make_run, make_seeds, random_answers

from cosup.analysis.comparable import entries_in, pair_seeds
from cosup.analysis.compared_settings import config_table, differing
from cosup.config import config_tree, dump_config, load_config
from cosup.files import write_json


def run_of(folder: Path, *overrides: str, chosen: str | None = None) -> Path:
    """Write a run of the quickstart's config; chosen: the loss that `choose: auto` chose."""
    path = make_run(folder, random_answers(1, 0.6))
    rewrite(path, *overrides, chosen=chosen)
    return path


def rewrite(path: Path, *overrides: str, chosen: str | None = None) -> None:
    config = load_config("quickstart", *overrides)
    path.joinpath("config.yaml").write_text(dump_config(config))
    if chosen is not None:
        loss = config_tree(load_config("quickstart", f"rounds.loss={chosen}"))["rounds"]["loss"]
        recipe = {"assignment": {"name": "mean"}, "loss": loss, "consistency": []}
        candidates = [{"name": "x", "rounds": recipe}]
        stage = path / "stages" / "choose-recipe.json"
        write_json(stage, {"seconds": 1.0, "chosen": "x", "candidates": candidates})


def origins(*paths: Path) -> dict[str, list[str]]:
    paired = pair_seeds(entries_in(paths))
    found: dict[str, list[str]] = {}
    for one in differing(paired):
        found.setdefault(one.origin, []).append(one.key)
    return found


FIXED = ("rounds.choose=null", "controls=[ceiling]")


def test_only_what_was_set_counts(tmp_path: Path) -> None:
    """Three overrides: a network with all its defaults, a filter with its, and a number."""
    one = run_of(tmp_path / "a", *FIXED)
    two = run_of(
        tmp_path / "b",
        *FIXED,
        "rounds.loss=distillation",
        "rounds.consistency=[{name: teacher_student, k: 4}]",
        "teachers.training.lr=0.02",
        "student.training.lr=0.001",  # the default
    )
    found = origins(one, two)
    assert set(found["set"]) == {
        "rounds.loss.name",
        "rounds.consistency.0.name",
        "rounds.consistency.0.k",
        "teachers.training.lr",
    }
    assert "rounds.loss.tau" in found["follows"]
    assert set(found) == {"set", "follows"}


def test_controls_that_the_config_leaves_to_cosup_follow(tmp_path: Path) -> None:
    text = load_config("quickstart", "rounds.choose=null")
    assert text.controls
    one = run_of(tmp_path / "a", *FIXED)
    two = run_of(tmp_path / "b", "rounds.choose=null", "controls=[ceiling]", "run.seed=1")
    assert origins(one, two) == {"set": ["run.seed"]}


def test_what_a_run_chose_stands_apart(tmp_path: Path) -> None:
    one = run_of(tmp_path / "a", "controls=[ceiling]", chosen="cross_entropy")
    two = run_of(tmp_path / "b", "controls=[ceiling]", chosen="adaptive_confidence")
    found = origins(one, two)
    assert found["chosen"] == ["rounds.loss.name"]
    assert "set" not in found
    assert all(key.startswith("rounds.loss.") for key in found["follows"])


def test_a_choice_differs_from_the_same_setting(tmp_path: Path) -> None:
    one = run_of(tmp_path / "a", "controls=[ceiling]", chosen="cross_entropy")
    two = run_of(
        tmp_path / "b", "controls=[ceiling]", "rounds.loss=cross_entropy", chosen="cross_entropy"
    )
    table = config_table(pair_seeds(entries_in([one, two])), ["a", "b"])
    assert table.to_numpy().tolist() == [
        ["rounds.loss.name", "set", '"cross_entropy" (chosen)', '"cross_entropy"']
    ]


def test_seeds_are_no_difference_and_choices_are_shown_by_seed(tmp_path: Path) -> None:
    for name, losses in (("a", ["mse", "mse"]), ("b", ["mse", "kl"])):
        folder = make_seeds(tmp_path / name, dict.fromkeys((0, 1), random_answers(1, 0.6)))
        for seed, loss in enumerate(losses):
            chosen = {"mse": "cross_entropy", "kl": "adaptive_confidence"}[loss]
            rewrite(
                folder / f"seed-{seed}", f"run.seed={seed}", "controls=[ceiling]", chosen=chosen
            )
    paired = pair_seeds(entries_in([tmp_path / "a", tmp_path / "b"]))
    (one,) = [one for one in differing(paired) if one.origin != "follows"]
    assert (one.key, one.value(0, [0, 1])) == ("rounds.loss.name", "cross_entropy")
    assert one.value(1, [0, 1]) == {"0": "cross_entropy", "1": "adaptive_confidence"}
    assert one.text(1, [0, 1]).startswith('seed 0: "cross_entropy", seed 1: ')


def test_an_unknown_config_counts_as_set(tmp_path: Path) -> None:
    """A config of another version, which this one cannot check."""
    one, two = (run_of(tmp_path / name, *FIXED, "rounds.repeat=1") for name in "ab")
    text = two.joinpath("config.yaml").read_text()
    two.joinpath("config.yaml").write_text(
        text.replace("min_kept: 0.2", "min_kept: 0.3").replace("fresh_head", "fresh_heads")
    )
    found = origins(one, two)
    assert set(found["set"]) == {"rounds.min_kept", "rounds.fresh_heads"}


@pytest.mark.parametrize("value", [0.5, "é", [1, 2], False])
def test_values_are_json(tmp_path: Path, value: object) -> None:
    runs = [make_run(tmp_path / name, random_answers(1, 0.6)) for name in "ab"]
    text = json.dumps(value, ensure_ascii=False)
    tree = runs[1].joinpath("config.yaml").read_text().replace("limit: null", f"limit: {text}")
    runs[1].joinpath("config.yaml").write_text(tree)
    table = config_table(pair_seeds(entries_in(runs)), ["a", "b"])
    assert table.to_numpy().tolist() == [["data.limit", "set", "null", text]]
