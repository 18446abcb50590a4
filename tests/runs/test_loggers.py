"""Loggers show the records of a run elsewhere: with the real libraries, without a network."""

import logging
import math
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from helpers.wandb_file import history, records
from mlflow import MlflowClient

from cosup import registry
from cosup.cli import call
from cosup.config import config_hash, dump_config, load_config
from cosup.config.loggers import Loggers
from cosup.errors import UserError
from cosup.files import write_json
from cosup.layout import Layout
from cosup.runs.loggers import sender
from cosup.runs.loggers.base import Ended, LoggedRun, Logger, Scalar
from cosup.runs.recorder import Recorder, open_recorder
from cosup.settings import Settings

CONFIG = """\
run: {name: mine, seed: 3, output: runs, loggers: [LOGGERS]}
data: {source: digits}
teachers: {hierarchy: {by: class, levels: [1]}}
student:
  backbone: {name: test_resnet.r160_in1k, weights: null, image_size: 32}
  training: {steps: 40, lr: 0.01}
"""
SUMMARY: dict[str, Any] = {
    "floor": {"accuracy": 0.5},
    "ceiling": {"accuracy": 0.9},
    "student": {"accuracy": 0.75, "pgr": 0.625},
    "rounds": [{}, {}],
}
SECRET = "0123456789abcdef0123456789abcdef01234567"
EXPERIMENTS = ("whole", "resumed", "killed", "secret")
LOSSES = [2.0, math.nan, 1.0, 0.5]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setattr(sender, "EVERY", 0.05)
    monkeypatch.setattr(sender, "PAUSE", 0.05)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URI of a database of MLflow, whose tables take seconds to make."""
    folder = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{folder / 'm.db'}"
    client = MlflowClient(tracking_uri=uri)
    for name in EXPERIMENTS:  # artifacts are put into the working directory otherwise
        client.create_experiment(name, artifact_location=str(folder / name))
    return uri


def begin(loggers: str) -> Path:
    Path("c.yaml").write_text(CONFIG.replace("LOGGERS", loggers))
    folder = Path("runs/mine")
    folder.mkdir(parents=True, exist_ok=True)
    Layout(folder).config.path.write_text(dump_config(load_config("c.yaml")))
    return folder


def record(recorder: Recorder, losses: Sequence[float]) -> None:
    for step, loss in enumerate(losses, 1):
        recorder.scalar("student/round_1/loss", loss, step)


def log_run(folder: Path, losses: Sequence[float] = LOSSES, finish: bool = True) -> None:
    """Record losses as a process does that starts or resumes a run."""
    loggers = load_config("c.yaml").run.loggers
    with open_recorder(folder, loggers) as recorder:
        record(recorder, losses)
        if finish:
            write_json(folder / "summary.json", SUMMARY)
            Layout(folder).page.parent.mkdir(exist_ok=True)
            Layout(folder).page.write_text("<p>a report")


def lines(folder: Path) -> list[dict[str, Any]]:
    return list(Layout(folder).metrics.read())


class Interrupted(Exception):
    pass


def interrupt(folder: Path, losses: Sequence[float]) -> None:
    """Record losses as a process does that fails."""
    loggers = load_config("c.yaml").run.loggers
    with suppress(Interrupted), open_recorder(folder, loggers) as recorder:
        record(recorder, losses)
        raise Interrupted


# MLflow


def curve(client: MlflowClient, run_id: str, tag: str) -> list[tuple[int, float, int]]:
    found = client.get_metric_history(run_id, tag)
    return [(one.step, one.value, one.timestamp) for one in found]


def only_run(client: MlflowClient, experiment: str) -> Any:
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    (run,) = client.search_runs([found.experiment_id])
    return run


def test_mlflow_has_the_records_of_the_run(database: str) -> None:
    folder = begin(f"{{name: mlflow, tracking_uri: '{database}', experiment: whole}}")
    log_run(folder)
    client = MlflowClient(tracking_uri=database)
    run = only_run(client, "whole")
    expected = [(one["step"], one["value"], int(1000 * one["time"])) for one in lines(folder)]
    found = curve(client, run.info.run_id, "student/round_1/loss")
    assert found == [each for each in expected if each[1] is not None]
    assert run.data.metrics["at_end/student"] == 0.75
    assert run.data.params["rounds.loss.name"] == "cross_entropy"
    assert run.data.params["run.seed"] == "3"
    assert not any("loggers" in key for key in run.data.params)
    assert run.info.run_name == "mine-seed-3"
    assert run.info.status == "FINISHED"
    artifacts = {each.path for each in client.list_artifacts(run.info.run_id)}
    assert artifacts == {"config.yaml", "summary.json", "index.html"}


def test_mlflow_has_a_resumed_run_once(database: str) -> None:
    folder = begin(f"{{name: mlflow, tracking_uri: '{database}', experiment: resumed}}")
    interrupt(folder, LOSSES[:3])
    client = MlflowClient(tracking_uri=database)
    first = only_run(client, "resumed")
    assert first.info.status == "FAILED"
    log_run(folder)
    log_run(folder)  # --resume of a finished run
    run = only_run(client, "resumed")
    assert run.info.run_id == first.info.run_id
    assert run.info.status == "FINISHED"
    found = curve(client, run.info.run_id, "student/round_1/loss")
    assert [each[:2] for each in found] == [(1, 2.0), (3, 1.0), (4, 0.5)]
    assert len(client.get_metric_history(run.info.run_id, "at_end/student")) == 1


def test_mlflow_gets_what_a_killed_process_did_not_send(database: str) -> None:
    folder = begin(f"{{name: mlflow, tracking_uri: '{database}', experiment: killed}}")
    interrupt(folder, LOSSES[:1])
    with open_recorder(folder, ()) as recorder:  # a process whose numbers never arrive
        record(recorder, LOSSES[:3])
    log_run(folder)
    client = MlflowClient(tracking_uri=database)
    found = curve(client, only_run(client, "killed").info.run_id, "student/round_1/loss")
    assert [each[:2] for each in found] == [(1, 2.0), (3, 1.0), (4, 0.5)]


# Weights & Biases


def offline_file(folder: Path) -> Path:
    """Return the one file that is there to be synchronised, when it is complete.

    Its process may still write after the run has ended.
    """
    (file,) = (folder / "loggers").glob("wandb/wandb/offline-run-*/*.wandb")
    until = time.monotonic() + 60
    while not any(one.WhichOneof("record_type") == "exit" for one in records(file)):
        assert time.monotonic() < until
        time.sleep(0.05)
    return file


def test_wandb_has_the_records_of_the_run() -> None:
    folder = begin("{name: wandb, mode: offline, tags: [a]}")
    log_run(folder)
    rows = history(offline_file(folder))
    tag = "student/round_1/loss"
    assert [(row["step"], row[tag]) for row in rows if tag in row] == [(1, 2.0), (3, 1.0), (4, 0.5)]
    finals = {key: row[key] for row in rows for key in row if key.startswith("at_end/")}
    assert finals == {"at_end/student": 0.75, "at_end/pgr": 0.625} | {
        "at_end/floor": 0.5,
        "at_end/ceiling": 0.9,
    }
    kinds = {record.WhichOneof("record_type"): record for record in records(offline_file(folder))}
    assert kinds["run"].run.display_name == "mine-seed-3"
    assert kinds["run"].run.run_group == "mine"
    assert kinds["exit"].exit.exit_code == 0
    assert {entry.path for entry in kinds["artifact"].artifact.manifest.contents} >= {"index.html"}
    keys = {item.key for item in kinds["run"].run.config.update}
    assert {"rounds", "student"} <= keys
    assert "loggers" not in str(kinds["run"].run.config)


def test_wandb_has_a_resumed_run_once() -> None:
    folder = begin("{name: wandb, mode: offline}")
    interrupt(folder, LOSSES[:3])
    first = offline_file(folder)
    log_run(folder)
    assert offline_file(folder).name == first.name  # the id
    tag = "student/round_1/loss"
    rows = [row for row in history(offline_file(folder)) if tag in row]
    assert [(row["step"], row[tag]) for row in rows] == [(1, 2.0), (3, 1.0), (4, 0.5)]


def test_no_secret_is_in_the_files_of_a_run(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.setenv(name, SECRET)
    mlflow = f"{{name: mlflow, tracking_uri: '{database}', experiment: secret}}"
    folder = begin(f"{mlflow}, {{name: wandb, mode: offline}}")
    log_run(folder)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert any("wandb" in path.parts for path in files)
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


# Any logger


@dataclass
class ListLogger(Settings, Logger):
    """Keeps what it gets; fails as often as it is told to, and hangs until it is released."""

    label: str = "x"
    """A setting."""

    got: ClassVar[list[Scalar]] = []
    ends: ClassVar[list[Ended]] = []
    failures: ClassVar[list[str]] = []
    released: ClassVar[threading.Event] = threading.Event()

    def check(self) -> None:
        if self.label == "bad":
            raise UserError("no such label", key="label", value=self.label)

    def _try(self, method: str) -> None:
        assert self.released.wait(60)
        if method in self.failures:
            self.failures.remove(method)
            raise ConnectionError(f"{method} failed")

    def start(self, run: LoggedRun) -> None:
        self._try("start")
        self.got.clear()

    def log(self, scalars: Sequence[Scalar], first: int) -> None:
        self._try("log")
        assert first == len(self.got)
        self.got.extend(scalars)

    def end(self, ended: Ended) -> None:
        self._try("end")
        self.ends.append(ended)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[ListLogger]]:
    """The logger of an installed package."""
    info = tmp_path / "site" / "other-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[cosup.loggers]\nown = {__name__}:ListLogger\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])
    registry._from_entry_points.cache_clear()
    for kept in (ListLogger.got, ListLogger.ends, ListLogger.failures):
        kept.clear()
    ListLogger.released.set()
    yield ListLogger
    ListLogger.released.set()
    for thread in threading.enumerate():
        if thread.name.startswith("cosup-logger-"):
            thread.join(60)
    registry._from_entry_points.cache_clear()


def test_a_logger_of_another_package_gets_everything(own: type[ListLogger]) -> None:
    folder = begin("{name: own, label: y}")
    log_run(folder)
    tags = [one.tag for one in own.got]
    assert tags[:4] == ["student/round_1/loss"] * 4
    assert set(tags[4:]) == {f"at_end/{name}" for name in ("student", "pgr", "floor", "ceiling")}
    assert [ended.status for ended in own.ends] == ["finished"]
    assert not list(folder.glob("events*"))


@pytest.mark.parametrize("method", ["start", "log", "end"])
def test_a_logger_that_fails_is_a_warning_and_loses_nothing(
    method: str, own: type[ListLogger], caplog: pytest.LogCaptureFixture
) -> None:
    folder = begin("own")
    own.failures.append(method)
    with (
        caplog.at_level(logging.WARNING),
        open_recorder(folder, load_config("c.yaml").run.loggers) as recorder,
    ):
        recorder.scalar("a", 1.0, 1)
        until = time.monotonic() + 60
        while method != "end" and own.failures and time.monotonic() < until:
            time.sleep(0.02)
        recorder.scalar("a", 2.0, 2)
        write_json(folder / "summary.json", SUMMARY)
    assert f"{method} failed" in caplog.text
    if method == "end":
        log_run(folder, [])
    assert [one.value for one in own.got if one.tag == "a"] == [1.0, 2.0]
    assert [ended.status for ended in own.ends] == ["finished"]
    assert len([line for line in lines(folder) if line["tag"] == "a"]) == 2


def test_a_logger_that_hangs_does_not_hold_the_run(
    own: type[ListLogger], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "LAST", 0.1)
    folder = begin("own")
    own.released.clear()
    log_run(folder)
    assert "no end within" in caplog.text, "it would fail after its time"
    assert "--resume" in caplog.text
    assert len(lines(folder)) == 4


def test_a_run_without_numbers_reaches_no_logger(own: type[ListLogger]) -> None:
    folder = begin("own")
    with pytest.raises(UserError), open_recorder(folder, load_config("c.yaml").run.loggers):
        raise UserError("a mistake that was found late")
    assert not own.ends
    assert not Layout(folder).loggers.exists()


# The config


def test_loggers_do_not_change_what_a_run_is() -> None:
    begin("tensorboard")
    plain = load_config("c.yaml")
    others = load_config("c.yaml", "run.loggers=[{name: wandb, mode: offline}, mlflow]")
    assert config_hash(plain) == config_hash(others)
    assert config_hash(plain) != config_hash(load_config("c.yaml", "run.seed=4"))
    assert [choice.name for choice in load_config("c.yaml", "run.loggers=[]").run.loggers] == []
    assert Loggers.check("wandb").settings["project"] == "cosup"


@pytest.mark.parametrize(
    ("loggers", "words"),
    [
        ("tensorbord", ["run.loggers", "'tensorboard'"]),
        ("tensorboard, tensorboard", ["run.loggers", "once"]),
        ("{name: mlflow, tracking_uri: 'http://127.0.0.1:9'}", ["tracking_uri", "127.0.0.1:9"]),
        ("{name: mlflow, tracking_uri: 'sqlite:///no/where/m.db'}", ["tracking_uri", "no/where"]),
        ("{name: mlflow, tracking_uri: 'https://me:pass@host'}", ["tracking_uri", "me:***@host"]),
        ("{name: mlflow, tracking_uri: 'nonsense://host'}", ["tracking_uri", "nonsense"]),
        ("wandb", ["run.loggers.0.mode", "WANDB_API_KEY", "offline"]),
        ("{name: wandb, mode: on}", ["mode", "offline"]),
        ("{name: own, label: bad}", ["run.loggers.0.label", "'bad'"]),
    ],
)
def test_what_cannot_be_used_is_one_line(
    loggers: str,
    words: list[str],
    own: type[ListLogger],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    Path("c.yaml").write_text(CONFIG.replace("LOGGERS", loggers))
    assert call(["validate", "c.yaml"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    for word in words:
        assert word in line
    assert {path.name for path in tmp_path.iterdir()} <= {"c.yaml", "site"}


def test_a_server_of_wandb_that_does_not_answer_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    begin("wandb")
    assert call(["validate", "c.yaml"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "127.0.0.1:9" in line
    assert SECRET not in line


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_missing_extra_is_one_line(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(f"cosup.runs.loggers.{name}.find_spec", lambda _: None)
    begin(name)
    assert call(["validate", "c.yaml"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"'.[{name}]'" in line
    assert "run.loggers.0" in line
