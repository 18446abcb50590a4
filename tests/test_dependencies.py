"""Test that pyproject.toml declares the packages that cosup imports, and those it consists of."""

import ast
import re
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]
DECLARED = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = DECLARED["project"]
OPTIONAL = {
    "aiohttp",
    "crowd-kit",
    "datasets",
    "mlflow-skinny",
    "onnxruntime",
    "open-clip-torch",
    "requests",
    "wandb",
}
"""Imported only where the user asks for what an extra provides."""
THERE = {"ipython"}
"""Imported only in a notebook, which runs in it."""


def normalized(name: str) -> str:
    """Return a distribution's name in normal form (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def distributions(requirements: list[str]) -> set[str]:
    """Return the names of the required distributions."""
    names = (re.match(r"[\w.-]+", requirement) for requirement in requirements)
    return {normalized(match[0]) for match in names if match}


@cache
def imported_modules() -> set[str]:
    """Return the top-level modules that cosup imports, inside functions too."""
    modules: set[str] = set()
    for path in (ROOT / "cosup").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Import(names=names):
                    modules |= {alias.name.partition(".")[0] for alias in names}
                case ast.ImportFrom(module=str() as module, level=0):
                    modules.add(module.partition(".")[0])
                case ast.Call(
                    func=ast.Attribute(attr="import_module"),
                    args=[ast.Constant(value=str() as module)],
                ):
                    modules.add(module.partition(".")[0])
    return modules - set(sys.stdlib_module_names) - {"cosup"}


@cache
def imported_distributions() -> set[str]:
    """Return the distributions that cosup imports."""
    known = packages_distributions()
    return {normalized(known.get(module, [module])[0]) for module in imported_modules()}


def test_imports_are_declared() -> None:
    required = distributions(PROJECT["dependencies"])
    assert imported_distributions() - OPTIONAL - THERE - required == set()


def test_declared_packages_are_imported() -> None:
    assert distributions(PROJECT["dependencies"]) - imported_distributions() == set()


def test_optional_imports_belong_to_an_extra() -> None:
    extras = PROJECT["optional-dependencies"]
    shipped = (distributions(needed) for name, needed in extras.items() if name != "test")
    assert OPTIONAL & imported_distributions() <= set().union(*shipped)


def test_the_test_extra_contains_the_others() -> None:
    """CI installs the extra `test` alone, and its tests cover the other extras."""
    extras = PROJECT["optional-dependencies"]
    others = set().union(*(distributions(extras[name]) for name in extras if name != "test"))
    assert others <= distributions(extras["test"])


def test_every_folder_of_the_package_is_installed() -> None:
    """A folder that pyproject.toml does not list is missing after `pip install`."""
    files = [path.relative_to(ROOT) for path in (ROOT / "cosup").rglob("*") if path.is_file()]
    folders = {".".join(path.parent.parts) for path in files if path.suffix != ".pyc"}
    assert set(DECLARED["tool"]["setuptools"]["packages"]) == folders | {"cosup.configs"}
