"""Commands that only look at configs answer at once: they import no package that is slow to load.

Seconds vary with the machine, so these tests look at the imported modules; the time is measured by
tests/benchmarks/bench_startup.py.
"""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from cosup.cli import call
from cosup.config.files import shipped_configs

HEAVY = {
    "matplotlib",
    "pandas",
    "pyarrow",
    "ray",
    "scipy",
    "sklearn",
    "timm",
    "torch",
    "torchvision",
    "transformers",
}
"""Packages that take more than a fifth of a second to import."""

SCRIPT = """
import json, sys
from cosup.cli import call

heavy = set(json.loads(sys.argv[1]))
for arguments in json.loads(sys.argv[2]):
    status = call(arguments)
    print(json.dumps([arguments, status, sorted(heavy & set(sys.modules))]), file=sys.stderr)
"""

LIGHT = [
    ["--version"],
    ["--help"],
    ["init", "--help"],
    ["run", "--help"],
    ["ls"],
    ["ls", "--json"],
    ["ls", "runs"],
    ["ls", "keys", "rounds"],
    ["schema"],
    ["cat", "quickstart"],
    ["cp", "quickstart", "copy.yaml"],
    ["validate", "copy.yaml"],
    ["validate", "copy.yaml", "rounds.repeat=2"],
    ["run", "copy.yaml", "--print-config"],
]
BACKBONES = [
    ("resnet50.a1_in1k", "pretrained", 0),
    ("torchvision:alexnet", "pretrained", 0),
    ("cifar_resnet20", "null", 0),
    ("open_clip:ViT-B-32@openai", "null", 0),
    ("open_clip:ViT-B-33@openai", "null", 2),
]
"""Names of networks, weights, and the exit status that validation has with them."""


def imported_by(commands: list[list[str]], folder: Path) -> list[tuple[list[str], int, list[str]]]:
    """Call commands, one after the other in one process; return each with its exit status and the
    heavy packages that are imported by then."""
    given = [json.dumps(sorted(HEAVY)), json.dumps(commands)]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *given], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = (line for line in done.stderr.splitlines() if line.startswith("[["))
    found = [tuple(json.loads(line)) for line in lines]
    assert len(found) == len(commands)
    return found


def test_commands_on_configs_import_nothing_heavy(tmp_path: Path) -> None:
    """One process runs all of them: those named above, those that validate every config of cosup,
    and those that name networks."""
    names = sorted(shipped_configs())
    assert len(names) > 20
    every = [["validate", name] for name in names]
    networks = [
        ["validate", "quickstart", f"student.backbone={{name: '{name}', weights: {weights}}}"]
        for name, weights, _ in BACKBONES
    ]
    found = imported_by([*LIGHT, *every, *networks], tmp_path)
    for command, _, heavy in found:
        assert heavy == [], command
    statuses = [status for _, status, _ in found]
    assert set(statuses[: len(LIGHT)]) == {0}, found
    # The data of some configs are not here, so that their status is that of a mistake.
    assert set(statuses[len(LIGHT) : -len(networks)]) <= {0, 2}, found
    assert statuses[-len(networks) :] == [status for _, _, status in BACKBONES], found


def test_a_table_of_labels_is_checked_without_torch(tmp_path: Path) -> None:
    rows = ["sample_id,label", *(f"{scan:04d}@0,{scan % 10}" for scan in range(20))]
    (tmp_path / "said.csv").write_text("\n".join(rows))
    (tmp_path / "wrong.csv").write_text("\n".join([*rows, "0099@0,eleven"]))
    commands = [
        ["validate", "quickstart", f"teachers.external=[{{annotations: {file}, missing: abstain}}]"]
        for file in ("said.csv", "wrong.csv")
    ]
    found = imported_by(commands, tmp_path)
    assert [status for _, status, _ in found] == [0, 2]
    assert not any({"torch", "timm"} & set(heavy) for _, _, heavy in found)


COMPLETE = """
import os, sys
from cosup.cli import main

os.environ["_COSUP_COMPLETE"] = "complete_bash"
for typed in sys.argv[1:]:
    os.environ["COMP_WORDS"] = f"cosup {typed}"
    os.environ["COMP_CWORD"] = str(len(typed.split()))
    print("typed", typed)
    try:
        main([])
    except SystemExit:
        pass
print("imported", sorted(sys.modules))
"""


def test_completion_imports_nothing_heavy(tmp_path: Path) -> None:
    typed = ["run quick", "ls keys rounds.", "validate quickstart run."]
    done = subprocess.run(
        [sys.executable, "-c", COMPLETE, *typed], cwd=tmp_path, capture_output=True, text=True
    )
    *lines, last = done.stdout.splitlines()
    assert len([line for line in lines if line.startswith("typed ")]) == len(typed)
    for line, following in itertools.pairwise([*lines, "typed "]):
        assert not (line.startswith("typed ") and following.startswith("typed ")), done
    assert last.startswith("imported ")
    assert not [name for name in HEAVY if f"'{name}'" in last]


def test_a_plan_needs_no_library_of_networks_once_the_backbone_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COSUP_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    plan = ["plan", "quickstart", "data.rotations=[0]", "teachers.hierarchy.levels=[1]"]
    assert call(plan) == 0  # here, where the libraries are loaded, it gets to know the backbone
    ((_, status, heavy),) = imported_by([plan], tmp_path)
    assert status == 0
    assert not (HEAVY - {"pandas", "pyarrow", "torch"}) & set(heavy), heavy
