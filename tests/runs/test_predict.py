"""`cosup predict`: what it reads, what it writes, and that an interrupted one goes on."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import cosup
from cosup.cli import call
from cosup.config.schema import Config
from cosup.errors import UserError
from cosup.runs import new_images
from cosup.runs.kept_rows import KeptRows, written_alone
from cosup.runs.pipeline import run_one
from cosup.student.exported import ExportedStudent

SHORT = {"steps": 40, "batch_size": 32, "lr": 0.03}
COLUMNS = ["path", "label", "probability", "label_2", "probability_2", "label_3", "probability_3"]
READ: dict[str, Callable[[Path], pd.DataFrame]] = {
    ".csv": lambda path: pd.read_csv(path, dtype={"label": str, "label_2": str, "label_3": str}),
    ".jsonl": lambda path: pd.DataFrame(map(json.loads, path.read_text().splitlines())),
    ".parquet": pd.read_parquet,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a finished run on digits, with a team."""
    folder = tmp_path_factory.mktemp("predict") / "run"
    tree: dict[str, Any] = {
        "run": {"name": "predict"},
        "data": {"source": "digits", "rotations": [0, 90], "limit": 400},
        "teachers": {
            "hierarchy": {"by": "domain", "levels": [1, 2]},
            "model": {"name": "linear_pixels", "size": 8},
            "training": SHORT,
        },
        "student": {
            "backbone": {"name": "cifar_resnet8", "weights": None, "image_size": 16},
            "training": SHORT,
        },
        "rounds": {"assignment": "agreement"},
        "controls": ["ceiling"],
    }
    run_one(Config.model_validate(tree), folder)
    return folder


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with twelve digits, two of them deeper, and a file that is no image."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    pixels, _ = load_digits(return_X_y=True)
    for number, grey in enumerate((pixels[:12].reshape(-1, 8, 8) * 15.9).astype(np.uint8)):
        place = folder / "more" if number > 9 else folder
        Image.fromarray(grey).save(place / f"{number:02d}.png")
    (folder / "notes.txt").write_text("nothing")
    return Path("photos")


def paths_in(folder: Path) -> list[str]:
    return sorted(map(str, folder.rglob("*.png")))


