"""Tests of `cosup submit`: what it refuses, and jobs on a real head node that demands a token."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray")
pytest.importorskip("aiohttp")

import requests
from cluster_helpers import free_port, wait_until
from helpers.forks import REIMPORT
from helpers.user_errors import error_of

import cosup
from cosup.cli import call
from cosup.cluster import connect as connecting
from cosup.cluster import submit as submitting
from cosup.cluster.connect import connect
from cosup.cluster.submit import Job, job_config
from cosup.config.yaml import parse_yaml
from cosup.errors import RunError, UserError

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
TOKEN = "a-token-of-the-tests-0123456789"
CONFIG = """\
run: {name: tiny, output: outputs}
data: {source: digits, rotations: [0], limit: 200}
teachers:
  hierarchy: {by: class, levels: [1]}
  model: {name: linear_pixels, size: 4}
  training: {steps: 20}
student:
  backbone: {name: test_resnet, weights: null, image_size: 32}
  training: {steps: 20}
controls: []
"""


@pytest.fixture(autouse=True)
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide tokens and clusters of this machine."""
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    forget_clusters(monkeypatch)


def forget_clusters(patch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("RAY_") or name.lower() in ("http_proxy", "all_proxy"):
            patch.delenv(name)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory, forks: list[str]) -> Iterator[str]:
    """Start a head node that demands a token; return the address of its dashboard.

    The `python` of its jobs is a fork that has imported torch, but not the uploaded package.
    """
    home = tmp_path_factory.mktemp("head")
    python = home / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec {shlex.join(forks)} "$@"\n')
    python.chmod(0o755)
    ports = {
        f"--{name}": free_port()
        for name in (
            "port",
            "dashboard-port",
            "node-manager-port",
            "object-manager-port",
            "ray-client-server-port",
            "dashboard-agent-listen-port",
            "dashboard-agent-grpc-port",
            "runtime-env-agent-port",
            "metrics-export-port",
        )
    }
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PYTEST_"))}
    env = {
        **kept,
        "HOME": str(home),
        "PATH": f"{python.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        REIMPORT: "1",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT": "80",  # 30 s on a busy machine fail
        "RAY_worker_niceness": "0",  # otherwise all other processes have priority
        "OMP_NUM_THREADS": "1",
    }
    sessions = f"/tmp/cosup-{os.getpid()}"  # paths of sockets may have 107 characters at most
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"]
    command += ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", "--num-cpus=2"]
    command += ["--object-store-memory=100000000", f"--temp-dir={sessions}"]
    command += ["--min-worker-port=0", "--max-worker-port=0"]  # the kernel's choice
    command += [f"{name}={port}" for name, port in ports.items()]
    address = f"http://127.0.0.1:{ports['--dashboard-port']}"
    with (home / "head.log").open("w") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    try:
        wait_until(
            lambda: _serves(address), lambda: (home / "head.log").read_text()[-2000:], within=180
        )
        yield address
    finally:
        for pid in _processes_with(home):  # a graceful end takes seconds
            os.kill(pid, signal.SIGKILL)
        process.wait(20)
        subprocess.run(["rm", "-rf", sessions], check=False)


def _serves(address: str) -> bool:
    """Return whether the head accepts jobs, for which it needs an agent on its node."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    try:
        return requests.get(f"{address}/api/jobs/", headers=headers, timeout=5).ok
    except requests.exceptions.RequestException:
        return False


def _processes_with(home: Path) -> list[int]:
    """Return the processes that were started with this home directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if f"HOME={home}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)


def submit(config: Path, address: str, *more: str) -> int:
    """Submit a config that runs without actors, which is quicker."""
    return call(["submit", str(config), "execution.backend=local", "--address", address, *more])


# Jobs


@pytest.fixture(scope="module")
def beside(head: str) -> str:
    """Start a job with the environment of `ray_jobs/job.yaml`, which runs beside another one."""
    path = ROOT / "ray_jobs/job.yaml"
    env = {**parse_yaml(path.read_text(), str(path)), "working_dir": str(ROOT)}
    with pytest.MonkeyPatch.context() as patch:
        forget_clusters(patch)
        patch.setenv("RAY_AUTH_TOKEN", TOKEN)
        command = "python -m cosup --version"  # quick: it imports little
        return str(connect(head).submit_job(entrypoint=command, runtime_env=env))


