"""The images of a run that a person may review, and what each source says of them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from cosup.analysis.arrays import Codes, Doubles, categories, codes
from cosup.analysis.records import Answers, Run
from cosup.sources import STUDENT

__all__ = ["Pool", "pool_from_table", "pool_of_run", "pool_table", "random_numbers"]

SAID, LIKELY = "said ", "likely "
"""Columns of the table of a pool, before the name of a source."""
AT_ONCE = 4096


@dataclass(frozen=True)
class Pool:
    """N images that may be reviewed, and what S sources say of them, the student last.

    sample_ids: [N], unique. groups: [N], images of one group are alike. names: [S]. said: [N, S]
    classes, -1 for no answer. likely: [N, S], the estimated probability that the answer is right, 0
    without one. label: [N], the run's own class, -1 where it has none. numbers: [N, 2] random
    numbers in (0, 1), for either reason. They are permanent (Ohlsson 1995): a later review
    continues the draw of an earlier one.
    """

    sample_ids: Sequence[str]
    groups: Codes
    names: Sequence[str]
    said: Codes
    likely: Doubles
    label: Codes
    numbers: Doubles

    def __len__(self) -> int:
        return len(self.sample_ids)


def random_numbers(sample_ids: Sequence[str], seed: int) -> Doubles:
    """Return two numbers in (0, 1) for each image [N, 2], a hash of the seed and its id."""
    numbers = np.empty((len(sample_ids), 2))
    for place, name in enumerate(sample_ids):
        digest = hashlib.sha256(f"{seed}\x1f{name}".encode(errors="surrogateescape")).digest()
        numbers[place] = [int.from_bytes(part, "big") for part in (digest[:6], digest[6:12])]
    found: Doubles = (numbers + 0.5) / 2**48
    return found


def pool_of_run(run: Run, seed: int) -> Pool:
    """Return the samples of student_train of a run that has estimated its sources.

    The student is that of the last round. How likely an answer is right is the posterior of the
    true class from all sources (METHODS.md section 10). The run's own class is its final label.
    """
    train, last = run.train, run.rounds[-1]
    student = run.files.round(last).train.read(len(run.classes), len(train))
    answers = [*(run.annotated(name) for name in run.teacher_names), Answers.of(student)]
    said = np.stack([answer.label for answer in answers], axis=1)
    posterior = run.files.posterior.read(len(run.classes), len(train))
    likely = np.zeros(said.shape)
    for start in range(0, len(train), AT_ONCE):
        rows = slice(start, start + AT_ONCE)
        labels = torch.from_numpy(said[rows])
        found = posterior.dense(rows).gather(1, labels.clamp_min(0)) * (labels >= 0)
        likely[rows] = found.double().numpy()
    label = run.files.labels.read(["label"])["label"]
    ids = [str(name) for name in train["sample_id"]]
    return Pool(
        ids,
        train["group"].to_numpy(np.int64),
        [*run.teacher_names, STUDENT],
        said,
        likely,
        codes(label, run.classes),
        random_numbers(ids, seed),
    )


def pool_table(pool: Pool, reasons: Sequence[str], classes: Sequence[str]) -> pd.DataFrame:
    """Return a pool as a table, with the reason why each image was chosen ("": it was not)."""
    columns = {
        "sample_id": pd.Series(list(pool.sample_ids), dtype="str"),
        "group": pool.groups,
        "reason": pd.Series(list(reasons), dtype="str"),
        "label": categories(pool.label, classes),
        "random": pool.numbers[:, 0],
        "contested": pool.numbers[:, 1],
    }
    for place, name in enumerate(pool.names):
        columns[f"{SAID}{name}"] = categories(pool.said[:, place], classes)
        columns[f"{LIKELY}{name}"] = pool.likely[:, place]
    return pd.DataFrame(columns)


def pool_from_table(table: pd.DataFrame, classes: list[str]) -> tuple[Pool, list[str]]:
    """Return the pool of a table, and the reason why each image was chosen."""
    names = [name.removeprefix(SAID) for name in map(str, table) if name.startswith(SAID)]
    pool = Pool(
        [str(name) for name in table["sample_id"]],
        table["group"].to_numpy(np.int64),
        names,
        np.stack([codes(table[f"{SAID}{name}"], classes) for name in names], axis=1),
        np.stack([table[f"{LIKELY}{name}"].to_numpy(np.float64) for name in names], axis=1),
        codes(table["label"], classes),
        table[["random", "contested"]].to_numpy(np.float64),
    )
    return pool, [str(reason) for reason in table["reason"]]
