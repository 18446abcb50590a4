"""Some samples of a table, as a network reads them: rows, decoded when they are needed."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cosup.data.table import ImageData


@dataclass(frozen=True)
class ImageRows:
    """The samples `rows` [N] of `data`, in this order."""

    data: ImageData
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Tensor) -> "ImageRows":
        """Some of them: index is int64 [n] or bool [N]."""
        return ImageRows(self.data, self.rows[index.numpy()])
