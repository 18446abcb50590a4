"""`cosup submit`: run a config as a job on a Ray cluster, through Ray's job API.

A job gets the resolved config and this package; the cluster's nodes have the package's
requirements, the data, and a place for the run that outlives the job.
"""

import asyncio
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import cosup
from cosup.cluster.connect import connect
from cosup.config import dump_config, load_config
from cosup.config.schema import Config
from cosup.errors import RunError, UserError
from cosup.remote import is_uri
from cosup.runs.directory import check_flags

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

__all__ = ["AGAIN", "Flags", "Job", "job_config", "submit_job"]

AGAIN = "COSUP_AGAIN"
"""The variable that tells a job the command its user goes on with when it is cut."""

LOST_SECONDS = 60.0
"""How long a server may be out of reach before following a job is given up."""

_FOLDER = "cosup_job"
_MAIN = '''\
"""Run the config beside this file."""

import signal
import sys
from pathlib import Path

# It may be ignored: a cluster that a script started in the background hands that on.
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    from cosup.cli import main
except ModuleNotFoundError as error:
    sys.exit(
        f"error: {sys.executable} on the cluster has no {error.name}; every node needs what cosup "
        "requires (pip install cosup's requirements), for the `python` that Ray runs with"
    )

main(["run", str(Path(__file__).with_name("config.yaml")), *sys.argv[1:]])
'''


@dataclass(frozen=True)
class Flags:
    """How a job treats a run that is there already."""

    resume: bool = False
    overwrite: bool = False

    def options(self) -> list[str]:
        """As they are written on a command line."""
        given = (("--resume", self.resume), ("--overwrite", self.overwrite))
        return [name for name, wanted in given if wanted]


@dataclass(frozen=True)
class Job:
    """A submitted job, and the commands that deal with it."""

    client: "JobSubmissionClient"
    id: str

    @property
    def follow_command(self) -> str:
        """Shows its log as it grows."""
        return self._command("logs", self.id, "--follow")

    @property
    def stop_command(self) -> str:
        """Ends it, as Ctrl-C would."""
        return self._command("stop", self.id)

    def follow(self, write: Callable[[str], object]) -> tuple[int, str]:
        """Write the job's log until it ends; its exit status, and a word on how it ended.

        A lost connection is taken up again where it was cut; `RunError` if that can't be done.
        """
        return asyncio.run(_follow(self, write))

    def _command(self, *words: str) -> str:
        named = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys()
        # Ray's own commands send a token only where this says so.
        mode = "RAY_AUTH_MODE=token " if named and "RAY_AUTH_MODE" not in os.environ else ""
        address = self.client.get_address()
        return f"{mode}{shlex.join(['ray', 'job', *words, '--address', address])}"


def job_config(path: Path, overrides: Sequence[str], working_dir: Path | None) -> Config:
    """The config that a job runs: on Ray, unless an override says otherwise.

    `UserError` as `load_config`, and for what a job can't find or would lose.
    """
    load_config(path, overrides)  # the user's mistakes, before anything is added
    ours = ["execution.address=null"]
    if not any(_sets_backend(override) for override in overrides):
        ours.append("execution.backend=ray")
    config = load_config(path, [*overrides, *ours])
    lost = list(_lost(config, working_dir))
    if lost:
        raise UserError("\n".join(lost))
    return config


