"""Checks of samples, before anything is trained on them."""

import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cosup.data.images import BrokenImage, Images
from cosup.data.section import SPLITS
from cosup.data.splits import codes
from cosup.errors import UserError

log = logging.getLogger(__name__)

_NAMED = 10
_CHUNK = 64


def broken_images(
    images: Images, indices: NDArray[np.int64], workers: int, cache: Path | None
) -> dict[int, str]:
    """Which of these images can't be decoded (their places in `indices`), and why.

    What was found is kept in `cache` under the images' fingerprint, so the same files are decoded
    for this once only.
    """
    if not images.files:
        return {}
    kept = None if cache is None else cache / "checks" / f"{images.fingerprint(indices)}.json"
    if kept is not None and kept.is_file():
        found = json.loads(kept.read_text(encoding="utf-8"))
        return {int(place): reason for place, reason in found.items()}
    log.info("decoding %d images to check them", len(indices))
    starts = range(0, len(indices), _CHUNK)

    def check(start: int) -> dict[int, str]:
        chunk = indices[start : start + _CHUNK].tolist()
        reasons = {start + place: _fault(images, index) for place, index in enumerate(chunk)}
        return {place: reason for place, reason in reasons.items() if reason is not None}

    with ThreadPoolExecutor(max(1, workers)) as pool:
        broken = {place: why for part in pool.map(check, starts) for place, why in part.items()}
    if kept is not None:
        _keep(kept, broken)
    return broken


def report_broken(names: list[str], reasons: list[str], total: int, allowed: float) -> None:
    """Warn of broken images by name; `UserError` if they are more than the share `allowed`."""
    if not names:
        return
    if len(names) > allowed * total:
        raise UserError(
            f"data: {len(names)} of {total} images can't be read, and data.max_broken {allowed:g} "
            f"allows {int(allowed * total)}; the first: {reasons[0]}"
        )
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    shown = "; ".join(reasons[:_NAMED])
    log.warning("set aside %d of %d images: %s%s", len(names), total, shown, more)


def check_ids(table: pd.DataFrame) -> None:
    """Every sample has a name of its own."""
    twice = table["sample_id"].duplicated()
    if twice.any():
        name = table.loc[twice, "sample_id"].iloc[0]
        count = int((table["sample_id"] == name).sum())
        raise UserError(f"data: sample_id '{name}' stands for {count} samples; each needs its own")


def check_splits(
    table: pd.DataFrame,
    classes: tuple[str, ...],
    wanted: set[str],
    grouped: bool,
    share_train: bool = False,
) -> None:
    """No wanted split is empty, none lacks a class, labels are there, no group is in two splits.

    A split that training or testing has no use for (teacher_train where it is shared, test where
    novel classes measure) is empty.
    """
    if len(classes) < 2:
        raise UserError(f"data: one class only ('{''.join(classes)}'); at least 2 are needed")
    counts = table["split"].value_counts()
    for split in SPLITS:
        if split in wanted and counts.get(split, 0) == 0:
            present = ", ".join(f"{name} {counts.get(name, 0)}" for name in SPLITS)
            raise UserError(f"data.splits: no sample in {split} (found: {present})")
    for split, setting in (("teacher_train", "share_train"), ("test", "few_shot")):
        if split not in wanted and counts.get(split, 0):
            raise UserError(
                f"data.{setting}: {counts[split]} samples are in {split}; it must be empty then"
            )
    _check_labels(table, share_train)
    _check_classes(table, classes, wanted)
    if grouped:
        _check_groups(table)


def _check_labels(table: pd.DataFrame, share_train: bool) -> None:
    allowed = [""] if share_train else ["student_train", ""]
    unknown = table[(table["label"] < 0) & ~table["split"].isin(allowed)]
    if len(unknown):
        first = unknown.iloc[0]
        rule = (
            "with data.share_train teachers need all of them"
            if share_train
            else "only student_train may hold such samples"
        )
        raise UserError(
            f"data: sample '{first['sample_id']}' in {first['split']} has no label; {rule}"
        )


def _check_classes(table: pd.DataFrame, classes: tuple[str, ...], wanted: set[str]) -> None:
    complete = [split for split in SPLITS if split in wanted and split != "validation"]
    for split in complete:
        labels = table.loc[table["split"] == split, "label"].to_numpy(np.int64)
        if (labels < 0).any():
            continue
        lacking = np.flatnonzero(np.bincount(labels, minlength=len(classes)) == 0)
        if len(lacking):
            name = classes[lacking[0]]
            counts = table.loc[table["label"] == lacking[0], "split"].value_counts()
            where = ", ".join(f"{counts[key]} in {key or 'none'}" for key in counts.index)
            more = f" (and {len(lacking) - 1} more classes)" if len(lacking) > 1 else ""
            raise UserError(
                f"data.splits: class '{name}'{more} has no sample in {split} "
                f"(its samples: {where or 'none at all'}); every class must be in "
                f"{', '.join(complete)}"
            )


def _check_groups(table: pd.DataFrame) -> None:
    used = table[table["split"] != ""]
    pairs = pd.DataFrame({"group": codes(used["group"]), "split": codes(used["split"])})
    twice = pairs.drop_duplicates()["group"].duplicated()
    if twice.any():
        code = pairs.drop_duplicates().loc[twice, "group"].iloc[0]
        rows = used[(pairs["group"] == code).to_numpy()]
        raise UserError(
            f"data.splits: group '{rows['group'].iloc[0]}' is in "
            f"{' and '.join(dict.fromkeys(rows['split']))}; a group must be in one split"
        )


def _fault(images: Images, index: int) -> str | None:
    try:
        images.read(index)
    except BrokenImage as error:
        return str(error)
    return None


def _keep(path: Path, broken: dict[int, str]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.tmp")
        partial.write_text(json.dumps(broken), encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        log.warning("can't keep which images were checked in '%s': %s", path.parent, error.strerror)
