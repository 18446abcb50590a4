"""What `import cosup` offers: modules that show what is meant, and examples that run."""

import doctest
import importlib
import types

import pytest

MODULES = ["assignment", "consistency", "losses", "metrics"]
EXAMPLES = ["co_supervision", "decisions", "evidence", "losses.base"]


@pytest.mark.parametrize("name", ["", *MODULES])
def test_a_module_shows_what_is_meant(name: str) -> None:
    module = importlib.import_module(f"cosup.{name}" if name else "cosup")
    assert dir(module) == sorted(module.__all__)
    for each in module.__all__:
        found = getattr(module, each)
        if name:
            assert not isinstance(found, types.ModuleType), each
            assert found.__doc__, each


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_in_docstrings_run(name: str) -> None:
    failed, tried = doctest.testmod(importlib.import_module(f"cosup.{name}"))
    assert tried > 0
    assert failed == 0
