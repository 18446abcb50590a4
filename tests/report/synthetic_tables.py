"""Random tables in the format of `cosup.analysis.tables`, of any size.

They have what the real runs of the tests lack: hundreds of teachers, thousands of classes, and
names with markup.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from cosup.analysis.supervision_domains import MEAN


def synthetic_tables(
    teachers: Sequence[str], classes: Sequence[str], domains: Sequence[str], rounds: int = 2
) -> dict[str, pd.DataFrame]:
    """Return all tables of a report. The first teacher is a generalist, alone in round 1."""
    draw = np.random.default_rng(0)
    by_round = {n: list(teachers[:1] if n == 1 else teachers[1:]) for n in range(1, rounds + 1)}
    return {
        "overview": _overview(teachers, draw),
        "limits": _limits(),
        "candidates": _candidates(),
        "sources": _sources(teachers, draw),
        "source_parts": _source_parts(teachers, classes, domains, draw),
        "agreement": _agreement(teachers, draw),
        "evidence": _evidence(teachers, draw),
        "source_tables": _source_tables(teachers, draw),
        "labels": _labels(classes, draw),
        "review_list": _review_list(teachers, classes, draw),
        "teachers": _teachers(teachers, draw),
        "rounds": _rounds(by_round, draw),
        "load": _load(by_round, teachers, draw),
        "assignment": _assignment(by_round, teachers, classes, domains, draw),
        "flow": _flow(by_round, teachers, draw),
        "annotation_accuracy": _annotations(teachers, classes, draw),
        "filters": _filters(rounds, draw),
        "student_teachers": _student_teachers(teachers, draw),
        "classes": _names(classes, draw),
        "domains": _names(domains, draw),
        "supervision_domains": _supervision_domains(teachers, domains, draw),
        "confusion": _confusion(classes, draw),
        "calibration": _calibration(draw),
        "weights": _weights(rounds, draw),
        "examples": _examples(teachers, classes, domains, draw),
        "cost": _cost(draw),
        "shifted": _shifted(teachers, draw),
    }


def named(values: Sequence[str], names: Sequence[str]) -> "pd.Categorical[str]":
    return pd.Categorical(values, list(dict.fromkeys(names)))


def _overview(teachers: Sequence[str], draw: Any) -> pd.DataFrame:
    controls = ["best_teacher", "mean_ensemble", "equal_budget_generalist", "ceiling"]
    who = ["student", *controls, *teachers]
    kind = ["student", *["control"] * len(controls), *["teacher"] * len(teachers)]
    accuracy = draw.uniform(0.2, 0.95, len(who))
    gain = accuracy[0] - accuracy
    return pd.DataFrame(
        {
            "who": who,
            "kind": kind,
            "accuracy": accuracy,
            "low": accuracy - 0.02,
            "high": accuracy + 0.02,
            "pgr": draw.uniform(-1, 1, len(who)),
            "gain": gain,
            "gain_low": gain - 0.03,
            "gain_high": gain + 0.03,
            "p_value": [None, *draw.uniform(0, 0.1, len(who) - 1)],
        }
    )


def _shifted(teachers: Sequence[str], draw: Any) -> pd.DataFrame:
    parts = [
        _overview(teachers, draw).assign(set=name, samples=count, lost=lost)
        for name, count, lost in (("test", 900, 0.0), ("night", 80, 0.2), ("noise", 900, -0.01))
    ]
    return pd.concat(parts, ignore_index=True)


def _limits() -> pd.DataFrame:
    return pd.DataFrame(
        [
            ["filters", "no_filter", "student", 0.8, 0.1, 0.05, 0.15, ""],
            ["loss", "", "", None, None, None, None, "plain_loss: not run"],
            ["routing", "loss_oracle", "student", 0.75, 0.05, -0.01, 0.11, ""],
            ["annotations", "ceiling", "loss_oracle", 0.9, 0.15, 0.1, 0.2, ""],
        ],
        columns=["limit", "control", "over", "accuracy", "gain", "low", "high", "missing"],
    )


def _candidates() -> pd.DataFrame:
    settings = "assignment fused, loss cross_entropy"
    return pd.DataFrame(
        [
            ["<b>fused", settings, "validation", 300, 0.8, None, True, ""],
            ["gate & filter", settings, "validation", 300, None, None, False, "a weak judge"],
        ],
        columns=[
            "candidate",
            "settings",
            "by",
            "samples",
            "accuracy",
            "score",
            "chosen",
            "rejected",
        ],
    )


def _sources(teachers: Sequence[str], draw: Any) -> pd.DataFrame:
    """The last teacher cannot be judged."""
    names = [*teachers, "student"]
    right = draw.uniform(0.2, 0.9, len(names))
    right[-2] = np.nan
    notes = ["random", "constant", "copy", "adversarial"]
    return pd.DataFrame(
        {
            "source": names,
            "kind": "hard",
            "coverage": draw.uniform(0.1, 1, len(names)),
            "samples": [500] * (len(names) - 2) + [0, 500],
            "reliability": right,
            "low": right - 0.02,
            "high": right + 0.02,
            "accuracy": draw.uniform(0.2, 0.9, len(names)),
            "accuracy_low": 0.1,
            "accuracy_high": 0.95,
            "share": 1 / len(names),
            "group": [", ".join(teachers[:2]), *[None] * (len(names) - 1)],
            "note": [None, *(notes[place % 4] for place in range(len(names) - 1))],
        }
    )


def _source_tables(teachers: Sequence[str], draw: Any) -> pd.DataFrame:
    matched, unmatched = draw.integers(1, 900, len(teachers)), draw.integers(0, 9, len(teachers))
    return pd.DataFrame(
        {
            "source": teachers,
            "rows": matched + unmatched,
            "matched": matched,
            "unmatched": unmatched,
            "matched_by": "by path",
            "abstained": 1000 - matched,
            "annotated": 1000,
        }
    )


def _agreement(teachers: Sequence[str], draw: Any) -> pd.DataFrame:
    """The first two teachers never answer the same sample."""
    names = [*teachers, "student"]
    pairs = [
        (name, other)
        for place, name in enumerate(names)
        for other in [*names[place + 1 :], "labels"]
    ]
    table = pd.DataFrame(pairs, columns=["source", "other"])
    table["share"] = draw.uniform(0, 1, len(table))
    table.loc[0, "share"] = np.nan
    return table


def _labels(classes: Sequence[str], draw: Any) -> pd.DataFrame:
    """Nothing is labelled as the last class, and the accuracy is unknown."""
    count = draw.integers(1, 500, len(classes))
    count[-1] = 0
    right = np.where(count > 0, draw.uniform(0.2, 1, len(classes)), np.nan)
    return pd.DataFrame(
        {
            "class": list(classes),
            "samples": count,
            "share": count / count.sum(),
            "estimated_right": right,
            "accuracy": np.nan,
        }
    )


def _review_list(teachers: Sequence[str], classes: Sequence[str], draw: Any) -> pd.DataFrame:
    """No true label is known, and no teacher answers the last sample."""
    label = [classes[i] for i in draw.integers(0, len(classes), 24)]
    said = [f"{teachers[0]}: {name}; {teachers[-1]}: {classes[0]}" for name in label]
    return pd.DataFrame(
        {
            "review_rank": np.arange(1, 25),
            "sample_id": [f"{classes[i % len(classes)]}/{i:04d}.png" for i in range(24)],
            "label": label,
            "probability": np.linspace(0.3, 0.6, 24),
            "runner_up": label[::-1],
            "runner_up_probability": np.linspace(0.29, 0.4, 24),
            "source": "both",
            "teacher": None,
            "rejected_by": None,
            "student_label": label,
            "student_confidence": draw.uniform(0.5, 1, 24),
            "true_label": None,
            "domain": None,
            "sources": [*said[:-1], ""],
        }
    )


def _source_parts(
    teachers: Sequence[str], classes: Sequence[str], domains: Sequence[str], draw: Any
) -> pd.DataFrame:
    """Some cells have few samples, and some none."""
    rows = [
        {"source": source, "by": by, "name": name}
        for source in [*teachers, "student"]
        for by, names in (("region", domains), ("class", classes))
        for name in names
    ]
    table = pd.DataFrame(rows)
    table["samples"] = draw.choice([0.0, 3.0, 400.0], len(table))
    right = draw.uniform(0, 1, len(table))
    table["reliability"] = np.where(table["samples"] > 0, right, np.nan)
    table["accuracy"] = table["reliability"]
    return table


def _evidence(teachers: Sequence[str], draw: Any) -> pd.DataFrame:
    starts = [np.nan, 0.0, 1.0, 2.0, 4.0, 8.0]
    samples = draw.integers(1, 100, len(teachers) * len(starts))
    return pd.DataFrame(
        {
            "teacher": named(np.repeat(teachers, len(starts)), teachers),
            "nats_from": np.tile(starts, len(teachers)),
            "samples": samples,
            "share": samples / samples.sum(),
            "correct": draw.uniform(0, 1, len(samples)),
        }
    )


def _teachers(teachers: Sequence[str], draw: Any) -> pd.DataFrame:
    size = len(teachers)
    outside = draw.uniform(0, 0.5, size)
    outside[0] = np.nan
    return pd.DataFrame(
        {
            "teacher": named(teachers, teachers),
            "level": [0, *[1] * (size - 1)],
            "kind": "linear_pixels",
            "scope": ["all", *[f"domain {i}" for i in range(size - 1)]],
            "steps": 300,
            "accuracy": draw.uniform(0.2, 0.7, size),
            "low": 0.1,
            "high": 0.8,
            "accuracy_inside": draw.uniform(0.5, 0.9, size),
            "accuracy_outside": outside,
            "samples_inside": 100,
            "samples_outside": 300,
            "coverage": 1.0,
            "parent": [None, *[teachers[0]] * (size - 1)],
        }
    )


def _rounds(by_round: dict[int, list[str]], draw: Any) -> pd.DataFrame:
    rows = []
    for number, names in by_round.items():
        shares = ("assignment_accuracy", "annotation_accuracy", "kept", "kept_precision")
        rows.append(
            {
                "round": number,
                "level": number - 1,
                "teachers": len(names),
                "assigner": "gate",
                **{name: draw.uniform(0.3, 1) for name in shares},
                "kept_recall": 0.9,
                "student_accuracy": 0.8,
                "effective_teachers": float(len(names)),
                "entropy": float(np.log2(len(names))),
                "changed": None if number == 1 else 0.5,
                "soft": False,
            }
        )
    return pd.DataFrame(rows).astype({"changed": float})


def _load(by_round: dict[int, list[str]], teachers: Sequence[str], draw: Any) -> pd.DataFrame:
    parts = []
    for number, names in by_round.items():
        samples = draw.integers(1, 1000, len(names))
        parts.append(
            pd.DataFrame(
                {
                    "round": number,
                    "level": number - 1,
                    "teacher": named(names, teachers),
                    "samples": samples,
                    "share": samples / samples.sum(),
                    "kept": 0.8,
                    "annotation_accuracy": draw.uniform(0.3, 1, len(names)),
                    "kept_accuracy": draw.uniform(0.3, 1, len(names)),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def _assignment(
    by_round: dict[int, list[str]],
    teachers: Sequence[str],
    classes: Sequence[str],
    domains: Sequence[str],
    draw: Any,
) -> pd.DataFrame:
    parts = []
    for number, names in by_round.items():
        for by, wanted in (("domain", domains), ("class", classes)):
            weight = draw.dirichlet(np.full(len(names), 0.1), len(wanted))
            column, row = np.nonzero(weight > 0.01)
            parts.append(
                pd.DataFrame(
                    {
                        "round": number,
                        "teacher": named([names[i] for i in row], teachers),
                        "by": by,
                        "name": [wanted[i] for i in column],
                        "samples": (weight[column, row] * 500).astype(int) + 1,
                        "share": weight[column, row],
                        "annotation_accuracy": draw.uniform(0, 1, len(row)),
                        "kept": draw.uniform(0, 1, len(row)),
                    }
                )
            )
    return pd.concat(parts, ignore_index=True)


def _flow(by_round: dict[int, list[str]], teachers: Sequence[str], draw: Any) -> pd.DataFrame:
    rows = [
        (first, source, first + 1, target, int(draw.integers(1, 100)))
        for first in range(1, len(by_round))
        for source in by_round[first]
        for target in by_round[first + 1]
    ]
    table = pd.DataFrame(
        rows, columns=["round", "teacher", "next_round", "next_teacher", "samples"]
    )
    return table.assign(
        teacher=named(table["teacher"], teachers),
        next_teacher=named(table["next_teacher"], teachers),
    )


def _annotations(teachers: Sequence[str], classes: Sequence[str], draw: Any) -> pd.DataFrame:
    size = len(teachers) * len(classes)
    return pd.DataFrame(
        {
            "teacher": named(np.repeat(teachers, len(classes)), teachers),
            "class": named(np.tile(classes, len(teachers)), classes),
            "samples": 20,
            "accuracy": draw.uniform(0, 1, size),
            "assigned_samples": 10,
            "assigned_accuracy": draw.uniform(0, 1, size),
        }
    )


def _filters(rounds: int, draw: Any) -> pd.DataFrame:
    rows = [
        (number, name, 100, 0.1, draw.uniform(0, 1), draw.uniform(0, 1))
        for number in range(1, rounds + 1)
        for name in ("all", "teacher_student", "local_global")
    ]
    columns = ["round", "filter", "rejected", "share", "precision", "recall"]
    return pd.DataFrame(rows, columns=columns)


def _student_teachers(teachers: Sequence[str], draw: Any) -> pd.DataFrame:
    parts = []
    for where in ("all", "inside", "outside"):
        shares = draw.dirichlet(np.ones(5), len(teachers))
        part = pd.DataFrame({"teacher": named(teachers, teachers), "where": where, "samples": 100})
        part["agreement"] = shares[:, 0] + shares[:, 3]
        names = ("both_right", "student_only", "teacher_only", "same_error", "other_error")
        parts.append(part.assign(**dict(zip(names, shares.T, strict=True))))
    return pd.concat(parts, ignore_index=True)


def _names(names: Sequence[str], draw: Any) -> pd.DataFrame:
    size = len(names)
    table = pd.DataFrame({"name": named(names, names), "samples": 50})
    for column in ("student", "floor", "first_round", "ceiling"):
        table[column] = draw.uniform(0.2, 1, size)
    table["gained"] = table["student"] - table["floor"]
    table["to_ceiling"] = table["ceiling"] - table["student"]
    return table.assign(assigned_accuracy=0.8, kept=0.9)


def _supervision_domains(
    teachers: Sequence[str], domains: Sequence[str], draw: Any
) -> pd.DataFrame:
    """Return an empty table for a single domain."""
    if len(domains) < 2:
        return pd.DataFrame()
    controls = ["zero_shot", "best_teacher", "ceiling"]
    who = ["student", *controls, *teachers]
    kind = ["student", *["control"] * len(controls), *["teacher"] * len(teachers)]
    samples = draw.integers(1, 100, len(domains))
    accuracy = draw.uniform(0, 1, (len(who), len(domains)))
    accuracy = np.column_stack([accuracy, accuracy.mean(1)])
    width = len(domains) + 1
    names = [*domains, MEAN]
    return pd.DataFrame(
        {
            "who": named(np.repeat(who, width), who),
            "kind": named(np.repeat(kind, width), ["student", "control", "teacher"]),
            "domain": named(np.tile(names, len(who)), names),
            "samples": np.tile([*samples, samples.sum()], len(who)),
            "accuracy": accuracy.ravel(),
        }
    )


def _confusion(classes: Sequence[str], draw: Any) -> pd.DataFrame:
    true = np.repeat(np.arange(len(classes)), 4)
    predicted = (true + np.tile(np.arange(4), len(classes))) % len(classes)
    return pd.DataFrame(
        {
            "true": named([classes[i] for i in true], classes),
            "predicted": named([classes[i] for i in predicted], classes),
            "samples": draw.integers(1, 30, len(true)),
        }
    )


def _calibration(draw: Any) -> pd.DataFrame:
    edges = np.linspace(0, 1, 16)
    parts = [
        pd.DataFrame(
            {
                "who": who,
                "low": edges[:-1],
                "high": edges[1:],
                "samples": draw.integers(0, 100, 15),
                "confidence": (edges[:-1] + edges[1:]) / 2,
                "accuracy": draw.uniform(0, 1, 15),
            }
        )
        for who in ("student", "round 1", "round 2", "control ceiling")
    ]
    return pd.concat(parts, ignore_index=True)


def _weights(rounds: int, draw: Any) -> pd.DataFrame:
    rows = [
        (number, step, name, draw.uniform(0, 1))
        for number in range(1, rounds + 1)
        for step in (1, 50, 100, 150)
        for name in ("adaptive_weight", "loss")
    ]
    return pd.DataFrame(rows, columns=["round", "step", "name", "value"])


def _examples(
    teachers: Sequence[str], classes: Sequence[str], domains: Sequence[str], draw: Any
) -> pd.DataFrame:
    kinds = ("rejected_right", "kept_wrong", "contested", "student_wrong")
    size = 24 * len(kinds)
    label = [classes[i] for i in draw.integers(0, len(classes), size)]
    return pd.DataFrame(
        {
            "kind": np.repeat(kinds, 24),
            "rank": np.tile(np.arange(1, 25), len(kinds)),
            "sample_id": [f"{classes[i % len(classes)]}/{i:04d}.png" for i in range(size)],
            "split": "student_train",
            "teacher": [teachers[i % len(teachers)] for i in range(size)],
            "annotation": label,
            "annotation_confidence": draw.uniform(0.5, 1, size),
            "student_label": label[::-1],
            "student_confidence": draw.uniform(0.5, 1, size),
            "true_label": label,
            "domain": domains[0],
            "rejected_by": "local_global",
            "score": draw.uniform(0, 1, size),
        }
    )


def _cost(draw: Any) -> pd.DataFrame:
    stages = ["data", "features", "teachers", "annotate", "rounds", "rounds", "controls"]
    seconds = draw.uniform(0.5, 50, len(stages))
    return pd.DataFrame(
        {
            "stage": stages,
            "part": [None, None, None, None, "round 1", "round 2", "ceiling"],
            "seconds": seconds,
            "share": seconds / seconds.sum(),
            "images": pd.array([100, 100, None, 100, None, None, None], dtype="Int64"),
            "images_per_second": [10.0, 20.0, None, 500.0, None, None, None],
        }
    )