@pytest.mark.usefixtures("token", "beside")
def test_a_job_runs_and_its_log_is_streamed(
    config: Path, head: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert submit(config, head, f"run.output={tmp_path}/runs") == 0
    out, err = capfd.readouterr()
    assert "teacher all: trained for 20 steps" in out
    assert f"{tmp_path}/runs/tiny/summary.json" in out
    assert out.count("Running entrypoint for job") == 1  # no part of the log is repeated
    (name,) = re.findall(r"^job (tiny-[0-9a-f]{8}) is submitted$", err, re.MULTILINE)
    commands = [line for line in err.splitlines() if " it with: " in line]
    assert commands == [
        f"follow it with: RAY_AUTH_MODE=token ray job logs {name} --follow --address {head}",
        f"stop it with: RAY_AUTH_MODE=token ray job stop {name} --address {head}",
    ]
    assert err.splitlines()[-1] == f"job {name} succeeded"
    assert len(err.splitlines()) == 4  # and no other messages
    summary = json.loads((tmp_path / "runs/tiny/summary.json").read_text())
    assert summary["status"] == "finished"


@pytest.mark.usefixtures("token")
def test_a_failing_job_gives_its_exit_status(
    config: Path, head: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The job finds the uploaded folder, in which it finds no image."""
    folder = tmp_path / "shipped/pictures"
    folder.mkdir(parents=True)
    (folder / "note.txt").write_text("no pictures")
    more = ["data={source: image_folder, root: pictures}", f"run.output={tmp_path}/runs"]
    assert submit(config, head, *more, "--no-wait", "--working-dir", str(folder.parent)) == 0
    out, err = capfd.readouterr()
    (name,) = out.splitlines()  # without the log
    assert f"job {name} is submitted" in err
    log: list[str] = []
    assert Job(connect(head), name).follow(log.append) == (2, f"job {name} failed (exit status 2)")
    (line,) = (line for line in "".join(log).splitlines() if line.startswith("error: "))
    assert line.startswith("error: data.root: 'pictures': ")
    assert not (tmp_path / "runs").exists()


def test_ctrl_c_leaves_the_job_running_and_stop_ends_it_cleanly(
    config: Path, head: str, tmp_path: Path, forks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The token is in Ray's own file."""
    (tmp_path / "home/.ray").mkdir()
    (tmp_path / "home/.ray/auth_token").write_text(TOKEN)
    command = [*forks, "-m", "cosup", "submit", str(config), "execution.backend=local"]
    command += [f"run.output={tmp_path}/runs", "student.training.steps=1000000"]
    process = subprocess.Popen(
        [*command, "--address", head],
        env={**os.environ, "RAY_AUTH_MODE": "token", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "teacher all: annotated" in line:
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    last = err.splitlines()[-1]
    name = last.split()[1]
    assert re.fullmatch(r"tiny-[0-9a-f]{8}", name)
    assert last.endswith(f": ray job stop {name} --address {head}")
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    client = connect(head)
    assert client.get_job_status(name) == "RUNNING"
    client.stop_job(name)
    log: list[str] = []
    assert Job(client, name).follow(log.append) == (130, f"job {name} was stopped")
    (line,) = (
        line
        for line in "".join(log).splitlines()
        if line.startswith(("stopped by SIGTERM", "interrupted"))
    )
    assert f" {tmp_path}/runs/tiny; " in line
    assert f": cosup submit {config} execution.backend=local " in line
    assert line.endswith(f" --address {head} --resume")


@pytest.mark.usefixtures("token")
def test_the_entry_point_of_job_yaml_runs(head: str, beside: str) -> None:
    log: list[str] = []
    assert Job(connect(head), beside).follow(log.append) == (0, f"job {beside} succeeded")
    assert f"cosup {cosup.__version__}\n" in "".join(log)


def test_the_token_is_demanded(
    config: Path,
    head: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert submit(config, head, f"run.output={tmp_path}/runs") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: --address: '{head}': ")
    error = error_of(connect, head)
    assert (error.key, error.value) == (("--address",), head)
    assert "demands a token" in error.problem
    monkeypatch.setenv("RAY_AUTH_TOKEN", "another")
    error = error_of(connect, head)
    assert (error.key, error.value) == (("--address",), head)
    assert "refuses the token" in error.problem
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    path = tmp_path / "token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    error = error_of(connect, head)
    assert (error.key, error.value) == (("RAY_AUTH_TOKEN_PATH",), str(path))
    assert "No such file or directory" in error.problem
    path.write_text(f"{TOKEN}\n")
    # Ray gives these precedence over an address that is passed.
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1")
    assert connect(f"{head}/").get_address() == head
    assert os.environ["RAY_ADDRESS"] == "http://127.0.0.1:1"


# What is refused before anything is sent


def test_the_config_is_checked_first(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run.sed=1", "rounds.repeat=0", "--address", "nonsense"]
    assert call(["submit", str(config), *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all("run.sed" in line or "rounds.repeat" in line for line in lines)


def test_relative_paths_are_refused(config: Path) -> None:
    images = "data={source: image_folder, root: data/images}"
    with pytest.raises(UserError) as caught:
        job_config(config, [images], None)
    output, root = caught.value.errors
    assert (output.key, output.value) == (("run", "output"), "outputs")
    assert (root.key, root.value) == (("data", "root"), "data/images")
    assert job_config(config, [images, "run.output=s3://b/r"], Path()).run.output == "s3://b/r"
    (error,) = error_of(job_config, config, ["run.output=~/runs"], None).errors
    assert (error.key, error.value) == (("run", "output"), "~/runs")


def test_the_backend_of_a_job_is_ray_by_default(config: Path) -> None:
    config.write_text(CONFIG + "execution: {backend: local, address: 10.0.0.1:6379, workers: 2}\n")

    def execution(*overrides: str) -> Any:
        return job_config(config, ["run.output=/shared/runs", *overrides], None).execution

    assert (execution().backend, execution().address, execution().workers) == ("ray", None, 2)
    assert execution("execution.backend=local").backend == "local"
    assert execution("execution={backend: local}").backend == "local"
    assert execution("execution={workers: 3}").backend == "ray"


def test_a_job_is_sent_without_secrets(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sent: dict[str, Any] = {}

    class Client:
        def submit_job(self, **job: Any) -> str:
            (folder,) = (
                Path(one) for one in job["runtime_env"]["py_modules"] if "cosup-job" in one
            )
            sent.update(job, config=(folder / "config.yaml").read_text())
            return "name"

        def get_address(self) -> str:
            return "http://me:hunter2@head:8265"

    monkeypatch.setenv("PASSWORD", "hunter2")
    output = "run.output=s3://me:${PASSWORD}@bucket/runs"
    with monkeypatch.context() as patch:
        patch.setattr(submitting, "connect", lambda address: Client())
        assert submit(config, "http://me:hunter2@head:8265", output, "--no-wait") == 0
    assert "s3://me:${PASSWORD}@bucket/runs" in sent["config"]
    assert sent["metadata"]["output"] == "s3://me:***@bucket/runs"
    assert output in sent["runtime_env"]["env_vars"][submitting.RESUME_VARIABLE]
    assert "hunter2" not in str(sent)
    printed = capsys.readouterr()
    assert "hunter2" not in printed.out + printed.err
    assert "http://me:***@head:8265" in printed.err
    assert submit(config, "http://me:hunter2@127.0.0.1:9", "run.output=/shared/runs") == 2
    assert "hunter2" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--resume", "--overwrite"], "error: --resume and --overwrite exclude each other"),
        (["--working-dir", "/no/where"], "error: --working-dir: no folder '/no/where'"),
    ],
)
def test_flags(
    flags: list[str], text: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit(config, "http://127.0.0.1:1", "run.output=/shared/runs", *flags) == 2
    assert capsys.readouterr().err.startswith(text)


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("ftp://host:1", "ftp:// is not supported"),
        ("host:8265", "no http:// or https://"),
        ("auto", "no http:// or https://"),
        ("", "no host"),
        ("http://", "no host"),
        ("ray://host:10001", "Ray Client, which runs no jobs"),
        ("http://no-such-host.invalid:8265", "no such host"),
        ("http://127.0.0.1:99999", "port|parse"),
    ],
)
def test_invalid_addresses(address: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are told without Ray's client, which would wait for minutes."""
    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", None)
    error = error_of(connect, address)
    assert (error.key, error.value) == (("--address",), address)
    assert re.search(text, error.problem)
    assert error.nearest == (("http://host:8265",) if address == "host:8265" else ())
    if "host" not in text or address == "http://":
        assert error.allowed is None or "http://HOST:8265" in error.allowed


@pytest.mark.parametrize(
    ("answer", "scheme", "text"),
    [
        (None, "http", "nothing listens there"),
        (b"", "http", "does not use HTTP"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "http", "does not use HTTP"),
        (b"HTTP/1.0 400 Bad Request\r\n\r\n", "https", "no TLS there; should it be http://"),
        (b"HTTP/1.0 200 OK\r\n\r\n<html>", "http", r"answers there \(HTTP 200\), but it is not"),
        (b"HTTP/1.0 404 Not Found\r\n\r\n", "http", r"answers there \(HTTP 404\), but it is not"),
        (b"wait", "http", "no answer"),
    ],
)
def test_servers_that_are_no_dashboard(
    answer: bytes | None, scheme: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if answer == b"wait":
        monkeypatch.setattr(connecting, "ANSWER_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if answer is None:
            server.close()
        else:
            threading.Thread(target=_answer, args=(server, answer), daemon=True).start()
        error = error_of(connect, f"{scheme}://127.0.0.1:{port}")
    assert error.key == ("--address",)
    assert re.search(text, error.problem)


def _answer(server: socket.socket, text: bytes) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(1000)
        if text == b"wait":
            while connection.recv(1000):  # until the client gives up
                pass
        else:
            connection.sendall(text)


def test_without_rays_job_client(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "find_spec", lambda name: None if name == "aiohttp" else name)
    with pytest.raises(UserError, match=r"install it with: pip install '\.\[cluster\]'$"):
        connect("http://127.0.0.1:8265")


# Following


class FakeClient:
    """A client whose log and states are given; exceptions among them are raised."""

    def __init__(self, *parts: Any) -> None:
        self.parts = list(parts)

    async def tail_job_logs(self, name: str) -> AsyncIterator[str]:
        for part in self.parts.pop(0):
            if isinstance(part, Exception):
                raise part
            yield part

    def get_job_info(self, name: str) -> Any:
        part = self.parts.pop(0)
        if isinstance(part, Exception):
            raise part
        ended = part["status"] in ("SUCCEEDED", "STOPPED", "FAILED")

        class Status(str):
            def is_terminal(self) -> bool:
                return ended

        known = {"driver_exit_code": None, "message": None, **part}
        return SimpleNamespace(**{**known, "status": Status(part["status"])})

    def get_address(self) -> str:
        return "http://host:8265"


def follow(*parts: Any) -> tuple[str, Callable[[], tuple[int, str]]]:
    log: list[str] = []
    result = Job(FakeClient(*parts), "j").follow(log.append)  # type: ignore[arg-type]
    return "".join(log), lambda: result


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    async def at_once(seconds: float) -> None:
        return None

    monkeypatch.setattr(submitting.asyncio, "sleep", at_once)


@pytest.mark.usefixtures("no_pause")
def test_a_lost_connection_is_restored_without_repeating_text() -> None:
    log, result = follow(
        ["one\n", "tw", OSError("reset")],
        ["one\ntwo\n"],
        RuntimeError("Request failed with status code 502"),
        ["one\n", "two\nthr", "ee\n"],
        {"status": "RUNNING"},
        ["one\ntwo\nthree\nfour\n"],
        {"status": "SUCCEEDED"},
    )
    assert log == "one\ntwo\nthree\nfour\n"
    assert result() == (0, "job j succeeded")


@pytest.mark.usefixtures("no_pause")
def test_a_server_that_stays_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submitting, "UNREACHABLE_SECONDS", -1)
    with pytest.raises(RunError, match=r"unreachable \(OSError: reset\); .* ray job logs j --fol"):
        follow([OSError("reset")])


@pytest.mark.parametrize(
    ("end", "status", "text"),
    [
        ({"status": "STOPPED"}, 130, "was stopped"),
        ({"status": "FAILED", "driver_exit_code": 1}, 1, "failed (exit status 1)"),
        ({"status": "FAILED", "driver_exit_code": -9}, 1, "failed (exit status -9)"),
        ({"status": "FAILED", "message": "no env:\n why"}, 1, "failed: no env: why"),
    ],
)
def test_the_end_of_a_job(end: dict[str, Any], status: int, text: str) -> None:
    _, result = follow([], end)
    assert result() == (status, f"job j {text}")
