"""Whether a run helped, and what to do next: what is reported depends on what was measured."""

import json
import math
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers.synthetic_run import Shape, make_run
from safetensors.numpy import load_file, save_file

from cosup.analysis import Run, load_run, tables
from cosup.analysis.next_steps import Step, next_steps
from cosup.analysis.outcome import Outcome, outcome, outcome_over_seeds
from cosup.controls import CONTROLS

MINUS = "\N{MINUS SIGN}"
FLOOR = ("teacher", 0.6, 0.15, 0.25)
ABOVE = ("teacher", 0.85, -0.08, -0.02)
ALIKE = ("teacher", 0.81, -0.03, 0.01)
BETTER = ("control", 0.88, -0.1, -0.06)
WORSE = ("control", 0.7, 0.05, 0.15)

Lines = tuple[str, float, float, float]


def overview(**rows: Lines) -> dict[str, pd.DataFrame]:
    """Return an overview from who=(kind, accuracy, gain_low, gain_high) and a student at 0.8."""
    everything = {"student": ("student", 0.8, 0.0, 0.0), **rows}
    names = ("kind", "accuracy", "gain_low", "gain_high")
    table = pd.DataFrame.from_dict(everything, orient="index", columns=list(names))
    table = table.assign(who=list(everything), gain=0.8 - table["accuracy"], coverage=1.0)
    return {"overview": table}


def with_limit(found: dict[str, pd.DataFrame], limit: str, control: str) -> dict[str, pd.DataFrame]:
    row = {"limit": limit, "control": control, "over": "student", "accuracy": 0.9, "missing": ""}
    return {**found, "limits": pd.DataFrame([row | {"gain": 0.1, "low": 0.08, "high": 0.12}])}


def filters(rejected: int, precision: float) -> pd.DataFrame:
    row = {"round": 2, "filter": "all", "rejected": rejected, "precision": precision}
    return pd.DataFrame([row])


def answer(run: Run, **rows: Lines) -> Outcome:
    found = outcome(run, overview(**rows))
    assert found is not None
    return found


def commands(steps: Iterable[Step]) -> list[str]:
    return [step.command_for("here") for step in steps]


@pytest.fixture
def run(small_run: Path) -> Run:
    return load_run(small_run)


def test_helped(run: Run) -> None:
    told = answer(run, level0_0=FLOOR, mean_ensemble=WORSE)
    assert told.answer == "helped"
    assert "+20.0 points" in told.headline
    for number in ("level0_0", "80.0 %", "60.0 %", "15.0 to 25.0"):
        assert number in told.detail
    (step,) = next_steps(run, overview(level0_0=FLOOR, mean_ensemble=WORSE))
    assert step.command == "cosup predict RUN PHOTOS -o new.csv"
    team = overview(level0_0=FLOOR, student_and_team=BETTER)
    assert outcome(run, team) == answer(run, level0_0=FLOOR)
    assert "--team" in next_steps(run, team)[0].command


def test_helped_but_something_simpler_is_better(run: Run) -> None:
    told = answer(run, level0_0=FLOOR, labels=BETTER)
    assert told.answer == "surpassed"
    assert CONTROLS["labels"].sentence[1:] in told.detail
    assert "8.0 points more" in told.detail
    steps = next_steps(run, overview(level0_0=FLOOR, labels=BETTER))
    assert steps[0].text.startswith(CONTROLS["labels"].advice)
    assert not any("Until then" in step.text for step in steps), "the student is above each source"


def test_harm(run: Run) -> None:
    told = answer(run, level0_0=ABOVE, mean_ensemble=WORSE)
    assert told.answer == "no"
    assert told.headline == "No: use the teacher level0_0"
    assert f"{MINUS}5.0 points" in told.detail
    found = overview(level0_0=ABOVE, ceiling=("control", 0.84, -0.06, -0.02))
    first, *others = next_steps(run, found)
    assert "level0_0" in first.text
    assert any("student.backbone" in step.text for step in others), "even true labels do not help"


def test_the_student_is_below_a_source_and_labels_are_best(run: Run) -> None:
    found = overview(level0_0=ABOVE, labels=BETTER)
    told = outcome(run, found)
    assert told is not None
    assert told.answer == "no"
    assert told.headline.startswith("No: train the student on the teachers' own labelled samples")
    use, until, *_ = next_steps(run, found)
    assert use.command == "", "a control leaves no student"
    assert "level0_0" in until.text


