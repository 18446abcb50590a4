"""Any bytes as a config: it is read, or refused with lines that name what is wrong."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.fuzzing import SCALARS, budgets, changed, damaged, hold, refusal
from hypothesis import strategies as st

from cosup.config import dump_config, load_config
from cosup.config.files import shipped_configs
from cosup.config.keys import documented_settings
from cosup.config.schema import Config
from cosup.config.yaml import to_line

SHIPPED = {name: path.read_bytes() for name, path in shipped_configs().items()}
TREES = {name: yaml.safe_load(content) for name, content in SHIPPED.items()}
KEYS = sorted({one.key.replace("N", "0") for one in documented_settings()})


def read(given: Any, *overrides: str) -> None:
    """Load a config, which must be valid or refused with a line per mistake."""
    found: list[Config] = []
    error = refusal(lambda: found.append(load_config(given, *overrides)))
    if error is None:
        dump_config(found[0]).encode()  # what is stored of it


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "c.yaml"


@budgets
def test_any_bytes(examples: int, file: Path) -> None:
    def prop(content: bytes) -> None:
        file.write_bytes(content)
        read(file)

    some = st.sampled_from(sorted(SHIPPED.values()))
    hold(prop, examples, content=st.one_of(some.flatmap(damaged), st.binary(max_size=200)))


@budgets
def test_any_values(examples: int, file: Path) -> None:
    trees = st.sampled_from([TREES[name] for name in sorted(TREES)])
    hold(read, examples, given=trees.flatmap(changed))


@budgets
def test_any_overrides(examples: int, file: Path) -> None:
    def prop(key: str, value: Any, text: str, as_text: bool) -> None:
        read("quickstart", f"{key}={text if as_text else to_line(value)}")

    keys = st.one_of(st.sampled_from(KEYS), st.text(max_size=12))
    values = st.one_of(SCALARS, st.lists(SCALARS, max_size=3))
    hold(prop, examples, key=keys, value=values, text=st.text(max_size=12), as_text=st.booleans())
