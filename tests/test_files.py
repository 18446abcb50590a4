"""A file is whole or not there, and a full disk is named."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from cosup.errors import RunError
from cosup.files import discard, disk_errors, save_tensors, sweep, write_atomic, write_json


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "f"
    write_atomic(path, b"one")

    def half(temporary: Path) -> None:
        temporary.write_bytes(b"tw")
        raise RuntimeError("cut")

    with pytest.raises(RuntimeError, match="cut"):
        write_atomic(path, half)
    assert [p.name for p in path.parent.iterdir()] == ["f"]
    assert path.read_bytes() == b"one"


def test_discarding_takes_what_killed_writers_left_and_nothing_else(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a[0].state", b"one")
    for name in (".a[0].state.12.cosup-tmp", ".a[0].state.13.cosup-tmp", ".a0.state.1.cosup-tmp"):
        (tmp_path / name).write_bytes(b"half")
    discard(tmp_path / "a[0].state")
    assert tree_names(tmp_path) == [".a0.state.1.cosup-tmp"]
    discard(tmp_path / "a[0].state")


def test_a_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    write_atomic(path, b"one")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=f"disk full: cannot write {path}"):
        write_atomic(path, b"two")
    assert tree_names(tmp_path) == ["f"]
    assert path.read_bytes() == b"one"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_device_that_is_really_full() -> None:
    with pytest.raises(RunError, match="disk full"), disk_errors(Path("/dev/full")):
        Path("/dev/full").write_bytes(b"x" * 10_000)


def test_a_full_disk_under_safetensors_and_other_errors(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="disk full"), disk_errors(tmp_path):
        raise SafetensorError("I/O error: No space left on device (os error 28)")
    with pytest.raises(SafetensorError), disk_errors(tmp_path):
        raise SafetensorError("something else")
    with pytest.raises(PermissionError), disk_errors(tmp_path):
        raise PermissionError(errno.EACCES, "no")


def test_json_has_no_numbers_that_json_lacks(tmp_path: Path) -> None:
    write_json(tmp_path / "f.json", {"a": [float("nan"), 0.1], "é": (float("inf"),)})
    assert json.loads((tmp_path / "f.json").read_text()) == {"a": [None, 0.1], "é": [None]}


def test_tensors_are_read_back(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    save_tensors(tmp_path / "t.safetensors", {"a": whole.T, "b": whole[1:]}, {"kind": "test"})
    back = load_file(tmp_path / "t.safetensors")
    assert torch.equal(back["a"], whole.T)
    assert torch.equal(back["b"], whole[1:])


def test_tensors_may_be_read_by_those_who_may_read_the_rest(tmp_path: Path) -> None:
    save_tensors(tmp_path / "t.safetensors", {"a": torch.zeros(1)})
    (tmp_path / "plain").touch()
    assert (tmp_path / "t.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_sweep_removes_only_what_was_being_written(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in (".f.12.cosup-tmp", "sub/.g.1.cosup-tmp", "keep.tmp", ".hidden"):
        (tmp_path / name).write_text("")
    sweep(tmp_path)
    assert tree_names(tmp_path) == [".hidden", "keep.tmp"]


def tree_names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("*") if p.is_file())