def submit_job(
    config: Config, address: str, flags: Flags, working_dir: Path | None, again: str
) -> Job:
    """Start the config as a job.

    again: the command that goes on with it when it is cut. `UserError` where the address, the
    token or the working directory is at fault, `RunError` where the cluster refuses the job.
    """
    check_flags(flags.resume, flags.overwrite)
    if working_dir is not None and not working_dir.is_dir():
        raise UserError(f"--working-dir: no folder '{working_dir}'")
    client = connect(address)
    stage = Path(tempfile.mkdtemp(prefix="cosup-job-"))
    try:
        (stage / _FOLDER).mkdir()
        (stage / _FOLDER / "__main__.py").write_text(_MAIN)
        (stage / _FOLDER / "config.yaml").write_text(dump_config(config), encoding="utf-8")
        name = client.submit_job(
            entrypoint=shlex.join(["python", "-m", _FOLDER, *flags.options()]),
            runtime_env=_runtime_env(stage / _FOLDER, working_dir, again),
            submission_id=f"{config.run.name}-{uuid4().hex[:8]}",
            metadata={"cosup": cosup.__version__, "output": config.run.output},
        )
    except ValueError as error:  # what is shipped is too large
        raise UserError(f"--working-dir: {' '.join(str(error).split())}") from None
    except (RuntimeError, OSError) as error:
        raise RunError(f"{address} doesn't take the job: {' '.join(str(error).split())}") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return Job(client, name)


def _lost(config: Config, working_dir: Path | None) -> Iterator[str]:
    """What is named by a path that means nothing on the cluster."""
    output, root = config.run.output, config.data.source.settings.get("root")
    if _is_relative(output):
        yield (
            f"run.output: '{output}': is relative, and a job's working directory is thrown away; "
            "give a folder that all nodes share (run.output=/shared/runs) or a URI "
            "(run.output=s3://bucket/runs)"
        )
    if root and working_dir is None and _is_relative(root):
        yield (
            f"data.root: '{root}': is relative, and a job doesn't start in this folder; give the "
            "data's path on the cluster's nodes (data.root=/shared/data), or ship small data "
            "with --working-dir"
        )


def _is_relative(path: str) -> bool:
    return not is_uri(path) and not PurePosixPath(path).is_absolute()


def _sets_backend(override: str) -> bool:
    key, _, value = override.partition("=")
    return key.strip() == "execution.backend" or (key.strip() == "execution" and "backend" in value)


def _runtime_env(folder: Path, working_dir: Path | None, again: str) -> dict[str, Any]:
    shipped = {} if working_dir is None else {"working_dir": str(working_dir)}
    return {
        **shipped,
        "py_modules": [str(Path(cosup.__file__).parent), str(folder)],
        "excludes": ["__pycache__", "*.pyc"],
        "env_vars": {
            AGAIN: again,
            "PYTHONUNBUFFERED": "1",
            # `ray job stop` is then Ctrl-C: the run says what is kept, and ends its actors.
            "RAY_JOB_STOP_SIGNAL": "SIGINT",
            "RAY_JOB_STOP_WAIT_TIME_S": "60",
        },
    }


async def _follow(job: Job, write: Callable[[str], object]) -> tuple[int, str]:
    from aiohttp import ClientError

    written, seen = 0, time.monotonic()
    while True:
        skip = written
        try:
            async for text in job.client.tail_job_logs(job.id):  # from the log's beginning
                fresh, skip = text[skip:], max(0, skip - len(text))
                written += len(fresh)
                if fresh:
                    write(fresh)
            info = await asyncio.to_thread(job.client.get_job_info, job.id)
            seen = time.monotonic()
            if info.status.is_terminal():
                return _outcome(job, info)
        except (ClientError, RuntimeError, OSError) as error:
            if time.monotonic() - seen > LOST_SECONDS:
                raise RunError(
                    f"{job.client.get_address()} is out of reach ({type(error).__name__}: {error})"
                    f"; the job may go on; follow it with: {job.follow_command}"
                ) from error
        await asyncio.sleep(1)


def _outcome(job: Job, info: "JobDetails") -> tuple[int, str]:
    """The exit status that a job's end stands for, and a line on it."""
    if info.status == "SUCCEEDED":
        return 0, f"job {job.id} succeeded"
    if info.status == "STOPPED":
        return 130, f"job {job.id} was stopped"
    code = info.driver_exit_code
    if code:
        kept = code if 0 < code < 126 else 1
        return kept, f"job {job.id} failed (exit status {code})"
    return 1, f"job {job.id} failed: {' '.join((info.message or 'no reason given').split())[:600]}"
