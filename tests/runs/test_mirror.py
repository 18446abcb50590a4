"""A run at a URI is copied completely, and another machine can resume it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
import yaml
from safetensors.torch import load_file

import cosup.runs.pipeline  # noqa: F401  (loaded, so that conftest.py leaves out its reports)
from cosup import remote
from cosup.config import Config, check_config
from cosup.errors import RunError, UserError
from cosup.layout import LOCK, MARKER, Layout
from cosup.manifest import MANIFEST
from cosup.remote import listing
from cosup.remote_copy.session import writer_of
from cosup.runs import mirror, run_config, staging
from cosup.runs.directory import RunDirectory
from cosup.runs.mirror import mirrored
from cosup.runs.planning import _run
from cosup.runs.staging import SESSION, Staging, staging_root

HERE = Path(__file__).parent
TINY = """
run: {name: tiny}
data:
  source: digits
  limit: 200
  splits: {teacher_train: 0.3, student_train: 0.4, test: 0.3}
teachers:
  hierarchy: {by: class, levels: [2]}
  model: {name: linear_pixels, image_size: 8}
  training: {steps: 20, batch_size: 16}
student:
  mode: finetune
  backbone: {name: cifar_resnet8, weights: null, image_size: 8}
  training: {steps: 16, batch_size: 16, lr: 0.01, save_every: 2}
rounds: {min_kept: 0}
controls: [best_teacher]
execution: {shard_size: 32, threads: 1}
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use a temporary staging folder and no pause between retries."""
    monkeypatch.setenv("COSUP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(mirror, "PAUSES", (0.0, 0.0))
    return tmp_path / "cache"


@pytest.fixture(params=["file", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Yield a run's URI with spaces and other scripts in its name."""
    if request.param == "file":
        yield f"file://{tmp_path}/far away/ein Läufer 走"
        return
    yield f"memory://{tmp_path.name}/far away/ein Läufer 走"
    memory = fsspec.filesystem("memory")
    if memory.exists(f"/{tmp_path.name}"):
        memory.rm(f"/{tmp_path.name}", recursive=True)


def tiny(cache: Path) -> Config:
    config: dict[str, Any] = yaml.safe_load(TINY)
    config["execution"]["cache"] = str(cache)
    return check_config(config)


def config(**rounds: Any) -> Config:
    sections = {"data": {"source": "digits"}, "student": {"backbone": {"name": "resnet18"}}}
    return check_config({**sections, "rounds": rounds})


