"""Which stage of a run makes which file, so that a damaged one can be made again."""

import re

from cosup.layout.lines import Line

AT_START = ""
"""Stands for what every start of the run writes, or another command."""
LAST = "summary"
"""The stage that ends a run."""
TEACHER = "teacher/"
"""Begins the maker of what belongs to a teacher: `teacher/NAME`."""

_MAKERS: list[tuple[str, str]] = [
    (r"\.cosup-run\.json|config\.yaml|events\.out\.tfevents\..*", AT_START),
    (r"loggers/[^/]+/run\.json|review/(?:estimates\.json|next\.html)", AT_START),
    (r"teachers/(.+)\.(?:json|safetensors)", TEACHER + r"\1"),
    (r"annotations/.+\.(?:json|safetensors)", LAST),
    (r"decisions/(round-\d+)\.parquet", r"\1"),
    (r"checkpoints/(round-\d+)/[^/]+", r"\1"),
    (r"checkpoints/(control-.+)\.safetensors", r"\1"),
    (r"checkpoints/(?:team|student-and-team)\.safetensors", "team"),
    (r"shifted/[^/]+/samples\.parquet", LAST),
    (r"shifted/[^/]+/(round-\d+|control-.+)\.safetensors", r"\1"),
    (r"shifted/[^/]+/student-and-team\.safetensors", "team"),
    (r"checkpoints/posterior\.safetensors", "sources"),
    (r"checkpoints/(?:teacher-.+|test-correct)\.safetensors", LAST),
    (r"labels\.(?:parquet|csv)", "labels"),
    (r"stages/(.+)\.json", r"\1"),
    (r"(?:environment|summary)\.json|(?:samples|shards)\.parquet|(?:report|student)/.+", LAST),
]
"""Patterns of paths in a run, and the stage that makes the file. What only a person makes, and what
grows, has none."""


def maker_of(name: str) -> str | None:
    """Return the stage that makes a file, by its path in the run; None if there is none.

    It is the last stage for a file that any start makes where it is missing, such as annotations.
    """
    for pattern, stage in _MAKERS:
        if found := re.fullmatch(pattern, name):
            return found.expand(stage)
    return None


def maker_of_line(line: Line) -> str:
    """Return the stage that writes a line of `metrics.jsonl`."""
    tag = str(line["tag"])
    if found := re.match(r"teacher/(.+)/[^/]+$", tag):
        return TEACHER + found[1]
    if found := re.match(r"student/round_(\d+)/", tag):
        return f"round-{found[1]}"
    if found := re.match(r"control/(.+)/[^/]+$", tag):
        return f"control-{found[1]}"
    return f"round-{line['step']}" if tag.startswith("rounds/") else LAST
