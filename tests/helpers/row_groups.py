"""A Parquet file of one large row group, and what is held of it while its first rows are read."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 200_000


def first_rows_held(path: Path, column: str, read: Callable[[], Iterator[Any]]) -> tuple[Any, int]:
    """Write texts in a column, and a label, as one row group; return the first of what is read,
    and the bytes that Arrow holds then, in percent of the file.

    read: reads the file; the first 1000 texts are `texts(1000)`.
    """
    columns = {column: texts(ROWS), "label": ["cat"] * ROWS}
    pq.write_table(pa.table(columns), path, row_group_size=ROWS)
    before = pa.total_allocated_bytes()
    rows = read()
    first = next(rows)
    held = pa.total_allocated_bytes() - before
    rows.close()  # type: ignore[attr-defined]
    return first, 100 * held // path.stat().st_size


def texts(count: int) -> list[str]:
    """Return the first texts; they are random, so that they take the file's bytes."""
    text = np.random.default_rng(0).bytes(20 * count).hex()
    return [text[start : start + 40] for start in range(0, len(text), 40)]
