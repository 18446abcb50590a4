"""`cosup init` recognises how images and tables lie, and what it writes is a valid config."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from sklearn.datasets import load_digits

from cosup.cli import call
from cosup.runs import survey as survey_module
from cosup.runs.survey import survey

DIGITS = load_digits()
COUNT = 200
NAMES = [f"{number:03d}.png" for number in range(COUNT)]
TRUTH = [int(label) for label in DIGITS.target[:COUNT]]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_images(pattern: str) -> None:
    """Write scans to paths with {n} the number, {y} the class and {half}, {part} of two names."""
    for number, (name, label) in enumerate(zip(NAMES, TRUTH, strict=True)):
        half, part = "ab"[number % 2], "train" if number < COUNT // 2 else "test"
        path = Path(pattern.format(y=label, half=half, part=part), name)
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = (DIGITS.images[number] * 15.9).astype(np.uint8)
        Image.fromarray(pixels).resize((16, 16)).save(path)


def answers(accuracy: float, seed: int) -> list[int]:
    draw = np.random.default_rng(seed)
    return [y if draw.random() < accuracy else int(draw.integers(10)) for y in TRUTH]


def init(path: str, *more: str) -> dict[str, dict[str, object]]:
    """Run `cosup init`; return the sections of the config."""
    assert call(["init", path, "-o", "new.yaml", *more]) == 0
    sections: dict[str, dict[str, object]] = yaml.safe_load(Path("new.yaml").read_text())
    return sections


def is_ready() -> bool:
    return call(["plan", "new.yaml"]) == 0  # with every check of `validate`


@pytest.mark.parametrize(
    ("pattern", "source", "hierarchy"),
    [
        ("my/{y}", "image_folder", {"by": "class", "levels": [1, 4]}),
        ("my/{part}/{y}", "image_folder", {"by": "class", "levels": [1, 4]}),
        ("my/inner/{y}", "image_folder", {"by": "class", "levels": [1, 4]}),
        ("my/{half}/{y}", "domain_folder", {"by": "domain", "levels": [1, 2]}),
    ],
)
def test_folders_tell_classes_and_domains(
    pattern: str, source: str, hierarchy: dict[str, object]
) -> None:
    write_images(pattern)
    made = init("my")
    assert made["data"]["source"] == source
    assert made["teachers"]["hierarchy"] == hierarchy
    assert is_ready()
    samples = survey(Path("my")).samples
    assert samples is not None
    assert len(samples.table) == COUNT
    assert len(samples.classes) == 10


def test_a_link_to_a_folder_above_is_not_followed_for_ever() -> None:
    write_images("my")
    Path("my/again").symlink_to("..", target_is_directory=True)
    Path("my/once").symlink_to(".", target_is_directory=True)
    assert survey(Path("my")).data["root"] == "my"
    Path("my/again").unlink()
    assert survey(Path("my")).data["root"] == "my"


def test_a_folder_of_unlabelled_images_is_no_class() -> None:
    write_images("my/{y}")
    for name in ("x.png", "y.png"):
        Path("my/unlabeled").mkdir(exist_ok=True)
        Image.new("L", (16, 16), ord(name[0])).save(Path("my/unlabeled", name))
    made = init("my")
    assert made["data"]["unlabelled"] == "my/unlabeled"
    assert is_ready()


def test_tables_of_labels_and_of_annotators() -> None:
    write_images("my/scans/{half}")  # these folders are no classes
    paths = [f"{'ab'[number % 2]}/{name}" for number, name in enumerate(NAMES)]
    labels = pd.DataFrame({"sample_id": paths, "label": TRUTH})
    labels[:120].to_csv("my/labels.csv", index=False)
    votes = pd.DataFrame({"task": paths, "ada": answers(0.8, 1), "ben": answers(0.6, 2)})
    votes.to_csv("my/votes.csv", index=False)
    made = init("my")
    assert made["data"]["source"] == "images"
    assert made["data"]["root"] == "my/scans"
    assert made["data"]["labels"] == "my/labels.csv"
    assert made["teachers"]["hierarchy"] is None
    assert made["teachers"]["external"] == [{"annotations": "my/votes.csv"}]
    assert is_ready()


def test_classes_come_from_annotators_where_no_image_has_a_label() -> None:
    write_images("my/scans/{half}")
    paths = [f"{'ab'[number % 2]}/{name}" for number, name in enumerate(NAMES)]
    said = {"ada": answers(0.8, 1), "ben": answers(0.6, 2), "cy": answers(0.5, 3)}
    for name, labels in said.items():  # several tables of one label per image: annotators
        pd.DataFrame({"path": paths, "label": labels})[:150].to_csv(f"my/{name}.csv", index=False)
    made = init("my")
    assert made["data"]["classes"] == [str(digit) for digit in range(10)]
    assert "labels" not in made["data"]
    assert made["teachers"]["external"] == [
        {"annotations": f"my/{name}.csv", "missing": "abstain"} for name in said
    ]
    assert is_ready()


def write_votes(file: str, names: tuple[str, str, str]) -> None:
    """Write a row per answer of two annotators, and when it was given."""
    image, who, said = names
    rows = [
        {"time": f"{name}-{ann}", image: f"scans/{name}", who: ann, said: label}
        for ann, labels in (("ada", answers(0.8, 1)), ("ben", answers(0.6, 2)))
        for name, label in zip(NAMES, labels, strict=True)
    ]
    pd.DataFrame(rows).to_csv(file, index=False)


@pytest.mark.parametrize("labelled", [True, False])
def test_columns_of_any_names_are_found_by_what_they_hold(labelled: bool) -> None:
    write_images("my/scans")
    if labelled:
        truth = pd.DataFrame({"photo": NAMES, "digit": TRUTH})
        truth[:150].to_csv("my/truth.csv", index=False)
    write_votes("my/votes.csv", ("picture", "inspector", "verdict"))
    made = init("my")
    columns = {"sample_id": "picture", "annotator": "inspector", "label": "verdict"}
    assert made["teachers"]["external"] == [{"annotations": "my/votes.csv", "columns": columns}]
    if labelled:
        assert made["data"]["labels"] == "my/truth.csv"
        assert made["data"]["columns"] == {"sample_id": "photo", "label": "digit"}
    else:
        assert made["data"]["classes"] == [str(digit) for digit in range(10)]
    assert is_ready()
    found = survey(Path("my"))
    assert found.labelled == (150 if labelled else 0)
    assert [table.annotators for table in found.tables] == [("ada", "ben")]


@pytest.mark.parametrize(("labelled", "taught"), [(80, True), (40, False)])
def test_labels_teach_the_student_where_they_train_no_teacher(labelled: int, taught: bool) -> None:
    """With enough of them per class for recipes that learn labels to be compared."""
    write_images("my/scans")
    odd = ["odd" if label % 2 else "even" for label in TRUTH]
    labels = pd.DataFrame({"path": NAMES, "label": odd})
    labels[: labelled * 2].to_csv("my/labels.csv", index=False)
    votes = pd.DataFrame({"task": NAMES, "ada": odd, "ben": ["odd"] * COUNT})
    votes.to_csv("my/votes.csv", index=False)
    assert (init("my")["data"]["splits"] != "auto") == taught
    assert is_ready()


def test_a_column_per_annotator_beside_one_of_an_unusual_name() -> None:
    write_images("my/scans")
    votes = pd.DataFrame({"picture": NAMES, "ada": answers(0.8, 1), "ben": answers(0.6, 2)})
    votes.to_csv("my/votes.csv", index=False)
    meta = pd.DataFrame({"picture": NAMES, "camera": "old", "operator": "cy"})
    meta.to_csv("my/meta.csv", index=False)  # they have no value in common: no annotators
    pd.DataFrame({"picture": NAMES, "notes": ""}).to_csv("my/notes.csv", index=False)
    made = init("my")
    entry = {"annotations": "my/votes.csv", "columns": {"sample_id": "picture"}}
    assert made["teachers"]["external"] == [entry]
    assert {path.name for path in survey(Path("my")).left_out} == {"meta.csv", "notes.csv"}
    assert is_ready()


def test_the_first_rows_of_a_table_are_read_once_to_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    write_images("my/images")
    for number in range(2):
        write_votes(f"my/votes{number}.csv", ("picture", "who", "said"))
    read: list[str] = []
    first = survey_module.first_chunk
    monkeypatch.setattr(
        survey_module, "first_chunk", lambda file: read.append(file.name) or first(file)
    )
    assert len(survey(Path("my")).tables) == 2
    assert sorted(read) == ["votes0.csv", "votes1.csv"]


def test_columns_that_could_be_either_are_not_guessed() -> None:
    write_images("my/scans")
    write_votes("my/votes.csv", ("picture", "inspector", "verdict"))
    table = pd.read_csv("my/votes.csv")
    table.assign(camera=table["inspector"]).to_csv("my/votes.csv", index=False)
    assert survey(Path("my")).tables == ()


def test_a_table_of_images_is_a_source() -> None:
    write_images("my")
    table = pd.DataFrame({"path": NAMES, "label": TRUTH, "site": ["s", "t"] * (COUNT // 2)})
    table.to_csv("my/all.csv", index=False)
    assert init("my/all.csv")["data"] == {
        "source": "table",
        "table": "my/all.csv",
        "splits": "auto",
    }
    assert "# group_by: site" in Path("new.yaml").read_text()
    assert is_ready()


def test_what_no_config_can_know_is_to_be_filled_in(capsys: pytest.CaptureFixture[str]) -> None:
    write_images("my")
    made = init("my")
    said = capsys.readouterr().out
    assert "data.classes" in said
    assert "teachers" in said
    assert made["data"] == {"source": "images", "root": "my", "splits": "auto"}
    assert not is_ready()
    pd.DataFrame({"task": NAMES, "worker": "ada", "label": TRUTH}).to_csv("votes.csv", index=False)
    text = Path("new.yaml").read_text()
    text = text.replace("# classes: [cat, dog]", "classes: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]")
    text = text.replace("  # external: ", "  external: ").replace("  #   - {a", "    - {a")
    Path("new.yaml").write_text(text)
    assert is_ready()  # by taking the comments away, as it says


def test_tables_that_do_not_fit_are_named_with_the_reason() -> None:
    write_images("my/scans/{y}")
    pd.DataFrame({"id": ["x", "y"], "label": ["1", "2"]}).to_csv("my/labels.csv", index=False)
    pd.DataFrame({"task": ["no.png"], "worker": ["a"], "label": [3]}).to_csv(
        "my/v.csv", index=False
    )
    found = survey(Path("my"))
    assert found.tables == ()
    assert {path.name for path in found.left_out} == {"labels.csv", "v.csv"}
    assert found.labelled == COUNT


def test_tables_of_earlier_runs_are_not_looked_at() -> None:
    write_images("my/photos/{y}")
    run = Path("my/outputs/first")
    run.mkdir(parents=True)
    (run / ".cosup-run.json").write_text('{"format": 1, "config_hash": ""}')
    said = [f"{label}/{name}" for name, label in zip(NAMES, TRUTH, strict=True)]
    pd.DataFrame({"sample_id": said, "label": TRUTH}).to_csv(run / "labels.csv", index=False)
    assert survey(Path("my")).data == {"source": "image_folder", "root": "my/photos"}
    (run / ".cosup-run.json").unlink()
    assert survey(Path("my")).data["source"] == "images"


def test_models_beside_the_images_are_suggested() -> None:
    write_images("my/{y}")
    Path("my/rules.py").write_text("")
    Path("my/old_one.safetensors").write_bytes(b"")
    init("my")
    text = Path("new.yaml").read_text()
    assert "my/old_one.safetensors" in text
    assert "call:rules:FUNCTION" in text


@pytest.mark.parametrize("path", ["empty", "missing", "new.yaml", "broken.csv"])
def test_bad_folders_are_one_line_and_nothing_is_written(
    path: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("empty").mkdir()
    Path("broken.csv").write_text("image\nx.png\n")
    before = sorted(here.iterdir())
    assert call(["init", path, "-o", "new.yaml"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert sorted(here.iterdir()) == before


def test_an_existing_file_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    write_images("my/{y}")
    Path("new.yaml").write_text("mine")
    assert call(["init", "my", "-o", "new.yaml"]) == 2
    assert "new.yaml" in capsys.readouterr().err
    assert Path("new.yaml").read_text() == "mine"


def test_a_manifest() -> None:
    write_images("my")
    uris = [f"my/{name}" for name in NAMES]
    pd.DataFrame({"id": NAMES, "uri": uris, "label": TRUTH}).to_parquet("all.parquet")
    data = init("all.parquet")["data"]
    assert data == {"source": "manifest", "path": "all.parquet", "splits": "auto"}
    assert is_ready()
