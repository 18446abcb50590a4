"""Submit a config as a job to a Ray cluster, by Ray's job API (`cosup submit`).

The resolved config and this package are uploaded. The nodes of the cluster need the package's
requirements, the data, and storage for the run that outlives the job.
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
from cosup.errors import RunError, UserError, in_short, raise_all
from cosup.remote import is_uri
from cosup.runs.directory import check_flags
from cosup.secrets import mask

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

__all__ = ["RESUME_VARIABLE", "Flags", "Job", "job_config", "submit_job"]

RESUME_VARIABLE = "COSUP_AGAIN"
"""Environment variable of a job with the command by which its user resumes it."""

UNREACHABLE_SECONDS = 60.0
"""Time that a server may be unreachable before following a job ends."""

_MODULE = "cosup_job"
_MODULE_CODE = '''\
"""Run config.yaml in the folder of this file."""

import signal
import sys
from pathlib import Path

# The signal may be ignored: jobs inherit that from a cluster started in a background script.
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    from cosup.cli import main
except ModuleNotFoundError as error:
    sys.exit(
        f"error: {sys.executable} on the cluster has no {error.name}; every node needs cosup's "
        "requirements, installed for the `python` that Ray runs with"
    )

main(["run", str(Path(__file__).with_name("config.yaml")), *sys.argv[1:]])
'''


@dataclass(frozen=True)
class Flags:
    """How a job treats an existing run."""

    resume: bool = False
    overwrite: bool = False

    def options(self) -> list[str]:
        """Return the command-line options."""
        given = (("--resume", self.resume), ("--overwrite", self.overwrite))
        return [name for name, wanted in given if wanted]


@dataclass(frozen=True)
class Job:
    """A submitted job, and Ray's commands to follow and stop it."""

    client: "JobSubmissionClient"
    id: str

    @property
    def follow_command(self) -> str:
        """The command that shows the job's log as it is written."""
        return self._command("logs", self.id, "--follow")

    @property
    def stop_command(self) -> str:
        """The command that ends the job, as Ctrl-C would."""
        return self._command("stop", self.id)

    def follow(self, write: Callable[[str], object]) -> tuple[int, str]:
        """Write the job's log until it ends; return its exit status and how it ended, in words.

        A lost connection is restored without losing or repeating text. Raise `RunError` if the
        server stays unreachable.
        """
        return asyncio.run(_follow_log(self, write))

    def _command(self, *words: str) -> str:
        named = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys()
        # Ray's commands only send a token in this mode.
        mode = "RAY_AUTH_MODE=token " if named and "RAY_AUTH_MODE" not in os.environ else ""
        address = self.client.get_address()
        return f"{mode}{shlex.join(['ray', 'job', *words, '--address', address])}"


def job_config(path: Path, overrides: Sequence[str], working_dir: Path | None) -> Config:
    """Return the config of a job: its backend is Ray, unless an override sets it.

    Raise the errors of `load_config`, and `UserError` for paths that mean nothing on the cluster.
    """
    load_config(path, *overrides)  # report the user's errors before anything is added
    added = ["execution.address=null"]
    if not any(_sets_backend(override) for override in overrides):
        added.append("execution.backend=ray")
    config = load_config(path, *overrides, *added)
    raise_all(_relative_paths(config, working_dir))
    return config


def submit_job(
    config: Config, address: str, flags: Flags, working_dir: Path | None, resume_command: str
) -> Job:
    """Submit the config as a job.

    resume_command: the command by which the user resumes the job. Raise `UserError` for a wrong
    address, token or working directory, and `RunError` if the cluster refuses the job.
    """
    check_flags(flags.resume, flags.overwrite)
    if working_dir is not None and not working_dir.is_dir():
        raise UserError("no folder {value}", key="--working-dir", value=str(working_dir))
    client = connect(address)
    stage = Path(tempfile.mkdtemp(prefix="cosup-job-"))
    try:
        (stage / _MODULE).mkdir()
        (stage / _MODULE / "__main__.py").write_text(_MODULE_CODE)
        (stage / _MODULE / "config.yaml").write_text(dump_config(config), encoding="utf-8")
        name = client.submit_job(
            entrypoint=shlex.join(["python", "-m", _MODULE, *flags.options()]),
            runtime_env=_runtime_env(stage / _MODULE, working_dir, resume_command),
            submission_id=f"{config.run.name}-{uuid4().hex[:8]}",
            metadata={"cosup": cosup.__version__, "output": mask(config.run.output)},
        )
    except ValueError as error:  # the upload is too large
        raise UserError(in_short(error), key="--working-dir", value=str(working_dir)) from None
    except (RuntimeError, OSError) as error:
        raise RunError(f"{address} refuses the job: {in_short(error)}") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return Job(client, name)


