"""Shifted test sets: which samples they have, and with which classes, labels and pixels."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.user_errors import error_of, key_of, section_error_of

from cosup.data.corruptions import CORRUPTIONS, corrupt
from cosup.data.load import load_data
from cosup.data.section import DataSection
from cosup.data.shifted import ShiftedSection
from cosup.data.shifted_sets import with_shifted
from cosup.data.table import ImageData
from cosup.errors import RunError
from cosup.runs.check_config import check_data_files

SHARES = {"teacher_train": 0.3, "student_train": 0.3, "test": 0.4}


def section_of(root: Path, shifted: dict[str, Any], **more: Any) -> DataSection:
    data = {"source": "image_folder", "root": str(root), "splits": SHARES, "shifted": shifted}
    return DataSection.model_validate({**data, **more})


def load(root: Path, shifted: dict[str, Any], **more: Any) -> ImageData:
    section = section_of(root, shifted, **more)
    return with_shifted(load_data(section, 0, 1, None), section, 0, 1, None)


def test_the_test_split_is_corrupted_sample_by_sample(
    tmp_path: Path, class_folder: Callable[..., Path]
) -> None:
    root = class_folder(tmp_path / "own", classes=(0, 1, 2))
    sets = {kind: {"corruption": kind, "strength": 2} for kind in CORRUPTIONS}
    data = load(root, sets)
    plain = load(root, {})
    assert data.table.equals(plain.table)
    assert data.fingerprint == plain.fingerprint
    rows = data.rows("test")
    assert len({data.fingerprint, *(part.fingerprint for part in data.shifted.values())}) == 5
    for kind, part in data.shifted.items():
        assert part.sample_ids(part.rows("test")) == data.sample_ids(rows)
        assert part.truth(part.rows("test")).labels.equal(data.truth(rows).labels)
        for place, row in enumerate(rows[:3]):
            name = data.sample_ids(rows)[place]
            wanted = corrupt(data.read(int(row)), kind, 2, name)
            assert np.array_equal(np.asarray(part.read(place)), np.asarray(wanted))


def test_classes_are_matched_by_name_and_others_left_out(
    tmp_path: Path, class_folder: Callable[..., Path]
) -> None:
    own = class_folder(tmp_path / "own", classes=(1, 2, 3), count=10)
    other = class_folder(tmp_path / "other", classes=(0, 2, 3, 7), count=4, start=20)
    source = {"name": "image_folder", "root": str(other)}
    data = load(own, {"elsewhere": {"source": source}, "few": {"source": source, "limit": 6}})
    found = data.shifted["elsewhere"]
    assert found.classes == data.classes == ("1", "2", "3")
    assert len(found) == 8
    for row, label in zip(found.sample_ids(np.arange(8)), found.table["label"], strict=True):
        assert row.startswith(found.classes[label])
    assert len(data.shifted["few"]) <= 6
    texts = [note.text for note in data.notes]
    assert any("elsewhere" in text and "8" in text for text in texts)


def test_another_process_lists_the_same_samples_without_reading_images(
    tmp_path: Path, class_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = class_folder(tmp_path / "own", classes=(1, 2, 3), count=10)
    other = class_folder(tmp_path / "other", classes=(2, 3), count=4, start=20)
    first = sorted((other / "2").iterdir())[0]
    first.write_bytes(b"no image")
    sets = {
        "elsewhere": {"source": {"name": "image_folder", "root": str(other)}},
        "noisy": {"corruption": "noise"},
    }
    data, section = load(own, sets, max_broken=0.5), section_of(own, sets, max_broken=0.5)
    facts = data.known().shifted
    assert len(data.shifted["elsewhere"]) == 7
    for path in other.rglob("*.png"):
        os.utime(path, ns=(1, 1))  # as on another machine
    monkeypatch.setattr("cosup.data.images.Image", None)
    again = with_shifted(data, section, 0, 1, None, facts)
    for name, part in data.shifted.items():
        found = again.shifted[name]
        assert found.table.equals(part.table)
        assert found.fingerprint == part.fingerprint
        assert data.part(f"shifted-{name}")[0] is part
    sorted((other / "3").iterdir())[0].unlink()
    with pytest.raises(RunError, match=r"data\.shifted\.elsewhere: the 6 samples"):
        with_shifted(data, section, 0, 1, None, facts)


def test_a_split_of_the_source_is_one_set(
    tmp_path: Path, class_folder: Callable[..., Path]
) -> None:
    own = class_folder(tmp_path / "own")
    for number, part in enumerate(("train", "test")):
        class_folder(tmp_path / "other" / part, count=3, start=20 + 3 * number)
    source = {"name": "image_folder", "root": str(tmp_path / "other")}
    data = load(own, {"late": {"source": source, "split": "test"}})
    names = data.shifted["late"].sample_ids(np.arange(6))
    assert all(name.startswith("test/") for name in names)
    shifted = {"late": {"source": source, "split": "tost"}}
    found = error_of(load, own, shifted)
    assert key_of(found) == "data.shifted.late.split"


def test_a_set_without_a_class_of_the_run_is_refused(
    tmp_path: Path, class_folder: Callable[..., Path]
) -> None:
    own = class_folder(tmp_path / "own")
    other = class_folder(tmp_path / "other", classes=(5, 6))
    source = {"name": "image_folder", "root": str(other)}
    found = error_of(load, own, {"elsewhere": {"source": source}})
    assert key_of(found) == "data.shifted.elsewhere.source"
    source = {"name": "image_folder", "root": str(tmp_path / "none")}
    found = error_of(load, own, {"elsewhere": {"source": source}})
    assert key_of(found) == "data.shifted.elsewhere.source.root"


def test_validate_looks_for_the_folders(tmp_path: Path) -> None:
    source = {"name": "image_folder", "root": str(tmp_path / "none")}
    given = {"source": "digits", "shifted": {"elsewhere": {"source": source}}}
    found = error_of(check_data_files, DataSection.model_validate(given))
    assert key_of(found) == "data.shifted.elsewhere.source.root"


@pytest.mark.parametrize(
    ("settings", "key"), [({}, "source"), ({"corruption": "blur", "split": "test"}, "split")]
)
def test_settings_that_shift_nothing_are_refused(settings: dict[str, Any], key: str) -> None:
    assert key_of(section_error_of(ShiftedSection.model_validate, settings)) == key


def test_episodes_have_no_shifted_sets() -> None:
    given = {
        "source": "digits",
        "few_shot": {"novel": 3},
        "shifted": {"noisy": {"corruption": "noise"}},
    }
    assert key_of(section_error_of(DataSection.model_validate, given)) == "shifted"
