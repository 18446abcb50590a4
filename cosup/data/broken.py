"""Decode the images of a collection once, and set broken ones aside."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cosup.data.images import Images, Ints, find_broken, has_printable_name, unprintable
from cosup.data.section import DataSection
from cosup.data.sources.base import Collection
from cosup.errors import RunError, UserError
from cosup.files import to_json
from cosup.shared_files import read_shared, write_shared

__all__ = ["log_broken", "set_aside", "try_images", "without_broken"]

log = logging.getLogger(__name__)

MOST_NAMED = 10
"""Broken images that are named."""
TRIED = 100
"""Images that are decoded before a run, to see whether they can be."""


def without_broken(
    collection: Collection, section: DataSection, workers: int, cache: Path | None
) -> tuple[Collection, tuple[str, ...]]:
    """Return the collection without broken images, and the ids of those.

    Raise `UserError` if their share is above `max_broken`.
    """
    images, table = collection.images, collection.table
    indices = table["image"].to_numpy(np.int64)
    if not images.files:
        return collection, ()
    if section.check == "none":
        broken = _unprintable(images, indices)
    else:
        broken = _checked_once(images, indices, workers, cache)
    if not broken:
        return collection, ()
    places = sorted(broken)
    names = [str(name) for name in table["sample_id"].iloc[places]]
    set_aside(section, [broken[place] for place in places], len(places), len(table))
    return collection.without(names), tuple(names)


def set_aside(section: DataSection, reasons: Sequence[str], count: int, total: int) -> None:
    """Log that `count` images of `total` are set aside. reasons: of all of them, or of the first.

    Raise `UserError` if their share is above `max_broken`.
    """
    if count > section.max_broken * total:
        raise _too_many(section, f"{count} of {total} images", total, reasons[0])
    if count:
        log_broken(reasons, total, count)


def log_broken(reasons: Sequence[str], total: int, count: int | None = None) -> None:
    """Log that images of `total` are set aside, and why the first ones are broken. count: how many,
    if there are more than reasons."""
    count = len(reasons) if count is None else count
    more = f" and {count - MOST_NAMED} more" if count > MOST_NAMED else ""
    named = "; ".join(reasons[:MOST_NAMED])
    log.warning("set aside %d of %d images: %s%s", count, total, named, more)


def try_images(section: DataSection, collection: Collection) -> None:
    """Decode up to `TRIED` images, evenly spread over the collection, as a quick look.

    Raise `UserError` if more of them are broken than `max_broken` allows of all, or half of them.
    """
    if section.check == "none" or not collection.images.files:
        return
    indices = collection.table["image"].to_numpy(np.int64)
    tried = indices[np.unique(np.linspace(0, len(indices) - 1, TRIED).astype(np.int64))]
    broken = find_broken(collection.images, tried, 1)
    count, total = len(broken), len(indices)
    if count > section.max_broken * total or count > max(0.5, section.max_broken) * len(tried):
        of = "" if len(tried) == total else " that were tried"
        text = f"{count} of {len(tried)} images{of}"
        raise _too_many(section, text, total, broken[min(broken)])


def _unprintable(images: Images, indices: Ints) -> dict[int, str]:
    """Return the images of names that cannot be printed, for which none need be decoded."""
    paths = ((place, images.where(index)) for place, index in enumerate(indices.tolist()))
    return {place: unprintable(path) for place, path in paths if not has_printable_name(path)}


def _too_many(section: DataSection, broken: str, total: int, reason: str) -> UserError:
    """Return the error for too many broken images."""
    allowed = int(section.max_broken * total)
    return UserError(
        f"{broken} cannot be read, and {allowed} are allowed; the first: {reason}",
        key="max_broken",
        value=section.max_broken,
    )


def _checked_once(
    images: Images, indices: Ints, workers: int, cache: Path | None
) -> dict[int, str]:
    """Return `find_broken`, read from `cache` if the same files were checked before."""
    path = None if cache is None else cache / "checks" / f"{images.fingerprint(indices)}.json"
    found = None if path is None else read_shared(path)
    if found is not None:
        return {int(place): reason for place, reason in json.loads(found).items()}
    log.info("decoding %d images to check them", len(indices))
    broken = find_broken(images, indices, workers)
    if path is None:
        return broken
    try:
        write_shared(path, to_json(broken).encode())
    except (OSError, RunError) as error:
        log.warning("cannot write to '%s', so images are checked again: %s", path.parent, error)
    return broken
