"""`cosup review` on a real run: what is asked, what is read back, and what it says."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.annotated_folder import NAMES

from cosup.analysis import load_run
from cosup.analysis.review import review_sentences
from cosup.cli import call
from cosup.runs.lock import locked


def review(*arguments: str) -> int:
    return call(["review", "runs/reviewed", *arguments])


def questions(run: Path) -> pd.DataFrame:
    return pd.read_csv(run / "review" / "next.csv", dtype=str, keep_default_na=False)


def answer(run: Path, path: Path, some: slice = slice(None)) -> pd.DataFrame:
    """Answer the questions by the folder of each image; leave the others blank."""
    table = questions(run)
    table["label"] = ""
    rows = table.index[some]
    table.loc[rows, "label"] = table.loc[rows, "sample_id"].str.partition("/")[0]
    table.to_csv(path, index=False)
    return table


def answers(run: Path) -> pd.DataFrame:
    return pd.read_parquet(run / "review" / "answers.parquet")


def last_error(capsys: pytest.CaptureFixture[str]) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def test_questions_are_of_student_train_with_their_files(world: Path) -> None:
    assert review("--next", "20") == 0
    table = questions(world)
    assert list(table) == ["sample_id", "path", "suggested", "reason", "label"]
    assert set(table["sample_id"]) <= set(load_run(world).train["sample_id"])
    assert table["reason"].value_counts().to_dict() == {"random": 10, "contested": 10}
    assert all(Path(path).is_file() for path in table["path"])
    assert set(table["suggested"]) <= set(NAMES)
    assert (table["label"] == "").all()
    page = (world / "review" / "next.html").read_text()
    assert page.count('<img src="data:image/png') == 20


def test_unanswered_questions_are_asked_again(world: Path) -> None:
    assert review("--next", "20", "--no-html") == 0
    assert not (world / "review" / "next.html").exists()
    first = questions(world)
    assert review("--next", "20") == 0
    pd.testing.assert_frame_equal(questions(world), first)
    answer(world, Path("a.csv"), slice(15))
    assert review("--read", "a.csv") == 0
    assert review("--next", "20") == 0
    then = questions(world)
    assert set(first["sample_id"][15:]) <= set(then["sample_id"])
    assert not set(first["sample_id"][:15]) & set(then["sample_id"])
    assert len(then) == 20


def test_answers_accumulate_and_the_later_one_counts(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert review("--next", "20") == 0
    table = answer(world, Path("a.csv"), slice(12))
    assert review("--read", "a.csv") == 0
    assert len(answers(world)) == 12
    changed = table.iloc[[0]].assign(label="three" if table["label"][0] == "one" else "one")
    changed[["sample_id", "label"]].to_csv("b.csv", sep=";", index=False, encoding="utf-8-sig")
    capsys.readouterr()
    assert review("--read", "b.csv") == 0
    assert f"'{table['sample_id'][0]}'" in capsys.readouterr().out
    kept = answers(world).set_index("sample_id")["label"]
    assert kept[table["sample_id"][0]] == changed["label"].iloc[0]
    assert len(kept) == 12


def test_what_the_answers_tell_is_printed_and_stored(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert review("--next", "60") == 0
    answer(world, Path("a.csv"))
    assert review("--read", "a.csv") == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("ann", "ben", "student", "--resume"))
    found = load_run(world).files.review.estimates.read()
    assert (found["answers"], found["random"]) == (60, 30)
    by_name = {one["name"]: one for one in found["sources"]}
    run = load_run(world)
    truth = run.train["true_label"].astype(str).to_numpy()
    said = np.array(run.classes)[run.annotated("ann").label]
    assert by_name["ann"]["low"] <= (said == truth).mean() <= by_name["ann"]["high"]
    assert by_name["ann"]["share"] > by_name["ben"]["share"]


def test_wrong_answers_change_nothing(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert review("--next", "10") == 0
    table = answer(world, Path("a.csv"))
    for name, edit in {
        "class": table.assign(label="noughtt"),
        "sample": table.assign(sample_id=table["sample_id"] + "x"),
        "twice": pd.concat([table, table]),
        "blank": table.assign(label=""),
    }.items():
        edit.to_csv(f"{name}.csv", index=False)
        capsys.readouterr()
        assert review("--read", f"{name}.csv") == 2, name
        errors = capsys.readouterr().err.splitlines()
        assert all(line.startswith(f"error: answers {name}.csv") for line in errors), errors
    assert not (world / "review" / "answers.parquet").exists()


def test_a_reading_without_questions(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.csv").write_text("sample_id,label\nx,one\n")
    assert review("--read", "a.csv") == 2
    assert "--next" in last_error(capsys)
    assert review() == 2
    assert review("--next", "5", "--read", "a.csv") == 2


def test_a_run_that_is_being_written_is_left_alone(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with locked(world / ".lock"):
        assert review("--next", "5") == 2
    assert "being written" in last_error(capsys)
    assert not (world / "review").exists()


def test_damaged_answers_are_named(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert review("--next", "10") == 0
    answer(world, Path("a.csv"))
    assert review("--read", "a.csv") == 0
    path = world / "review" / "answers.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    capsys.readouterr()
    assert review("--read", "a.csv") == 1
    assert str(path.relative_to(Path.cwd())) in capsys.readouterr().err


def test_the_seed_is_that_of_the_first_review(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert review("--next", "10", "--seed", "1") == 0
    first = questions(world)
    shutil.rmtree(world / "review")
    assert review("--next", "10", "--seed", "2") == 0
    assert set(questions(world)["sample_id"]) != set(first["sample_id"])
    capsys.readouterr()
    assert review("--next", "10", "--seed", "1") == 2
    assert "--seed" in last_error(capsys)


def test_what_is_no_run_of_a_student(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["review", str(tmp_path), "--next", "5"]) == 2
    assert str(tmp_path) in last_error(capsys)


def resume(*overrides: str) -> int:
    return call(["run", "config.yaml", *overrides, "--resume"])


def reviewed_run(world: Path, number: int = 40) -> None:
    """Answer so many questions, and resume the run with the answers."""
    assert review("--next", str(number), "--no-html") == 0
    answer(world, Path("a.csv"))
    assert review("--read", "a.csv") == 0
    assert resume() == 0


def test_a_finished_run_is_run_again_with_new_answers(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = load_run(world)
    config_hash, samples = before.summary["config_hash"], len(before.train)
    reviewed_run(world)
    run = load_run(world)
    assert run.summary["review"] == {
        "answers": 40, "split": "validation", "measuring": 20, "labels": 20, "set_aside": 0
    }  # fmt: skip
    assert run.summary["data"]["samples"]["validation"] == 20
    assert len(run.train) == samples - 20
    assert run.summary["config_hash"] == config_hash
    assert run.summary["status"] == "finished"
    kept = answers(world).set_index("sample_id")
    labels = pd.read_parquet(world / "labels.parquet").set_index("sample_id")
    teaching = kept[kept["reason"] == "contested"]
    found = labels.loc[teaching.index]
    assert (found["label"].astype(str) == teaching["label"]).all()
    assert set(found["source"]) == {"review"}
    assert (labels["source"] == "review").sum() == 20
    measuring = set(kept.index[kept["reason"] == "random"])
    assert not measuring & set(run.train["sample_id"])
    capsys.readouterr()
    assert resume() == 0
    assert "finished already" in capsys.readouterr().err


def test_a_config_with_the_answers_gives_the_same_numbers(world: Path) -> None:
    reviewed_run(world)
    assert call(["run", "config.yaml", "run.name=b", "data.answers=a.csv"]) == 0
    first, second = load_run(world).summary, load_run(world.parent / "b").summary
    for part in ("student", "rounds", "sources", "review", "floor"):
        assert first[part] == second[part], part


def test_labels_of_contested_images_teach_the_student(world: Path) -> None:
    """Reviewed classes that contradict the annotators change what the student learns."""
    assert review("--next", "100", "--no-html") == 0
    table = answer(world, Path("a.csv"))
    table.assign(label="three").to_csv("threes.csv", index=False)
    shares = []
    for number, file in enumerate(("a.csv", "threes.csv")):
        settings = (f"run.name=x{number}", f"data.answers={file}", "data.answers_as=labels")
        assert call(["run", "config.yaml", *settings]) == 0
        run = load_run(world.parent / f"x{number}")
        assert run.summary["review"]["labels"] == 100
        shares.append(
            (run.answered("student", "student").label == run.classes.index("three")).mean()
        )
    assert shares[1] > shares[0] + 0.1


def test_labels_teach_the_cross_fitted_student_too(world: Path) -> None:
    """With a recipe that cross-fits none, one is trained in folds for the labels of the run."""
    assert review("--next", "100", "--no-html") == 0
    table = answer(world, Path("a.csv"))
    table.assign(label="three").to_csv("threes.csv", index=False)
    shares = []
    for number, file in enumerate(("a.csv", "threes.csv")):
        settings = (f"run.name=y{number}", f"data.answers={file}", "data.answers_as=labels")
        assert call(["run", "config.yaml", "rounds.assignment=mean", *settings]) == 0
        run = load_run(world.parent / f"y{number}")
        assert len(run.classes) == 4
        found = run.files.round(run.rounds[-1]).cross_fitted.read(4, len(run.train))
        shares.append(float((found.top()[0] == run.classes.index("three")).float().mean()))
    assert shares[1] > shares[0] + 0.1


def test_answers_are_not_overwritten(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert review("--next", "10", "--no-html") == 0
    answer(world, Path("a.csv"))
    assert review("--read", "a.csv") == 0
    capsys.readouterr()
    assert call(["run", "config.yaml", "--overwrite"]) == 2
    assert "review" in last_error(capsys)
    assert load_run(world).finished


def test_damaged_answers_stop_a_resumption_and_lose_nothing(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert review("--next", "10", "--no-html") == 0
    answer(world, Path("a.csv"))
    assert review("--read", "a.csv") == 0
    path = world / "review" / "answers.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    capsys.readouterr()
    assert resume() == 1
    assert "answers.parquet" in capsys.readouterr().err.splitlines()[-1]
    assert load_run(world).finished


@pytest.mark.parametrize(
    ("rows", "named"),
    [("one/none.png,one", "one/none.png"), ("nobody", "label"), ("{},onee", "onee")],
)
def test_wrong_answers_of_a_config_are_one_line(
    world: Path, capsys: pytest.CaptureFixture[str], rows: str, named: str
) -> None:
    sample = str(load_run(world).train["sample_id"].iloc[0])
    Path("a.csv").write_text(f"sample_id,label\n{rows.format(sample)}\n")
    if named == "label":
        Path("a.csv").write_text("sample_id\nx\n")
    capsys.readouterr()
    assert call(["run", "config.yaml", "run.name=c", "data.answers=a.csv"]) == 2
    assert named in last_error(capsys)
    assert not (world.parent / "c").exists()


def test_a_second_review_goes_on_after_a_resumption(world: Path) -> None:
    reviewed_run(world, 20)
    first = answers(world)
    reviewed_run(world, 20)
    both = answers(world)
    assert len(both) == 40
    assert set(first["sample_id"]) < set(both["sample_id"])
    assert load_run(world).summary["review"]["answers"] == 40


def test_the_verdict_tells_what_was_reviewed(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def sentences() -> list[str]:
        run = load_run(world)
        return list(review_sentences(run))

    assert sentences() == []  # it has a test split
    assert review("--next", "40", "--no-html") == 0
    answer(world, Path("a.csv"))
    assert review("--read", "a.csv") == 0
    (told,) = sentences()
    assert "40 reviewed images" in told
    assert "ann" in told
    capsys.readouterr()
    assert resume() == 0
    (used,) = sentences()
    assert used in " ".join(capsys.readouterr().out.split())
    assert "validation" in used


def test_answers_that_no_longer_fit_the_data_lose_nothing(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert review("--next", "10", "--no-html") == 0
    table = answer(world, Path("a.csv"))
    assert review("--read", "a.csv") == 0
    (Path("own") / table["sample_id"][0]).unlink()
    capsys.readouterr()
    assert resume() == 2
    assert table["sample_id"][0] in last_error(capsys)
    assert load_run(world).finished
    assert load_run(world).rounds


def test_a_few_reviewed_images_choose_nothing_that_more_labels_choose(world: Path) -> None:
    """student_train has true labels here, by which the best teacher is chosen as before."""
    before = load_run(world).summary["floor"]
    reviewed_run(world, 10)
    found = load_run(world).summary["floor"]
    assert found["chosen_on"] == before["chosen_on"] == "student_train"
    assert found["teacher"] == before["teacher"]


def test_a_run_without_any_label_is_measured_by_its_review(world: Path) -> None:
    """Nothing of it knows the truth before; the images drawn at random become its test split."""
    data = "data={source: images, root: own, classes: [nought, one, two, three]}"
    settings = [data, "run.name=unlabelled"]
    path = world.parent / "unlabelled"
    assert call(["run", "config.yaml", *settings]) == 0
    run = load_run(path)
    assert run.summary["student"]["accuracy"] is None
    assert run.summary["outcome"]["answer"] == "unmeasured"
    assert run.summary["next"][0]["command"] == "cosup review RUN --next 100"
    assert call(["review", str(path), "--next", "80", "--no-html"]) == 0
    table = answer(path, Path("a.csv"))
    assert call(["review", str(path), "--read", "a.csv"]) == 0
    told = load_run(path).files.review.estimates.read()["sources"]
    truth = pd.Series(run.train["sample_id"]).str.partition("/")[0].to_numpy()
    for one in told[:-1]:
        said = run.annotated(one["name"]).label
        right = (np.array(run.classes)[said] == truth)[said >= 0].mean()
        assert one["low"] <= right <= one["high"]
    assert call(["run", "config.yaml", *settings, "--resume"]) == 0
    measured = load_run(path).summary
    assert measured["measured"] == "on 40 reviewed images"
    assert measured["review"]["split"] == "test"
    low, high = measured["student"]["accuracy_ci95"]
    assert 0 < low < measured["student"]["accuracy"] < high < 1
    assert len(table) == 80
    assert measured["floor"]["chosen_on"] not in ("validation", "test")


@pytest.mark.parametrize("command", ["validate", "plan", "run"])
def test_a_file_of_answers_that_is_missing_is_found_at_once(
    world: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    capsys.readouterr()
    assert call([command, "config.yaml", "run.name=d", "data.answers=nowhere.csv"]) == 2
    assert "data.answers" in last_error(capsys)
    assert not (world.parent / "d").exists()