def lines(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[str]:
    """Return the lines on stderr of a command that ends with status 2."""
    capsys.readouterr()
    assert call(["predict", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


@pytest.mark.parametrize("ending", READ)
def test_rows_are_what_the_student_predicts(run: Path, photos: Path, ending: str) -> None:
    output = Path(f"labels{ending}")
    assert call(["predict", str(run), str(photos), "-o", str(output)]) == 0
    rows = READ[ending](output)
    assert rows.columns.tolist() == COLUMNS
    assert rows["path"].tolist() == paths_in(photos)
    student = cosup.load_student(run / "student", "cpu")
    best = student.predict(paths_in(photos)).topk(3, 1)
    for number, end in enumerate(("", "_2", "_3")):
        labels = [student.classes[index] for index in best.indices[:, number].tolist()]
        assert rows[f"label{end}"].tolist() == labels
        found = rows[f"probability{end}"].tolist()
        assert found == pytest.approx(best.values[:, number].tolist(), abs=1e-5)
    assert sorted(p.name for p in Path().iterdir()) == [output.name, "photos"]


def test_with_the_team_it_tells_who_was_asked(run: Path, photos: Path) -> None:
    assert call(["predict", str(run / "student"), str(photos), "--team", "-o", "a.csv"]) == 0
    rows = READ[".csv"](Path("a.csv"))
    assert rows.columns.tolist() == [*COLUMNS, "asked"]
    student = cosup.load_student(run / "student", "cpu")
    probs, weights = student.predict_team(paths_in(photos))
    assert rows["probability"].tolist() == pytest.approx(probs.max(1).values.tolist(), abs=1e-5)
    for asked, row in zip(rows["asked"], weights, strict=True):
        assert set(asked.split(", ")) == {
            name for name, weight in zip(student.team.names, row, strict=True) if weight >= 0.01
        }


def test_a_run_at_a_uri_answers_with_its_team(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COSUP_CACHE", str(tmp_path / "cache"))
    for number, place in enumerate((run, f"file://{run}", f"file://{run}/student")):
        assert call(["predict", str(place), str(photos), "--team", "-o", f"{number}.csv"]) == 0
    assert Path("0.csv").read_text() == Path("1.csv").read_text() == Path("2.csv").read_text()


def test_files_globs_and_tables_name_images_once(run: Path, photos: Path) -> None:
    pd.DataFrame({"path": ["02.png", "01.png"], "site": "x"}).to_csv(photos / "t.csv", index=False)
    given = [photos / "01.png", photos / "t.csv", "photos/**/1*.png", photos / "more"]
    assert call(["predict", str(run), *map(str, given), "-o", "a.csv"]) == 0
    expected = ["01.png", "02.png", "more/10.png", "more/11.png"]
    assert READ[".csv"](Path("a.csv"))["path"].tolist() == [f"photos/{name}" for name in expected]


def test_without_an_output_a_table_is_printed(
    run: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["predict", str(run), str(photos)]) == 0
    printed = capsys.readouterr().out
    assert all(path in printed for path in paths_in(photos))
    assert [p.name for p in Path().iterdir()] == ["photos"]


def test_broken_images_are_set_aside_and_named(
    run: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "03.png").write_bytes(b"no image")
    table = pd.DataFrame({"path": ["01.png", "gone.png", "03.png"]})
    table.to_csv(photos / "t.csv", index=False)
    for team in ([], ["--team"]):
        there = ["-o", "a.csv", "--overwrite"]
        assert call(["predict", str(run), str(photos / "t.csv"), *team, *there]) == 0
        assert READ[".csv"](Path("a.csv"))["path"].tolist() == ["photos/01.png"]
        told = capsys.readouterr().err
        assert "2 of 3" in told
        assert "gone.png" in told
        assert "03.png" in told
    (only,) = lines(capsys, run, photos / "03.png", "-o", "b.csv")[-1:]
    assert only.startswith("error: ")
    assert sorted(p.name for p in Path().iterdir()) == ["a.csv", "photos"]


def test_an_image_of_an_unprintable_name_is_set_aside(
    run: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "03.png").rename(photos / "\x1b[31m\udcff.png")
    rest = [path for path in paths_in(photos) if path.isprintable()]
    for ending in READ:
        output = Path(f"a{ending}")
        assert call(["predict", str(run), str(photos), "-o", str(output)]) == 0
        assert READ[ending](output)["path"].tolist() == rest
        told = capsys.readouterr().err
        assert f"set aside 1 of {len(rest) + 1}" in told
        assert "\\x1b[31m\\udcff.png" in told
        assert "\x1b" not in told


def interrupt_third_batch(patch: pytest.MonkeyPatch) -> None:
    """Let the next prediction be interrupted before its third batch."""
    whole = ExportedStudent.answers

    def interrupted(*arguments: Any) -> Iterator[Any]:
        for number, answers in enumerate(whole(*arguments)):
            if number == 2:
                raise KeyboardInterrupt
            yield answers

    patch.setattr(ExportedStudent, "answers", interrupted)


def test_an_interrupted_command_goes_on(
    run: Path,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        interrupt_third_batch(patch)
        assert call(["predict", str(run), str(photos), "-o", "a.csv", "--batch-size", "3"]) == 130
    assert "--resume" in capsys.readouterr().err.splitlines()[-1]
    assert not Path("a.csv").exists()
    (refused,) = lines(capsys, run, photos, "-o", "a.csv")
    assert "--resume" in refused
    (other,) = lines(capsys, run, photos, "-o", "a.csv", "--resume", "--team")
    assert "a.csv" in other
    with open(".a.csv.rows", "ab") as file:
        file.write(b'{"path": "photos/06.p')  # a torn line
    asked: list[str] = []
    ask = new_images._ask
    monkeypatch.setattr(
        new_images, "_ask", lambda paths, *more: asked.extend(paths) or ask(paths, *more)
    )
    assert call(["predict", str(run), str(photos), "-o", "a.csv", "--resume"]) == 0
    assert asked == paths_in(photos)[6:]
    assert READ[".csv"](Path("a.csv"))["path"].tolist() == paths_in(photos)
    assert sorted(p.name for p in Path().iterdir()) == ["a.csv", "photos"]


@pytest.mark.parametrize("ending", READ)
def test_resume_adds_new_images_to_a_finished_output(run: Path, photos: Path, ending: str) -> None:
    output = f"labels{ending}"
    arguments = ["predict", str(run), str(photos), "-o", output]
    assert call(arguments) == 0
    before = READ[ending](Path(output))
    shutil.copy(photos / "00.png", photos / "new.png")
    assert call([*arguments, "--resume"]) == 0
    after = READ[ending](Path(output))
    pd.testing.assert_frame_equal(after[:-1], before)
    assert after["path"].iloc[-1] == str(photos / "new.png")
    assert call([*arguments, "--overwrite"]) == 0
    assert READ[ending](Path(output))["path"].tolist() == paths_in(photos)


def test_bad_input_is_one_line_each(
    run: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("empty").mkdir()
    Path("old.csv").write_text("path,label\n")
    shutil.copytree(run / "student", "bare")
    for weights in Path("bare").glob("*.safetensors"):
        weights.unlink()
    Path("labels_only.csv").write_text("image,label\na.png,1\n")
    cases: list[tuple[list[object], str]] = [
        ([run, "empty"], "empty"),
        ([run, "nowhere.png"], "nowhere.png"),
        ([run, "empty/*.png"], "empty/*.png"),
        ([run, "labels_only.csv"], "path"),
        ([run, photos, "-o", "old.csv"], "old.csv"),
        ([run, photos, "-o", "old.csv", "--resume"], "old.csv"),
        ([run, photos, "-o", "a.xlsx"], "a.xlsx"),
        ([run, photos, "-o", "a.csv", "--resume", "--overwrite"], "--overwrite"),
        ([run, photos, "--resume"], "-o"),
        ([run, photos, "--device", "abacus"], "abacus"),
        (["bare", photos, "-o", "a.csv"], "bare"),
        (["bare", photos, "-o", "a.csv", "--team"], "bare"),
        (["empty", photos], "empty"),
        (["nowhere", photos], "nowhere"),
    ]
    for arguments, named in cases:
        (line,) = lines(capsys, *arguments)
        assert line.startswith("error: ")
        assert named in line
    assert len(lines(capsys, "nowhere", "empty", "gone.png", "-o", "old.csv")) == 4
    assert Path("old.csv").read_text() == "path,label\n"
    left = {"bare", "empty", "labels_only.csv", "old.csv", "photos"}
    assert {p.name for p in Path().iterdir()} == left


def test_a_second_writer_of_an_output_is_refused(
    run: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether the first has written rows yet or not, and nothing of the lock is left."""
    arguments = [str(run), str(photos), "-o", "new/a.csv"]
    with written_alone(Path("new/a.csv"), may_exist=False):
        for flags in ([], ["--overwrite"], ["--resume"]):
            (refused,) = lines(capsys, *arguments, *flags)
            assert "new/a.csv" in refused
            assert f"process {os.getpid()}" in refused
        Path("new/.a.csv.rows").touch()
        (refused,) = lines(capsys, *arguments)
        assert f"process {os.getpid()}" in refused
        Path("new/.a.csv.rows").unlink()
    assert not Path("new").exists()
    assert call(["predict", *arguments]) == 0
    assert [p.name for p in Path("new").iterdir()] == ["a.csv"]


def test_an_output_that_appears_after_the_check_is_kept(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("path\n")
    with pytest.raises(UserError), written_alone(tmp_path / "a.csv", may_exist=False):
        raise AssertionError("it would be written")
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]


def test_rows_are_written_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text that CSV must quote comes back, too."""
    monkeypatch.setattr("cosup.runs.kept_rows.AT_ONCE", 2)
    rows = [
        {"path": f'a,"{n}" é.png', "label": "NA", "probability": n / 8, "asked": ""}
        for n in range(5)
    ]
    for ending in READ:
        kept = KeptRows(tmp_path / f"a{ending}", list(rows[0]), "here")
        kept.open(resume=False)
        kept.append({row["path"]: [row] for row in rows})
        kept.finish()
        kept.open(resume=True)
        assert list(kept._rows()) == rows
