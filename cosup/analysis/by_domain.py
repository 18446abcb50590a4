"""Every supervision's accuracy by domain, as papers on data of several domains print it."""

import numpy as np
import pandas as pd

from cosup.analysis.arrays import codes, repeated
from cosup.analysis.base import Absent, categories, need_student
from cosup.analysis.records import Run

__all__ = ["MEAN", "supervision_domains_table"]

MEAN = "mean over domains"
"""How the row for all domains, each of them counting alike, is called."""


def supervision_domains_table(run: Run) -> pd.DataFrame:
    """A row per supervision and domain of what measures, then one for its mean over the domains.

    who, kind (student, control, teacher; the order of `overview`), domain, samples, accuracy. The
    mean ("mean over domains") is the unweighted one of the domains' accuracies, the "Avg" of papers
    on DomainNet; its samples are those of all domains. Domains without a sample are left out.
    """
    need_student(run)
    names = list(run.prepared["measured_domains"])
    place = np.where(run.truth >= 0, codes(run.test["domain"], names), -1)
    samples = np.bincount(place[place >= 0], minlength=len(names))
    there = np.flatnonzero(samples)
    if not len(there):
        raise Absent("no true label of what measures is known")
    if len(there) == 1:
        raise Absent("what measures is of one domain alone")
    everybody = [(kind, who) for kind, who in run.predictors() if kind != "round"]
    accuracy = np.empty((len(everybody), len(there) + 1))
    for row, (kind, who) in enumerate(everybody):
        right = place[run.correct(kind, who) & (place >= 0)]
        accuracy[row, :-1] = np.bincount(right, minlength=len(names))[there] / samples[there]
    accuracy[:, -1] = accuracy[:, :-1].mean(1)
    width = accuracy.shape[1]
    kinds = pd.CategoricalDtype(["student", "control", "teacher"])
    known = list(dict.fromkeys([*names, MEAN]))
    columns = [*there, known.index(MEAN)]
    return pd.DataFrame(
        {
            "who": repeated([who for _, who in everybody], width),
            "kind": pd.Categorical(np.repeat([kind for kind, _ in everybody], width), dtype=kinds),
            "domain": categories(np.tile(columns, len(everybody)), known),
            "samples": np.tile([*samples[there], samples.sum()], len(everybody)),
            "accuracy": accuracy.ravel(),
        }
    )
