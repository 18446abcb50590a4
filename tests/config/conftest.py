from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return a function that writes a config, by default one that extends `base.yaml`."""
    monkeypatch.chdir(tmp_path)

    def written(text: str, name: str = "c.yaml", base: str = "base.yaml") -> Path:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((f"base: {base}\n" if base else "") + text)
        return path

    return written
