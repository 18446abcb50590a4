"""`rounds.choose: auto` over shards: what a run with listed samples compares, killed or not."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.digits_manifest import write_digits, write_manifest
from helpers.killed_shards import Killed, kill_after
from helpers.sharded_config import sharded_config
from helpers.user_errors import error_of

from cosup.analysis import load_run
from cosup.analysis.candidates import candidates_table
from cosup.cli import call
from cosup.config.schema import Config
from cosup.errors import UserError
from cosup.recipe import Recipe
from cosup.runs import plan_config, recipes, run_config, sharded_choose
from cosup.runs.recipes import RECIPES
from cosup.runs.verify import verify
from cosup.sharded.rounds import run_shard_rounds

ROWS, LABELLED = 760, 640
GATE = {"name": "gate", "prior": "provenance"}
GIVEN = {
    "assignment": GATE,
    "loss": "cross_entropy",
    "targets": "soft",
    "refine": None,
    "labelled_weight": 3.0,
}
"""Given beside `choose`: what is left is plain, or has a filter, or teaches labels."""
STUDENT = {"training": {"steps": 30, "batch_size": 32, "lr": 0.02, "standardize": True}}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a manifest with enough labels of teacher_train to compare by them, and too few of
    validation."""
    folder = tmp_path_factory.mktemp("manifest")
    labels = write_digits(folder / "images", 900)
    return write_manifest(folder / "rows", labels, ROWS, LABELLED)


def config(manifest: Path, rounds: dict[str, Any] | None = None, **sections: Any) -> Config:
    given = {"choose": "auto", **GIVEN} if rounds is None else rounds
    tree = sharded_config(manifest, controls=[], student=STUDENT, **sections).model_dump(
        mode="json"
    )
    return Config.model_validate({**tree, "rounds": given})


def numbers_of(summary: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in summary.items() if k not in ("seconds", "peak_rss_mb")}