def test_within_noise(run: Run) -> None:
    found = overview(level0_0=ALIKE)
    told = outcome(run, found)
    assert told is not None
    assert told.answer == "noise"
    assert "3.0 to 1.0" in told.detail
    steps = next_steps(run, found)  # half of the interval is twice the difference: four times 40
    assert any("160" in step.text and "40" in step.text for step in steps)
    far = overview(level0_0=("teacher", 0.801, -0.03, 0.03))
    assert len(next_steps(run, far)) == 1, "900 times as many images are no advice"


def test_without_a_source_that_answers_half_the_one_with_most_is_compared(run: Run) -> None:
    found = overview(level0_0=FLOOR, level1_0=("teacher", 0.7, 0.05, 0.15))
    found["overview"]["coverage"] = [1.0, 0.3, 0.2]
    told = outcome(run, found)
    assert told is not None
    assert "level1_0" in told.detail


def test_no_round_has_no_outcome(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path / "run", Shape(rounds=0)))
    assert outcome(run, tables(run)) is None
    (step,) = next_steps(run, tables(run))
    assert "--resume" in step.command


def test_together_with_the_teachers_it_helps(tmp_path: Path) -> None:
    """The student alone is no better than the source, and always right with its teachers."""
    controls = ("student_and_team", "best_teacher")
    path = make_run(tmp_path / "run", Shape(controls=controls, test=200))
    run = load_run(path)
    file = path / "checkpoints" / "control-student_and_team.safetensors"
    probs = load_file(file)
    probs["logs"][:] = -math.inf
    probs["logs"][range(200), run.truth] = 0
    save_file(probs, file)
    made = tables(load_run(path))
    table = made["overview"]
    table.loc[table["kind"] == "teacher", ["gain", "gain_low", "gain_high"]] = [0.0, -0.05, 0.05]
    told = outcome(load_run(path), made)
    assert told is not None
    assert told.answer == "helped"
    assert "together" in told.detail
    assert "100.0 %" in told.detail


@pytest.mark.parametrize(
    ("limit", "control", "override"),
    [
        ("routing", "loss_oracle", "'rounds={choose: auto}'"),
        ("loss", "plain_loss", "rounds.loss=cross_entropy"),
        ("annotations", "ceiling", None),
    ],
)
def test_the_largest_limit(run: Run, limit: str, control: str, override: str | None) -> None:
    steps = next_steps(run, with_limit(overview(level0_0=FLOOR), limit, control))
    assert any("10.0 points more (95 % CI 8.0 to 12.0)" in step.text for step in steps)
    given = [command for command in commands(steps) if "here/config.yaml" in command]
    assert len(given) == (override is not None)
    assert all(command.endswith(str(override)) for command in given)
    assert all(
        f"--output here-{'auto' if limit == 'routing' else 'plain-loss'}" in c for c in given
    )


@pytest.fixture
def filtered(tmp_path: Path) -> Run:
    overrides = ["rounds.consistency=[{name: teacher_student}]"]
    return load_run(make_run(tmp_path / "run", Shape(overrides=overrides)))


def test_filters_that_reject_more_right_than_wrong(filtered: Run, run: Run) -> None:
    found = {**overview(level0_0=FLOOR), "filters": filters(200, 0.3)}
    (step,) = (step for step in next_steps(filtered, found) if "filters off" in step.text)
    assert "140 right annotations and 60 wrong" in step.text
    assert step.command_for("here").endswith("'rounds.consistency=[]'")
    for other in (
        {**found, "filters": filters(200, 0.7)},
        {**found, "filters": filters(0, float("nan"))},
        {**overview(level0_0=FLOOR, no_filter=WORSE), "filters": filters(200, 0.3)},
    ):
        assert not any("filters off" in step.text for step in next_steps(filtered, other))
    assert not any("filters off" in step.text for step in next_steps(run, found)), "it has none"