def switch_machine(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Simulate another machine by another staging folder."""
    monkeypatch.setenv("COSUP_CACHE", str(folder))


def names(uri: str) -> set[str]:
    return set(listing(uri)) - {SESSION, MANIFEST, Layout(Path()).log.name}


def write(path: Path, stage: str, **flags: bool) -> None:
    with RunDirectory.open(path, config(), **flags) as run:
        (run.folder(run.files.teachers.folder) / f"{stage}.bin").write_bytes(stage.encode())
        run.finish(stage)


def run(place: str, stage: str, **flags: bool) -> None:
    with mirrored(place, **flags) as path:
        write(path, stage, **flags)


def read(place: str, name: str, tmp_path: Path) -> str:
    assert remote.get(remote.join(place, name), tmp_path / "read")
    return (tmp_path / "read").read_text()


STOPPED = """
import os, signal, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_mirror import tiny
from cosup.models.loop_state import StateFile
from cosup.runs import mirror, run_config, staging
place, states = sys.argv[2], Path(sys.argv[2].removeprefix("file://")) / "checkpoints" / "training"

def stop_after(states_, step, write, save=StateFile.save):
    save(states_, step, write)
    if states_.path.parent.name == states.name:
        states_.wait()
        while not list(states.glob("*.state")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGSTOP)

mirror.EVERY, staging.SLACK, StateFile.save = 0.01, 0, stop_after
with mirror.mirrored(place) as path:
    run_config(tiny(Path(sys.argv[3])), path)
"""


@pytest.mark.slow
def test_a_run_killed_in_a_training_is_resumed_on_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy is complete and equals a run in a local directory.

    While the first run is alive, a second one is refused on this machine.
    """
    place, whole, far = f"file://{tmp_path}/far/tiny", tmp_path / "whole", tmp_path / "far" / "tiny"
    command = [sys.executable, "-c", STOPPED, str(HERE), place, str(tmp_path / "features-1")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as other:
        run_config(tiny(tmp_path / "features-2"), whole)
        _, status = os.waitpid(other.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), other.communicate()[1]
        for flags in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(UserError, match=f"another run .process {other.pid}.; wait"):
                run(place, "one", **flags)
        other.kill()
    assert list(far.glob("checkpoints/training/*.state"))
    assert not (far / "summary.json").exists()

    switch_machine(monkeypatch, tmp_path / "other")
    with mirrored(place, resume=True) as path:
        run_config(tiny(tmp_path / "features-3"), path, resume=True)
    assert "resuming from" in (far / "log.txt").read_text()
    assert not (far / "checkpoints" / "training").exists()
    assert not path.exists(), "a finished run leaves nothing behind"
    here = {str(p.relative_to(whole)): p for p in whole.rglob("*") if p.is_file()}
    there = {str(p.relative_to(far)): p for p in far.rglob("*") if p.is_file()}
    assert set(there) - set(here) - {SESSION} == {n for n in there if "tfevents" in n}
    assert set(here) - set(there) - {LOCK} == {n for n in here if "tfevents" in n}
    for name in set(here) & set(there):
        if name.endswith(".parquet"):
            assert there[name].read_bytes() == here[name].read_bytes(), name
        elif name.endswith(".safetensors"):  # whose header has no order
            tensors = load_file(there[name])
            assert all(torch.equal(t, tensors.pop(k)) for k, t in load_file(here[name]).items())
            assert not tensors
    summaries = [json.loads((p / "summary.json").read_text()) for p in (whole, far)]
    for summary in summaries:
        del summary["seconds"], summary["peak_rss_mb"]
    assert summaries[0] == summaries[1]


def test_a_local_path_is_unchanged(tmp_path: Path, cache: Path) -> None:
    with mirrored(str(tmp_path / "r")) as path:
        assert path == tmp_path / "r"
    assert not path.exists()
    assert not cache.exists()
    assert staging_root(str(tmp_path)) == tmp_path


def test_a_new_run_is_copied_and_its_staging_folder_removed(place: str, cache: Path) -> None:
    run(place, "one")
    assert names(place) == {MARKER, "config.yaml", "teachers/one.bin", "stages/one.json"}
    assert not [p for p in cache.rglob("*") if p.is_file() and p.suffix != ".lock"]


def test_an_existing_run_is_refused_and_unchanged(place: str, tmp_path: Path) -> None:
    run(place, "one")
    before = listing(place)
    with pytest.raises(UserError, match="exists and is not empty; --resume continues") as caught:
        run(place, "two")
    assert str(caught.value).startswith(f"run directory {place}: ")
    with pytest.raises(UserError, match="exclude each other"):
        run(place, "two", resume=True, overwrite=True)
    assert listing(place) == before


@pytest.mark.parametrize("flags", [{}, {"resume": True}, {"overwrite": True}])
def test_other_folders_are_never_modified(
    place: str, tmp_path: Path, flags: dict[str, bool]
) -> None:
    (tmp_path / "mine").write_text("mine")
    remote.put(tmp_path / "mine", remote.join(place, "config.yaml"))
    with pytest.raises(UserError, match=r"other files|is none"):
        run(place, "one", **flags)
    assert listing(place) == {"config.yaml": 4}


def test_resuming_on_another_machine_fetches_the_run(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(place, "one")
    switch_machine(monkeypatch, tmp_path / "other")
    run(place, "two", resume=True)
    assert {"stages/one.json", "stages/two.json", "teachers/one.bin"} <= names(place)
    switch_machine(monkeypatch, tmp_path / "third")
    with mirrored(place, resume=True) as path:
        assert (path / "teachers" / "two.bin").read_text() == "two"


def test_resume_without_a_run_starts_one(place: str) -> None:
    run(place, "one", resume=True)
    assert "stages/one.json" in names(place)


def test_overwrite_replaces_all_files(place: str) -> None:
    run(place, "one")
    run(place, "two", overwrite=True)
    assert names(place) == {MARKER, "config.yaml", "teachers/two.bin", "stages/two.json"}


def test_another_config_is_refused_with_the_uri(place: str) -> None:
    run(place, "one")
    before = names(place)
    with (
        pytest.raises(UserError, match=r'rounds\.repeat: "auto" -> 3') as caught,
        mirrored(place, resume=True) as path,
        RunDirectory.open(path, config(repeat=3), resume=True),
    ):
        pytest.fail("opened")
    assert str(caught.value).startswith(f"run directory {place}: ")
    assert names(place) == before


def test_an_early_mistake_leaves_nothing(place: str, cache: Path) -> None:
    with (
        pytest.raises(UserError, match="no such folder"),
        mirrored(place) as path,
        RunDirectory.open(path, config()),
    ):
        raise UserError("data.root: no such folder")
    assert listing(place) == {}
    assert not [p for p in cache.rglob("*") if p.is_file() and p.suffix != ".lock"]


def test_a_failed_run_is_copied_and_its_note_names_the_uri(place: str, tmp_path: Path) -> None:
    def interrupted() -> None:
        with mirrored(place) as path, RunDirectory.open(path, config()) as opened:
            opened.finish("one")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        interrupted()
    assert caught.value.__notes__ == [f"finished work is kept in {place}"]
    assert "interrupted" in read(place, "log.txt", tmp_path)
    assert "stages/one.json" in names(place)


class BreakableStore:
    """Store whose writes fail while `broken` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.broken = False
        self.puts: list[str] = []
        self._put = remote.put
        monkeypatch.setattr(staging, "put", self.put)

    def put(self, file: Path, uri: str) -> None:
        if self.broken:
            raise RunError(f"{uri}: can't be written (no route)")
        self.puts.append(uri)
        self._put(file, uri)


def test_a_run_that_cannot_be_copied_is_kept_and_copied_on_resume(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = BreakableStore(monkeypatch)
    path = staging_root(remote.split(place)[0]) / remote.split(place)[1]

    def fail() -> None:
        with mirrored(place) as path:
            write(path, "one")
            store.broken = True

    with pytest.raises(RunError, match="nothing is lost") as caught:
        fail()
    assert "no route" in str(caught.value)
    assert str(path) in str(caught.value)
    assert (path / "stages" / "one.json").exists()
    with pytest.raises(UserError, match="--resume continues"):
        run(place, "two")
    store.broken = False
    with mirrored(place, resume=True) as again:
        assert again == path
    assert {"stages/one.json", "teachers/one.bin"} <= names(place)


def test_a_failed_run_that_cannot_be_copied_reports_both_errors(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = BreakableStore(monkeypatch)

    def fail() -> None:
        with mirrored(place) as path:
            write(path, "one")
            store.broken = True
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        fail()
    assert "finished work is kept in /" in caught.value.__notes__[-1]
    assert "no route" in caught.value.__notes__[-1]


def test_failed_copies_during_a_run_are_warnings(
    place: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mirror, "EVERY", 0.01)
    monkeypatch.setattr(staging, "SLACK", 0)
    caplog.set_level("INFO", "cosup")
    store = BreakableStore(monkeypatch)
    with mirrored(place) as path:
        store.broken = True
        write(path, "one")
        wait_for(lambda: "no route" in caplog.text)
        store.broken = False
        wait_for(lambda: "stages/one.json" in names(place))
        wait_for(lambda: "up to date again" in caplog.text)
    assert len([r for r in caplog.records if "no route" in r.message]) < 5


def wait_for(what: Any) -> None:
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_removed_files_are_removed_from_the_copy(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mirrored(place) as path:
        kept = Staging(place, path, tmp_path / "record.json")
        kept.sign()
        state = path / "checkpoints" / "training" / "x.state"
        state.parent.mkdir(parents=True)
        state.write_text("step 2")
        (path / ".x.1.cosup-tmp").write_text("half")
        (path / LOCK).write_text("1")
        kept.push(last=True)
        assert names(place) == {"checkpoints/training/x.state"}
        state.unlink()
        kept.push(last=True)
        assert listing(place).keys() == {SESSION}
        if place.startswith("file"):
            assert not Path(place.removeprefix("file://"), "checkpoints", "training").exists()
        remote.put(path / LOCK, remote.join(place, "checkpoints/training/of-a-worker.state"))
        kept.push(last=True)
        assert names(place) == {"checkpoints/training/of-a-worker.state"}
        kept.push(last=True, finished=True)
        assert names(place) == set()
        Staging(place, path, next(path.parent.glob(f"{SESSION}/*.json"))).sign()


def test_files_are_copied_in_the_order_of_writing(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The marker is first and the summary last.

    Very recent files wait, because they may depend on a file that the listing has missed.
    """
    store = BreakableStore(monkeypatch)
    staged = Staging(place, tmp_path / "here", tmp_path / "record.json")
    staged.path.mkdir()
    staged.sign()
    order = ["z", "summary.json", "b/a", "a", "stages/one.json", MARKER, "b/manifest.json"]
    for name in order:
        (staged.path / name).parent.mkdir(exist_ok=True)
        (staged.path / name).write_text(name)
        time.sleep(0.02)
    monkeypatch.setattr(staging, "SLACK", 10**12)
    store.puts.clear()
    staged.push()
    assert store.puts == []
    monkeypatch.setattr(staging, "SLACK", 0)
    staged.push()
    expected = [MARKER, "b/manifest.json", "z", "b/a", "a", "stages/one.json", "summary.json"]
    assert store.puts == [remote.join(place, name) for name in expected]
    store.puts.clear()
    os.link(staged.path / "a", staged.path / "linked")
    (staged.path / "z").write_text("new")
    staged.push(last=True)
    assert store.puts == [remote.join(place, name) for name in ("linked", "z")]


def test_a_machine_that_lost_the_run_stops_copying(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose_the_run() -> None:
        with mirrored(place) as path:
            write(path, "one")
            Staging(place, path, next(path.parent.glob(f"{SESSION}/*.json"))).push(last=True)
            switch_machine(monkeypatch, tmp_path / "other")
            run(place, "two", resume=True)
            write(path, "late", resume=True)

    with pytest.raises(RunError, match="another run has taken it over"):
        lose_the_run()
    assert "stages/two.json" in names(place)
    assert "stages/late.json" not in names(place)
    switch_machine(monkeypatch, tmp_path / "cache")
    with mirrored(place, resume=True) as again:
        assert (again / "stages" / "two.json").exists()
        assert not (again / "stages" / "late.json").exists()


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("nope://a/b", r"run\.output: 'nope://a/b': unknown scheme"),
        ("file:///proc/none/r", r"run\.output: file:///proc/none/r.*: cannot be written"),
        ("memory://x", r"run\.output: 'memory://x': must be a folder"),
    ],
)
def test_unusable_uris(place: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(place, "one")


def test_an_unwritable_staging_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COSUP_CACHE", "/proc/none")
    with pytest.raises(UserError, match="set COSUP_CACHE to a folder that is"):
        run("memory://x/y", "one")


def test_an_interrupted_fetch_is_repeated(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(place, "one")
    switch_machine(monkeypatch, tmp_path / "other")

    def cut(uri: str, file: Path) -> bool:
        if uri.endswith("one.json"):
            raise RunError(f"{uri}: can't be read (no route)")
        return remote.get(uri, file)

    with monkeypatch.context() as patched:
        patched.setattr(staging, "get", cut)
        with pytest.raises(RunError, match="no route"):
            run(place, "two", resume=True)
    run(place, "two", resume=True)
    assert {"stages/one.json", "stages/two.json"} <= names(place)


def test_plan_reports_an_existing_run(place: str, tmp_path: Path) -> None:
    parent, name = remote.split(place)
    settings = yaml.safe_load(TINY)
    settings["run"] = {"name": "tiny", "output": remote.join(parent, name)}
    planned = check_config(settings)
    assert (_run(planned).place, _run(planned).exists) == (f"{place}/tiny", False)
    run(f"{place}/tiny", "one")
    assert (_run(planned).place, _run(planned).exists) == (f"{place}/tiny", True)


def test_a_finished_run_says_that_it_writes_no_more(place: str) -> None:
    """Then a report may be written there (`cosup.remote_copy`)."""
    with mirrored(place) as path:
        write(path, "one")
        assert writer_of(place) == os.uname().nodename
    assert writer_of(place) is None

    def fails() -> None:
        with mirrored(place, resume=True):
            assert writer_of(place) == os.uname().nodename
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert writer_of(place) == os.uname().nodename, "it may go on"


def test_shards_of_a_run_its_losses_and_seeds_are_not_copied(tmp_path: Path) -> None:
    """Workers write them at the URI alone, and they are not removed there when the run ends."""
    far = tmp_path / "far"
    runs = ["", "seed-1/", "cross_entropy/", "cross_entropy/seed-1/"]
    direct = [f"{run}shards/features/0000000.parquet" for run in runs]
    copied = {"seed-1/config.yaml", *(f"{run}annotations/test/shards/0.bin" for run in runs)}
    for name in [*direct, *copied]:
        (far / name).parent.mkdir(parents=True, exist_ok=True)
        (far / name).write_text("text")
    near = tmp_path / "near"
    own = staging.Staging(f"file://{far}", near, tmp_path / "record.json", sharded=True)
    there, _ = own.state()
    assert set(there) == copied, "a teacher may be named shards"
    own.fetch(there)
    own.sign()
    own.push(last=True, finished=True)
    assert all((far / name).exists() for name in direct)
