"""The page's last part: how to run it again, in what environment it ran, and its config."""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from cosup.analysis import Run
from cosup.report import words


@dataclass(frozen=True)
class Block:
    """Text, a small table of facts, or code, under a title; `open` ones are not folded."""

    title: str
    text: list[str] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)
    code: str = ""
    open: bool = False


def blocks_of(run: Run) -> list[Block]:
    """How to reproduce a run, its environment and its config."""
    return [_again(run), _environment(run), _config(run)]


def _again(run: Run) -> Block:
    environment = run.environment
    text = [
        "The same config, seed, machine and number of threads give the same numbers; another "
        "number of threads rounds otherwise.",
        "In the folder above the run's directory:",
    ]
    directory = run.path.name
    lines = []
    version = environment.get("packages", {}).get("cosup")
    commit = environment.get("commit") or {}
    if version:
        at = f", commit {commit['id'][:12]}" if commit.get("id") else ""
        changed = " with local changes" if commit.get("changed") else ""
        lines.append(f"# cosup {version}{at}{changed}")
    threads = environment.get("cpu", {}).get("threads")
    config, again = shlex.quote(f"{directory}/config.yaml"), shlex.quote(f"{directory}-again")
    fixed = f"OMP_NUM_THREADS={threads} " if threads else ""
    lines.append(f"{fixed}cosup run {config} --output {again}")
    lines.append(f"cosup compare {shlex.quote(directory)} {again}")
    if not run.finished:
        lines.append("# or go on with it:")
        lines.append(f"cosup run {config} --output {shlex.quote(directory)} --resume")
    return Block("Run it again", text, code="\n".join(lines), open=True)


def _environment(run: Run) -> Block:
    environment = run.environment
    facts = [(name, value) for name, value in _flat(environment) if name not in _PRIVATE]
    peak = run.summary.get("peak_rss_mb")
    if peak is not None:
        facts.insert(0, ("peak memory", f"{words.number(peak)} MiB"))
    text = [] if facts else ["The run has not kept its environment."]
    return Block("Environment", text, facts)


_PRIVATE = ("working_directory", "command")
"""Paths of the machine that it ran on are nobody's business."""


def _flat(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name} " if name != "packages" else "")
        elif isinstance(value, list):
            yield f"{above}{name}", shlex.join(map(str, value))
        elif value is not None:
            yield f"{above}{name}", str(value)


def _config(run: Run) -> Block:
    text = ["As resolved: what the config file left out has its default here."]
    code = yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True)
    return Block("Config", text, code=code.rstrip())
