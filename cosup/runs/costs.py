"""Estimate what a run costs: peak memory, disk and time.

Most figures were measured on one core of a shared machine without a GPU (`tests/benchmarks`):
`bench_scale.py` (assignment, filters, heads), `bench_report.py` (tables of decisions),
`bench_predict.py` (images through a backbone) and the quickstart (what a run holds whatever its
size); those of crowd-kit are told where it is used (`cosup.assignment.crowd_kit`). How often
annotations are read, and the bytes of a row of decisions, are assumed. Memory was within a fifth of
that of runs on up to 57,000 images of Fashion-MNIST (`mean`, `crowd_kit`, `neighbours`, refinement
with neighbours); time was within a factor of three of the quickstart's, as processors differ, and
so do networks with the same image size.
"""

from dataclasses import dataclass
from pathlib import Path

from cosup.assignment.crowd_kit import answer_bytes
from cosup.probabilities import row_bytes
from cosup.runs.machine import free_disk, usable_memory
from cosup.runs.searches import Search
from cosup.sharded.order import WINDOW

__all__ = ["CostsPlan", "Extent", "planned_costs", "row_bytes"]

PROCESS = 900e6
"""Bytes of the libraries and of batches, in any run (the quickstart's peak is 1.1 GiB)."""
DECISION_MEMORY, DECISION_DISK = 150, 30
"""Bytes of a row of decisions in the tables of the report, and in Parquet."""
PANEL = 2**26 * 4 * 4
"""Most bytes of the evidence on which `fused` fits exponents and groups, and of what is made of it.
It is fitted in every run: it judges the sources where it does not assign them."""
MATRICES, MOST_CELLS = 12, 2**27
"""Bytes per cell of confusion matrices while they are estimated (float64 counts, float32 rates),
and the most cells of `fused`."""
READING = 1e-8
"""Seconds to read an annotation's probability of one class, and to use it."""
READINGS = {"dawid_skene": 25, "fused": 20}
"""Times that an assigner reads all annotations; others: twice."""
ELSEWHERE = 20
"""Times that the annotations are read for filters, sources and measures."""
HEAD_SAMPLE, HEAD_CELL = 1.5e-6, 1.5e-10
"""Seconds for a sample in a step of a head, and for each product of a feature and a class."""
IMAGE, IMAGE_SIZE = 0.05, 224
"""Seconds of one core for an image of this size through EfficientNet-Lite0."""
START = 30.0
"""Seconds of a run whatever its size: imports, figures, pages."""


@dataclass(frozen=True)
class Extent:
    """How large a run is.

    samples: of student_train. others: of the test and validation splits. teachers: of the largest
    level. rounds: in all. fits: heads or networks that are trained, those of controls included.
    steps: samples in the training of one of them. features: numbers per image, 0 for a network
    that is trained whole. missing: images to pass through the backbone. image_size: their pixels.
    shard_rows: rows of a shard at most; None: all samples are listed. crowd_method: of the assigner
    `crowd_kit`. searches: for neighbours.
    """

    samples: int
    others: int
    classes: int
    teachers: int
    rounds: int
    fits: int
    steps: int
    features: int
    missing: int
    image_size: int
    assigner: str
    timed: bool = True
    shard_rows: int | None = None
    crowd_method: str = ""
    searches: tuple[Search, ...] = ()


@dataclass(frozen=True)
class CostsPlan:
    """What the run takes, to within a factor of three, and what there is of it, in bytes.

    seconds: None where they are not known. usable_memory: None where the machine does not report
    it.
    """

    memory: int
    disk: int
    seconds: float | None
    usable_memory: int | None
    free_disk: int | None
    """None for a run that is written elsewhere."""

    @property
    def too_much(self) -> list[str]:
        """What there is less of than the run takes."""
        pairs = (
            ("memory", self.memory, self.usable_memory),
            ("disk", self.disk, self.free_disk),
        )
        return [name for name, wanted, there in pairs if there is not None and wanted > there]


def planned_costs(extent: Extent, nbytes: int, folder: Path | None, seeds: int) -> CostsPlan:
    """Return what a run takes, and what there is of it.

    nbytes: of annotations and features on disk. folder: of the run, None where it is written
    elsewhere. seeds: how often the run is repeated.
    """
    once = _seconds(extent)
    return CostsPlan(
        memory=round(_memory(extent)),
        disk=nbytes + seeds * _disk(extent),
        seconds=None if once is None else seeds * once,
        usable_memory=usable_memory(),
        free_disk=None if folder is None else free_disk(folder),
    )


def _memory(of: Extent) -> float:
    """What grows with the samples are rows, and what an assigner or a filter holds of them all.

    Of a sharded run the rows are those of a window of samples.
    """
    samples = of.samples if of.shard_rows is None else min(of.samples, WINDOW)
    rows = 4 * row_bytes(of.classes) + 8 * of.teachers + DECISION_MEMORY * of.rounds
    panel = min(PANEL, samples * of.teachers * of.classes * 16)
    parts = (
        min(_matrices(of), MOST_CELLS * MATRICES) + panel,
        _matrices(of) if of.assigner == "dawid_skene" else 0,
        _crowd_kit(of),
        *(search.memory(of.shard_rows) for search in of.searches),
    )
    return PROCESS + (samples + of.others) * rows + max(parts)


def _matrices(of: Extent) -> int:
    """Return the bytes of all confusion matrices while they are estimated."""
    return of.teachers * of.classes**2 * MATRICES


def _crowd_kit(of: Extent) -> int:
    """Return the bytes of the assigner `crowd_kit`, of a sharded run too those of all samples."""
    if not of.crowd_method:
        return 0
    return of.samples * of.teachers * answer_bytes(of.crowd_method, of.classes)


def _disk(of: Extent) -> int:
    rows = (of.samples + of.others) * row_bytes(of.classes) + of.samples * DECISION_DISK
    return of.rounds * rows + of.fits * of.others * row_bytes(of.classes)


def _seconds(of: Extent) -> float | None:
    if not of.features or not of.timed:
        return None  # nothing was measured that would carry over
    values = of.samples * of.teachers * of.classes
    read = values * (of.rounds * READINGS.get(of.assigner, 2) + ELSEWHERE) * READING
    cell = HEAD_SAMPLE + HEAD_CELL * of.features * of.classes
    images = of.missing * IMAGE * (of.image_size / IMAGE_SIZE) ** 2
    searches = sum(search.seconds * search.times for search in of.searches)
    return START + read + searches + of.fits * of.steps * cell + images