@pytest.mark.parametrize(("assigner", "told"), [("mean", True), ("fused", False)])
def test_a_source_that_harms(tmp_path: Path, assigner: str, told: bool) -> None:
    overrides = [f"rounds.assignment={assigner}"]
    path = make_run(tmp_path / "run", Shape(overrides=overrides))
    summary = json.loads((path / "summary.json").read_text())
    note: dict[str, Any] = {"note": "random", "reliability": 0.1}
    summary["sources"] = {"level1_0": note, "level1_1": {**note, "note": None}}
    asked = {name: {"asked": 0.25} for name in summary["sources"]}
    summary["agreement"] = {"sources": asked}
    (path / "summary.json").write_text(json.dumps(summary))
    steps = next_steps(load_run(path), overview(level0_0=FLOOR))
    found = [step for step in steps if "level1_0" in step.text]
    assert len(found) == told
    assert all("25.0 %" in step.text for step in found)
    assert not any("level1_1" in step.text for step in steps)


def test_at_most_three_steps(filtered: Run) -> None:
    found = with_limit(overview(level0_0=ABOVE, labels=BETTER), "routing", "loss_oracle")
    assert len(next_steps(filtered, {**found, "filters": filters(200, 0.3)})) == 3


def test_not_measured(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", Shape(test=0, controls=()))
    run = load_run(path)
    told = outcome(run, tables(run))
    assert told is not None
    assert told.answer == "unmeasured"
    assert commands(next_steps(run, tables(run)))[0] == "cosup review here --next 100"
    questions = run.files.review.questions
    questions.parent.mkdir()
    questions.write_text("sample_id,label\n")
    (read, *_) = commands(next_steps(run, tables(run)))
    assert read == f"cosup review here --read here/{questions.relative_to(path)}"


@pytest.mark.parametrize(
    ("lead", "expected"),
    [((0.1, 0.05, 0.15), "helped"), ((-0.1, -0.15, -0.05), "no"), ((0.0, -0.1, 0.1), "noise")],
)
def test_measured_by_a_review(tmp_path: Path, lead: Any, expected: str) -> None:
    path = make_run(tmp_path / "run", Shape(test=0, controls=()))
    leads = dict(zip(("lead", "lead_low", "lead_high"), lead, strict=True))
    sources = [{"name": "ann", "share": 0.7, **leads}, {"name": "student", "share": 0.8}]
    file = path / "review" / "estimates.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"answers": 90, "sources": sources}))
    told = outcome(load_run(path), {})
    assert told is not None
    assert told.answer == expected
    assert "90 reviewed images" in told.detail
    assert (told.headline == "No: use ann") == (expected == "no")


def test_over_seeds() -> None:
    helped = {"answer": "helped", "headline": "Helped: +2.0 points", "detail": ""}
    no = {"answer": "no", "headline": "No: use ann", "detail": ""}
    assert outcome_over_seeds([helped, helped]).headline == "Helped on 2 of 2 seeds"
    mixed = outcome_over_seeds([helped, no])
    assert (mixed.answer, mixed.headline) == ("noise", "Helped on 1 of 2 seeds")
    assert "+2.0 points" in mixed.detail
    assert outcome_over_seeds([no, no]).headline == "No: use ann"


def test_a_command_is_for_the_directory_and_is_quoted() -> None:
    step = Step("", "cosup run RUN/config.yaml --output RUN-auto 'rounds={choose: auto}'")
    assert step.command_for("my runs/a") == (
        "cosup run 'my runs/a/config.yaml' --output 'my runs/a-auto' 'rounds={choose: auto}'"
    )


def test_a_copy_of_a_run_has_its_outcome(small_run: Path, tmp_path: Path) -> None:
    shutil.copytree(small_run, tmp_path / "copy")
    copy, own = load_run(tmp_path / "copy"), load_run(small_run)
    assert outcome(copy, tables(copy)) == outcome(own, tables(own)) is not None


def test_commands_for_a_run_at_a_uri() -> None:
    """The options of the URI stay at its end, and a config is read from a file."""
    place = "s3://bucket/runs/mine?region=x"
    step = Step("Run it again.", "cosup run RUN/config.yaml --output RUN-again 'a=[]'")
    expected = "cosup run CONFIG --output 's3://bucket/runs/mine-again?region=x' 'a=[]'"
    assert step.command_for(place) == expected
    step = Step("Read.", "cosup review RUN --read RUN/review/next.csv")
    assert step.command_for("s3://b/a") == "cosup review s3://b/a --read s3://b/a/review/next.csv"
