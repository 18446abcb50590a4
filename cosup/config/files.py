"""Find and read the files of configs: at a path, or by the name of one that comes with cosup.

The shipped configs are written in `configs/` of the source tree. An installed package contains them
as `cosup/configs` (pyproject.toml).
"""

import difflib
import os
from pathlib import Path

from cosup.errors import UserError, unknown_of_many

_PACKAGE = Path(__file__).parents[1]
MOST_BYTES = 2**20
"""A hundred times the longest config of cosup's; PyYAML takes ten seconds for it."""
_ALLOWED = "a name that `cosup ls configs` lists"


BENCH = "bench"
"""The names of benches that come with cosup begin so; they stand among its configs."""


def shipped_configs() -> dict[str, Path]:
    """Return name -> file of the configs that come with cosup, sorted by name."""
    return {name: path for name, path in _shipped_files().items() if not name.startswith(BENCH)}


def shipped_benches() -> dict[str, Path]:
    """Return name -> file of the benches that come with cosup, sorted by name."""
    return {name: path for name, path in _shipped_files().items() if name.startswith(BENCH)}


def _shipped_files() -> dict[str, Path]:
    inside = _PACKAGE / "configs"
    folder = inside if inside.is_dir() else _PACKAGE.parent / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_config(given: Path) -> Path:
    """Return the file of a config: a file at the path, or the shipped config of that name.

    Without either the path is returned, for `read_text` to say what is wrong with it.
    """
    return given if _is_file(given) else _shipped(given) or given


def find_bench(given: Path) -> Path:
    """Return the file of a bench, as `find_config` does that of a config."""
    return given if _is_file(given) else _shipped_bench(given) or given


def find_base(given: str, named_in: Path) -> Path:
    """Return the file that `base: given` in the file `named_in` extends.

    A path is relative to `named_in`. A file there comes before a shipped config of that name, but
    for `named_in` itself: a copy of a shipped config may have the name of its base.
    """
    path = named_in.parent / given
    is_other = _is_file(path) and not _is_same(path, named_in)
    return path if is_other else _shipped(Path(given)) or path


def read_text(path: Path) -> str:
    """Return the text of a config file; raise `UserError` if there is no such text file."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) <= MOST_BYTES:
            return content.decode()
        problem = f"longer than {MOST_BYTES:,} bytes; give a YAML file of settings"
    except FileNotFoundError:
        raise _no_such_file(path) from None
    except IsADirectoryError:
        problem = "is a folder; give a YAML file"
    except PermissionError:
        problem = "not readable (permission denied)"
    except UnicodeDecodeError as error:
        problem = f"not a text file (byte {error.start} is not UTF-8)"
    except (OSError, ValueError) as error:
        problem = f"not readable ({getattr(error, 'strerror', error)})"
    raise UserError(problem, where=f"config {path}")


def read_shipped(name: str) -> str:
    """Return the text of a shipped config, given with or without `.yaml`; raise `UserError` for an
    unknown name, with the nearest ones."""
    return _known(name).read_text(encoding="utf-8")


def copy_shipped(name: str, target: Path) -> Path:
    """Copy a shipped config word for word to a new file, or into a folder; return the new file.

    The copy means the same wherever it is, as a shipped base is found by its name (`find_base`).
    Raises `UserError` for an unknown name, and for a target that exists or cannot be written.
    """
    source = _known(name)
    new = target / source.name if os.path.isdir(target) else target
    write_new(new, source.read_bytes())
    return new


def write_new(path: Path, content: bytes) -> None:
    """Write a config to a new file; raise `UserError` if it exists or cannot be written."""
    from cosup.files import write_atomic  # imports safetensors, which reading a config need not

    check_new(path)
    try:
        write_atomic(path, content)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot be written ({reason})", where=str(path)) from None


def check_new(path: Path) -> None:
    """Raise `UserError` if something has this name."""
    if os.path.lexists(path):
        raise UserError("exists already; give the name of a new file", where=str(path))


def _is_file(path: Path) -> bool:
    return os.path.exists(path) and not os.path.isdir(path)  # a pipe too


def _is_same(path: Path, named_in: Path) -> bool:
    # A config that is written in Python is in no file.
    return os.path.exists(named_in) and os.path.samefile(path, named_in)


def _shipped(given: Path) -> Path | None:
    """Return the shipped config with a name, given with or without `.yaml`; None for a path."""
    if given.parent != Path():
        return None
    return shipped_configs().get(given.name.removesuffix(".yaml"))


def _shipped_bench(given: Path) -> Path | None:
    """Return the shipped bench with a name; None for a path."""
    if given.parent != Path():
        return None
    return shipped_benches().get(given.name.removesuffix(".yaml"))


def _known(name: str) -> Path:
    found = _shipped(Path(name)) or _shipped_bench(Path(name))
    if found is None:
        raise unknown_of_many("config", name, shipped_configs(), _ALLOWED, like=Path(name).stem)
    return found


def _no_such_file(path: Path) -> UserError:
    there = sorted(p.name for p in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
    listed = f" (in {path.parent}: {', '.join(there)})" if there else ""
    near = [
        *difflib.get_close_matches(path.name, there, n=1),
        *difflib.get_close_matches(path.stem, shipped_configs(), n=1),
    ]
    return UserError(
        f"no such file{listed}",
        where=f"config {path}",
        allowed=f"the path of a YAML file, or {_ALLOWED}",
        nearest=near,
    )
