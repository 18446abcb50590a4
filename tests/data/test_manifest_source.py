"""`data.source: manifest`: Parquet and tar files that name images, on this machine and at URIs."""

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pytest
from helpers.row_groups import first_rows_held, texts
from helpers.user_errors import error_of, key_of
from PIL import Image

from cosup.cli import call
from cosup.data import storage
from cosup.data.images import BrokenImage
from cosup.data.load import load_data
from cosup.data.section import DataSection
from cosup.data.sources import SOURCES, Collection, manifest_rows
from cosup.data.sources.manifest import Manifest, prefixes
from cosup.data.sources.manifest_rows import Rows
from cosup.errors import RunError

Digit = Callable[[int, int], Image.Image]
CONFIGS = Path(__file__).parents[2] / "configs"
COUNT = 12


def load(path: object, **settings: Any) -> Collection:
    section = DataSection.model_validate({"source": "manifest", "path": str(path), **settings})
    return SOURCES.build(section.source).load()


def png(image: Image.Image) -> bytes:
    target = io.BytesIO()
    image.save(target, "png")
    return target.getvalue()


@pytest.fixture
def images(tmp_path: Path, digit: Digit) -> pd.DataFrame:
    """Write digits 0 and 1 below tmp_path/images; return the rows of their manifest."""
    (tmp_path / "images").mkdir()
    for n in range(COUNT):
        digit(n % 2, n // 2).save(tmp_path / f"images/{n}.png")
    return pd.DataFrame(
        {
            "id": [f"scan {n}" for n in range(COUNT)],
            "uri": [f"images/{n}.png" for n in range(COUNT)],
            "label": [n % 2 for n in range(COUNT)],
            "domain": ["ink" if n < 6 else "pencil" for n in range(COUNT)],
            "split": ["teacher_train", "student_train", "test"] * 4,
        }
    )


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[str]:
    """A URI of a folder in fsspec's memory."""
    store = fsspec.filesystem("memory")
    yield f"memory://{tmp_path.name}"
    store.rm(f"/{tmp_path.name}", recursive=True)


def tar_of(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def same_pixels(found: Collection, index: int, image: Image.Image) -> bool:
    return bool((np.asarray(found.images.read(index)) == np.asarray(image.convert("RGB"))).all())


def test_rows_are_samples(tmp_path: Path, images: pd.DataFrame, digit: Digit) -> None:
    images.to_parquet(tmp_path / "all.parquet")
    found = load(tmp_path / "all.parquet")
    assert found.table["sample_id"].tolist() == images["id"].tolist()
    assert found.classes == ("0", "1")
    assert found.domains == ("ink", "pencil")
    assert found.table["label"].tolist() == images["label"].tolist()
    assert found.table["split"].tolist() == images["split"].tolist()
    assert all(same_pixels(found, n, digit(n % 2, n // 2)) for n in range(COUNT))


@pytest.mark.parametrize("form", ["folder", "glob", "file uri", "glob uri"])
def test_several_files_are_one_manifest(tmp_path: Path, images: pd.DataFrame, form: str) -> None:
    images[:5].to_parquet(tmp_path / "part-0.parquet")
    images[5:].to_parquet(tmp_path / "part-1.parquet")
    (tmp_path / "notes.txt").write_text("no part of it")
    images.to_parquet(tmp_path / ".hidden.parquet")
    path = {"folder": "", "glob": "/part-*.parquet", "glob uri": "/part-[01].parquet"}.get(form, "")
    found = load(f"file://{tmp_path}{path}" if "uri" in form else f"{tmp_path}{path}")
    assert found.table["sample_id"].tolist() == images["id"].tolist()
    assert found.images.read(7).size == (8, 8)


def test_columns_of_other_names(tmp_path: Path, images: pd.DataFrame) -> None:
    others = images.rename(columns={"id": "key", "uri": "file", "label": "class", "split": "label"})
    others.to_parquet(tmp_path / "all.parquet")
    columns = {"id": "key", "uri": "file", "label": "class", "split": None, "domain": None}
    found = load(tmp_path / "all.parquet", columns=columns)
    assert found.table["sample_id"].tolist() == images["id"].tolist()
    assert found.table["label"].tolist() == images["label"].tolist()
    assert set(found.table["split"]) == {""}
    assert found.domains == ("all",)


def test_the_uri_is_enough(tmp_path: Path, images: pd.DataFrame) -> None:
    images[["uri"]].to_parquet(tmp_path / "all.parquet")
    found = load(tmp_path / "all.parquet", classes=["zero", "one"])
    assert found.table["sample_id"].tolist() == images["uri"].tolist()
    assert set(found.table["label"]) == {-1}


def test_a_row_group_is_not_held_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest_rows, "ROWS", 1000)
    monkeypatch.setattr(manifest_rows, "COLUMN_BYTES", 2**17)
    path = tmp_path / "rows.parquet"
    section = DataSection.model_validate({"source": "manifest", "path": str(path)})

    def read() -> Iterator[Rows]:
        source = SOURCES.build(section.source)
        assert isinstance(source, Manifest)
        (file,) = source.files()
        return file.rows()

    rows, held = first_rows_held(path, "uri", read)
    assert rows.texts["uri"] == texts(1000)
    assert held < 50


def test_labels_that_are_missing(tmp_path: Path, images: pd.DataFrame) -> None:
    labels = images["label"].astype("float64").where(images["split"] != "student_train")
    images.assign(label=labels).to_parquet(tmp_path / "all.parquet")
    found = load(tmp_path / "all.parquet")
    assert found.classes == ("0", "1"), "whole numbers beside gaps have no decimals"
    unknown = found.table["label"] < 0
    assert (unknown == (images["split"] == "student_train")).all()


def test_images_at_uris(tmp_path: Path, images: pd.DataFrame, memory: str, digit: Digit) -> None:
    store = fsspec.filesystem("memory")
    for n in range(COUNT):
        store.pipe(f"/{tmp_path.name}/images/{n}.png", png(digit(n % 2, n // 2)))
    target = io.BytesIO()
    images.to_parquet(target)
    store.pipe(f"/{tmp_path.name}/all.parquet", target.getvalue())
    found = load(f"{memory}/all.parquet")
    assert found.images.where(3) == f"{memory}/images/3.png"
    assert all(same_pixels(found, n, digit(n % 2, n // 2)) for n in range(COUNT))
    # A local manifest may name images elsewhere.
    images.to_parquet(tmp_path / "local.parquet")
    found = load(tmp_path / "local.parquet", root=memory)
    assert same_pixels(found, 3, digit(1, 1))


def test_shards_of_webdataset(tmp_path: Path, digit: Digit) -> None:
    for shard in range(2):
        members: dict[str, bytes] = {}
        for n in range(3):
            number = shard * 3 + n
            members[f"{n:04d}.png"] = png(digit(number % 2, number // 2))
            if shard == 0:
                members[f"{n:04d}.cls"] = f"{number % 2}\n".encode()
            else:
                said = {"label": number % 2, "split": "test", "url": "elsewhere"}
                members[f"{n:04d}.json"] = json.dumps(said).encode()
        tar_of(tmp_path / f"set-{shard}.tar", members)
    found = load(tmp_path / "set-*.tar")
    assert found.table["sample_id"].tolist() == [
        f"set-{shard}/{n:04d}" for shard in range(2) for n in range(3)
    ]
    assert found.table["label"].tolist() == [0, 1, 0, 1, 0, 1]
    assert found.table["split"].tolist() == [""] * 3 + ["test"] * 3
    assert found.domains == ("all",)
    assert all(same_pixels(found, n, digit(n % 2, n // 2)) for n in range(6))
    assert found.images.where(4).endswith("set-1.tar/0001.png")


CUTS = {
    "between members": (lambda tar: tar[: 3 * 2048], "cut off"),
    "within a header": (lambda tar: tar[: 3 * 2048 + 100], "cut off"),
    "within an image": (lambda tar: tar[: 2 * 2048 + 1000], "unexpected end"),
    "a damaged header": (lambda tar: tar[: 2 * 2048] + b"\xff" * 99 + tar[2 * 2048 + 99 :], "4096"),
}
"""Changes of a tar file of four members of 2048 bytes, their headers included, and what is told."""


@pytest.mark.parametrize(("change", "said"), CUTS.values(), ids=CUTS)
def test_a_tar_file_that_is_cut_or_damaged_is_refused(
    tmp_path: Path, change: Callable[[bytes], bytes], said: str
) -> None:
    """`tarfile` would end there without a word, and the rest of the samples were missing."""
    path = tmp_path / "set.tar"
    tar_of(path, {f"{n}.png": bytes(1536) for n in range(4)})
    assert len(load(path, classes=["a"]).table) == 4
    path.write_bytes(change(path.read_bytes()))
    error = error_of(load, path, classes=["a"])
    assert (key_of(error), error.value) == ("path", str(path))
    assert said in str(error)


@pytest.mark.parametrize(("name", "content"), [("1.json", b'{"x'), ("1.cls", b"\xff")])
def test_a_damaged_label_in_a_tar_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    tar_of(tmp_path / "set.tar", {"0.png": b"", "0.cls": b"a", "1.png": b"", name: content})
    error = error_of(load, tmp_path / "set.tar")
    assert key_of(error) == "path"
    assert f"its member '{name}' is no " in str(error)


def test_tar_files_are_told_apart_by_their_folders() -> None:
    assert prefixes(["s3://b/a/0.tar", "s3://b/a/1.tar"]) == ["0/", "1/"]
    assert prefixes(["/a/x/0.tar", "/a/y/0.tar"]) == ["x/0/", "y/0/"]
    assert prefixes(["/a/x/0.tar"]) == ["0/"]


def test_missing_and_broken_images_are_set_aside(
    tmp_path: Path, images: pd.DataFrame, memory: str
) -> None:
    uris = images["uri"].tolist()
    uris[1], uris[2] = "images/none.png", f"{memory}/none.png"
    (tmp_path / "images/3.png").write_bytes(b"no image")
    images.assign(uri=uris, split="").to_parquet(tmp_path / "all.parquet")
    fsspec.filesystem("memory").mkdir(f"/{tmp_path.name}")
    section = DataSection.model_validate(
        {"source": "manifest", "path": str(tmp_path / "all.parquet"), "max_broken": 0.5}
    )
    data = load_data(section, seed=0, workers=2, cache=None)
    assert data.broken == ("scan 1", "scan 2", "scan 3")
    assert len(data) == COUNT - 3


def test_a_storage_that_fails_in_passing_is_asked_again(
    tmp_path: Path, images: pd.DataFrame, memory: str, digit: Digit, monkeypatch: pytest.MonkeyPatch
) -> None:
    images.assign(uri=f"{memory}/a.png").to_parquet(tmp_path / "all.parquet")
    fsspec.filesystem("memory").pipe(f"/{tmp_path.name}/a.png", png(digit(0, 0)))
    found = load(tmp_path / "all.parquet")
    asked, waits, works = [], [], storage.remote.file_system

    def fails(uri: str) -> tuple[Any, str]:
        asked.append(uri)
        if len(asked) < limit:
            raise OSError("slow down")
        return works(uri)

    monkeypatch.setattr(storage.remote, "file_system", fails)
    monkeypatch.setattr(storage.time, "sleep", waits.append)
    limit = 3
    assert same_pixels(found, 0, digit(0, 0))
    assert (len(asked), waits) == (3, [0.5, 1.0])
    # A storage that is down is no broken image, and ends the run.
    limit = 1000
    with pytest.raises(RunError, match="slow down"):
        found.images.read(0)


def test_an_unknown_scheme_is_a_broken_image(tmp_path: Path, images: pd.DataFrame) -> None:
    images.assign(uri="nowhere://a.png").to_parquet(tmp_path / "all.parquet")
    with pytest.raises(BrokenImage, match="nowhere"):
        load(tmp_path / "all.parquet").images.read(0)


def test_the_fingerprint_changes_with_the_images_and_the_manifest(
    tmp_path: Path, images: pd.DataFrame
) -> None:
    path, order = tmp_path / "all.parquet", np.arange(COUNT)
    images.to_parquet(path)
    first = load(path).images.fingerprint(order)
    assert load(path).images.fingerprint(order) == first
    assert load(path).images.fingerprint(order[::-1]) != first
    (tmp_path / "images/3.png").write_bytes(b"changed")
    second = load(path).images.fingerprint(order)
    assert second != first
    images[::-1].to_parquet(path)
    assert load(path).images.fingerprint(order[::-1]) != second


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"path": "none.parquet"}, "path"),
        ({"path": "images"}, "path"),
        ({"path": "all.csv"}, "path"),
        ({"path": "damaged.parquet"}, "path"),
        ({"path": "damaged.tar"}, "path"),
        ({"path": "*.*"}, "path"),
        ({"path": "nowhere://bucket/all.parquet"}, "path"),
        ({"path": "all.parquet", "columns": {"uri": "path"}}, "columns.uri"),
        ({"path": "all.parquet", "columns": {"label": "lable"}}, "columns.label"),
        ({"path": "twice.parquet"}, "path"),
    ],
)
def test_mistakes(tmp_path: Path, images: pd.DataFrame, settings: dict[str, Any], key: str) -> None:
    images.to_parquet(tmp_path / "all.parquet")
    images.assign(id="same").to_parquet(tmp_path / "twice.parquet")
    images.to_csv(tmp_path / "all.csv")
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "damaged.tar").write_bytes(b"no tar" * 1000)
    path = settings["path"]
    path = path if "://" in path else str(tmp_path / path)
    error = error_of(load, **{**settings, "path": path})
    assert key_of(error) == key


def test_unknown_keys_of_columns_are_mistakes() -> None:
    given = {"source": "manifest", "path": "a.parquet", "columns": {"labels": "x"}}
    with pytest.raises(ValueError, match="labels"):
        DataSection.model_validate(given)


def test_a_run_of_the_shipped_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines in the config's comment write its data, and a run of it ends."""
    monkeypatch.chdir(tmp_path)
    comment = (CONFIGS / "digits_manifest.yaml").read_text().split("\n\n")[0]
    lines = [line.removeprefix("#     ") for line in comment.splitlines() if "#     " in line]
    exec("\n".join(lines), {})
    small = [
        "teachers.training.steps=100",
        "student.backbone={name: test_resnet, weights: null, image_size: 32}",
        "student.training.steps=50",
        "rounds.choose=null",
        "controls=[team]",
        "data.limit=600",
    ]
    assert call(["run", "digits_manifest", *small]) == 0
    summary = json.loads((tmp_path / "outputs/digits_manifest/summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["controls"]["team"]["accuracy"] > 0.4