@pytest.fixture(scope="module")
def chosen(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Return a run that chose its recipe, and its summary."""
    path = tmp_path_factory.mktemp("chosen") / "run"
    return path, run_config(config(manifest), path)


def test_recipes_are_compared_as_in_a_run_that_lists_its_samples(
    manifest: Path, tmp_path: Path, chosen: tuple[Path, dict[str, Any]]
) -> None:
    found = chosen[1]["choice"]
    listed = run_config(config(manifest, data={"sharded": False}), tmp_path / "run")["choice"]
    assert (found["by"], found["samples"]) == (listed["by"], listed["samples"])
    assert found["by"] == "teacher_train"
    for mine, other in zip(found["candidates"], listed["candidates"], strict=True):
        assert (mine["name"], mine["rounds"]) == (other["name"], other["rounds"])
        # Folds are drawn otherwise; without them the students have the same batches, and differ by
        # what rounding makes of their annotations.
        crossed = mine["rounds"]["labelled"] or mine["rounds"]["consistency"]
        assert abs(mine["accuracy"] - other["accuracy"]) <= (0.15 if crossed else 0.02)
        assert mine["accuracy"] < 1, "no student is compared on a label that it has learned"
    assert len({one["accuracy"] for one in found["candidates"]}) == 3, "a test of nothing"


def test_the_run_is_the_one_with_the_chosen_recipe(
    manifest: Path, tmp_path: Path, chosen: tuple[Path, dict[str, Any]]
) -> None:
    path, summary = chosen
    choice = summary["choice"]
    rounds = next(c["rounds"] for c in choice["candidates"] if c["name"] == choice["chosen"])
    fixed = config(manifest, rounds)
    student = fixed.student.model_copy(update={"cross_fit": 5})
    same = run_config(fixed.model_copy(update={"student": student}), tmp_path / "same")
    for part in ("student", "rounds"):
        assert summary[part] == same[part]
    run = load_run(path)
    assert run.config["rounds"]["labelled"] == rounds["labelled"]
    table = candidates_table(run)
    assert list(table[table["chosen"]]["candidate"]) == [choice["chosen"]]
    assert call(["report", str(path)]) == 0
    assert "Recipes compared" in (path / "report" / "index.html").read_text()


def test_what_candidates_write_of_shards_is_removed(chosen: tuple[Path, dict[str, Any]]) -> None:
    names = {file.parts[-3] for file in (chosen[0] / "shards").rglob("*.parquet")}
    assert {"round-1", "round-2"} <= names
    assert not {name for name in names if name.startswith("recipe-")}


def test_a_choice_that_is_killed_goes_on_after_the_candidates_that_are_finished(
    manifest: Path,
    tmp_path: Path,
    chosen: tuple[Path, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    summary, cut = chosen[1], tmp_path / "cut"
    records = [cut / "stages" / f"recipe-{number}.json" for number in (1, 2, 3)]
    ran = list[Recipe]()

    def counted(task: Any, recipe: Recipe, *args: Any, **settings: Any) -> Iterator[Any]:
        ran.append(recipe)
        return run_shard_rounds(task, recipe, *args, **settings)

    monkeypatch.setattr(sharded_choose, "run_shard_rounds", counted)
    begun = cut / "shards" / "counts" / "recipe-round-1"
    for place, since in enumerate((begun, *records[:2])):  # within each of the candidates
        with monkeypatch.context() as patch:
            kill_after(patch, 3, since.exists)
            with pytest.raises(Killed):
                run_config(config(manifest), cut, resume=cut.exists())
        assert [record.exists() for record in records] == [place > 0, place > 1, False]
    assert len(ran) == 2 + 2 + 1, "each run begins with the candidate that was killed"
    records[1].write_text("{")
    ran.clear()
    assert numbers_of(run_config(config(manifest), cut, resume=True)) == numbers_of(summary)
    assert len(ran) == 2, "the one whose record is damaged, and the one that was not finished"
    assert not list(cut.glob("*/recipe-*"))
    assert not list((cut / "shards").glob("*/recipe-*"))


def test_a_choice_that_is_lost_is_made_again(
    manifest: Path, tmp_path: Path, chosen: tuple[Path, dict[str, Any]]
) -> None:
    summary, cut = chosen[1], tmp_path / "cut"
    shutil.copytree(chosen[0], cut)
    # A damaged record of the choice, and a damaged shard of a round with the chosen recipe.
    (cut / "stages" / "choose-recipe.json").write_text("{")
    next((cut / "shards" / "decisions" / "round-2").rglob("*.parquet")).write_bytes(b"none")
    assert not verify(str(cut)).is_whole
    assert numbers_of(run_config(config(manifest), cut, resume=True)) == numbers_of(summary)
    assert verify(str(cut)).is_whole


def test_too_few_labels_to_compare_by_are_refused(tmp_path: Path) -> None:
    labels = write_digits(tmp_path / "images", 500)
    few = write_manifest(tmp_path / "rows", labels, 500, 400)
    for refused in (
        lambda: plan_config(config(few)),
        lambda: run_config(config(few), tmp_path / "run"),
    ):
        error = error_of(refused)
        assert error.key == ("rounds", "choose")
        assert "\n" not in str(error)
    assert not (tmp_path / "run" / "stages" / "choose-recipe.json").exists()


def test_recipes_that_cannot_be_run_shard_by_shard_are_left_out(
    manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    near = replace(RECIPES[0], ways="near", refine={"name": "product", "neighbours": 5})
    monkeypatch.setattr(recipes, "RECIPES", (*RECIPES, near))

    def refuse_neighbours(recipe: Recipe) -> None:
        if recipe.refiner is not None and recipe.refiner.neighbours:
            raise UserError("reads all shards", key="rounds.refine.neighbours", value=5)

    monkeypatch.setattr(sharded_choose, "check_recipe", refuse_neighbours)
    plan = plan_config(config(manifest, {"choose": "auto"}))
    assert plan.rounds.recipes == [recipe.name for recipe in RECIPES]
    assert list(plan.rounds.left_out) == [near.name]
    assert near.name in repr(plan)
    assert plan.shards is not None
    alone = plan_config(config(manifest, RECIPES[0].rounds)).shards
    assert alone is not None
    assert plan.shards.nbytes > alone.nbytes