PATHS_OF_DATA = ("root", "path", "table", "labels", "unlabelled")
"""Settings of sources that are paths."""


def _relative_paths(config: Config, working_dir: Path | None) -> Iterator[UserError]:
    """Yield an error for each relative path, which means nothing on the cluster."""
    output, source = config.run.output, config.data.source.settings
    if _is_relative(output):
        yield UserError(
            "a relative path, and a job's working directory is deleted",
            key="run.output",
            value=output,
            allowed="a folder that all nodes share, such as /shared/runs, or a URI, such as "
            "s3://bucket/runs",
        )
    for key in PATHS_OF_DATA if working_dir is None else ():
        if source.get(key) and _is_relative(source[key]):
            yield UserError(
                "a relative path, and a job does not start in this folder",
                key=f"data.{key}",
                value=source[key],
                allowed="the data's path on the nodes, such as /shared/data, or --working-dir, "
                "which uploads small data",
            )


def _is_relative(path: str) -> bool:
    return not is_uri(path) and not PurePosixPath(path).is_absolute()


def _sets_backend(override: str) -> bool:
    key, _, value = override.partition("=")
    return key.strip() == "execution.backend" or (key.strip() == "execution" and "backend" in value)


def _runtime_env(folder: Path, working_dir: Path | None, resume_command: str) -> dict[str, Any]:
    uploaded = {} if working_dir is None else {"working_dir": str(working_dir)}
    return {
        **uploaded,
        "py_modules": [str(Path(cosup.__file__).parent), str(folder)],
        "excludes": ["__pycache__", "*.pyc"],
        "env_vars": {
            RESUME_VARIABLE: mask(resume_command),  # Ray shows it to everyone
            "PYTHONUNBUFFERED": "1",
            # `ray job stop` then acts as Ctrl-C: the run prints what is kept, and ends its actors.
            "RAY_JOB_STOP_SIGNAL": "SIGINT",
            "RAY_JOB_STOP_WAIT_TIME_S": "60",
        },
    }


async def _follow_log(job: Job, write: Callable[[str], object]) -> tuple[int, str]:
    from aiohttp import ClientError

    written, reached = 0, time.monotonic()
    while True:
        skip = written
        try:
            async for text in job.client.tail_job_logs(job.id):  # from the start of the log
                fresh, skip = text[skip:], max(0, skip - len(text))
                written += len(fresh)
                if fresh:
                    write(fresh)
            info = await asyncio.to_thread(job.client.get_job_info, job.id)
            reached = time.monotonic()
            if info.status.is_terminal():
                return _outcome(job, info)
        except (ClientError, RuntimeError, OSError) as error:
            if time.monotonic() - reached > UNREACHABLE_SECONDS:
                raise RunError(
                    f"{job.client.get_address()} is unreachable ({in_short(error, named=True)}); "
                    f"the job may still run; follow it with: {job.follow_command}"
                ) from error
        await asyncio.sleep(1)


def _outcome(job: Job, info: "JobDetails") -> tuple[int, str]:
    """Return the exit status for the end of a job, and a line about it."""
    if info.status == "SUCCEEDED":
        return 0, f"job {job.id} succeeded"
    if info.status == "STOPPED":
        return 130, f"job {job.id} was stopped"
    code = info.driver_exit_code
    if code:
        status = code if 0 < code < 126 else 1
        return status, f"job {job.id} failed (exit status {code})"
    return 1, f"job {job.id} failed: {' '.join((info.message or 'no reason given').split())[:600]}"
