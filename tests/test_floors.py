"""Modules import from lower floors only, and heavy packages only when they are used."""

import ast
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TypeGuard

import pytest

import cosup

HOUSE = Path(__file__).parent.parent / "cosup"

# From the lowest floor up; modules of one floor do not import each other, except on the lowest.
FLOORS: list[set[str]] = [
    {
        "words",
        "errors",
        "arrays",
        "cells",
        "controls",
        "seeds",
        "nearest",
        "registry",
        "registries",
        "probabilities",
        "evidence",
        "settings",
        "validation",
        "sections",
        "files",
        "manifest",
        "manifest_lines",
        "remote",
        "remote_copy",
        "origins",
        "progress",
        "links",
        "secrets",
        "stopping",
        "shared_files",
    },
    {"protocols"},
    {"levels"},
    {"losses", "metrics", "assignment", "consistency", "refinement"},
    {"assigning"},
    {"recipe"},
    {"rounds", "decisions", "team", "sources"},
    {"control_runs", "posterior"},
    {"data", "models", "crowd"},
    {"config"},
    {"layout"},
    {"teachers"},
    {"student"},
    {"analysis"},
    {"sharded"},
    {"report", "array_rounds"},
    {"runs", "co_supervision"},
    {"cluster"},
    {"front"},
    {"cli"},
    {"__main__"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
PAPER = {room for rooms in FLOORS[1:8] for room in rooms} | {
    "probabilities",
    "evidence",
    "nearest",
    "seeds",
}
STANDARD = set(sys.stdlib_module_names)
FILES = sorted(HOUSE.rglob("*.py"))
MODULES = {
    ".".join(path.relative_to(HOUSE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in FILES
}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def imports(path: Path) -> list[str]:
    """Every module that a file imports, wherever in it, but for those of type annotations alone."""
    return list(imported(path))


def imported(path: Path) -> Iterator[str]:
    nodes = list(ast.walk(tree_of(path)))
    for_types = {
        inner
        for node in nodes
        if is_for_types(node)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in nodes:
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            if node.module == "cosup":
                yield from (f"cosup.{alias.name}" for alias in node.names)
            else:
                yield node.module


def is_for_types(node: ast.AST) -> TypeGuard[ast.If]:
    """Return whether it is `if TYPE_CHECKING:`."""
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
    )


def room_of(path: Path) -> str:
    return path.relative_to(HOUSE).parts[0].removesuffix(".py")


def test_imports_go_down() -> None:
    wrong: list[str] = []
    for path in FILES:
        room = room_of(path)
        if room == "__init__":
            continue
        for module in imports(path):
            if not module.startswith("cosup."):
                continue
            other = module.split(".")[1]
            if other in (room, "__version__"):
                continue
            down = FLOOR[other] < FLOOR[room] or FLOOR[other] == FLOOR[room] == 0
            if not down:
                wrong.append(f"{path.relative_to(HOUSE)} (floor of {room}) imports {module}")
    assert not wrong, wrong


def closure(module: str) -> set[str]:
    """Return the modules that importing a module of cosup imports: of cosup, and others by top
    package. Imports within functions wait for their use."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        if name.startswith("cosup."):
            waiting.append(name.rpartition(".")[0])  # a package is imported before its modules
        waiting.extend(imported_with(name))
    return found


@cache
def imported_with(name: str) -> set[str]:
    """Return the modules of cosup and the other packages that a module of cosup imports first."""
    if name not in MODULES:
        return set()
    found = at_import(tree_of(MODULES[name]).body)
    return {module if module in MODULES else module.split(".")[0] for module in found}


def at_import(body: Sequence[ast.stmt]) -> Iterator[str]:
    """Yield every module imported by statements that run when their module is imported."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in names)
        elif is_for_types(node):
            yield from at_import(node.orelse)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for part in ("body", "orelse", "handlers", "finalbody"):
                yield from at_import(getattr(node, part, []))


@pytest.mark.parametrize("floor", range(len(FLOORS)))
def test_a_floor_imports_nothing_from_above(floor: int) -> None:
    for name, path in MODULES.items():
        room = room_of(path)
        if FLOOR.get(room) == floor:
            above = {
                other
                for other in closure(name)
                if FLOOR.get(other.removeprefix("cosup.").split(".")[0], 0) > floor
                and other.startswith("cosup.")
            }
            assert not above, f"{name} imports {sorted(above)}"


def test_the_algorithm_needs_torch_and_numpy_alone() -> None:
    for name, path in MODULES.items():
        if room_of(path) in PAPER:
            outside = {top for top in closure(name) if not top.startswith("cosup")}
            assert outside <= {"torch", "numpy"} | STANDARD, f"{name}: {sorted(outside - STANDARD)}"


def test_settings_need_the_standard_library_alone() -> None:
    for name, path in MODULES.items():
        if room_of(path) == "settings":
            outside = {top for top in closure(name) if not top.startswith("cosup")}
            assert outside <= STANDARD, f"{name}: {sorted(outside - STANDARD)}"


def test_configs_are_loaded_without_torch_and_pandas() -> None:
    heavy = {"torch", "torchvision", "timm", "pandas", "sklearn", "scipy", "pyarrow"}
    assert not heavy & closure("cosup.config"), heavy & closure("cosup.config")


@pytest.mark.parametrize("name", ["cosup.config.schema", "cosup.config.load"])
def test_config_needs_neither_torch_nor_pandas(name: str) -> None:
    assert not closure(name) & {"torch", "torchvision", "timm", "pandas", "ray", "scipy", "sklearn"}


def test_loading_a_config_imports_neither_torch_nor_pandas() -> None:
    script = (
        "import sys\n"
        "from cosup.config import load_config\n"
        "load_config('configs/quickstart.yaml')\n"
        "heavy = {'torch', 'pandas', 'timm', 'ray'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=HOUSE.parent
    )
    assert done.returncode == 0, done.stderr


def test_ray_is_imported_by_the_cluster_floor_alone() -> None:
    for path in FILES:
        if room_of(path) != "cluster":
            assert not [m for m in imports(path) if m.split(".")[0] == "ray"], path


def test_no_module_prints() -> None:
    for path in FILES:
        for node in ast.walk(tree_of(path)):
            called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            assert not (called and node.func.id == "print"), path  # type: ignore[attr-defined]


def test_import_cosup_is_light() -> None:
    script = (
        "import sys, cosup\n"
        "heavy = {'torch', 'ray', 'pandas', 'timm', 'numpy', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert cosup.__version__\n"
        "cosup.validate('quickstart')\n"
        "assert 'torch' not in sys.modules\n"
        "assert {'run', 'load_run', 'Config', 'UserError'} <= set(dir(cosup))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_cosup_offers_is_imported_when_it_is_used() -> None:
    assert not {"Scopes", "assignment"} - set(dir(cosup))
    for name in ("losses", "consistency", "metrics", "Evidence", "Scopes"):
        assert getattr(cosup, name) is not None
    assert cosup.assignment.ASSIGNERS
    with pytest.raises(AttributeError, match="nothing"):
        _ = cosup.nothing
