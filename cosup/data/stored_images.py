"""Images that a manifest names: files at paths and URIs, or members of tar files."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cosup.data.images import (
    BrokenImage,
    Ints,
    file_stat,
    has_printable_name,
    read_image,
    unprintable,
)
from cosup.data.storage import in_folder, read_bytes
from cosup.errors import UserError
from cosup.progress import working_on
from cosup.remote import is_uri
from cosup.secrets import mask

__all__ = ["MemberImages", "Members", "UriImages"]


class UriImages:
    """Image files by path or URI.

    names: paths and URIs; "" names no image. folders: what each starts from if it is relative.
    about: what else the fingerprint depends on: the state of the manifest.
    """

    files = True

    def __init__(self, names: Sequence[str], folders: Sequence[str], about: str = "") -> None:
        self.names = names
        self.folders = folders
        self.about = about

    def __len__(self) -> int:
        return len(self.names)

    def uri(self, index: int) -> str:
        """Return the whole path or URI, "" for none.

        They are made when they are asked for: many samples are only read for their ids.
        """
        name = self.names[index]
        return name and in_folder(self.folders[index], name)

    def where(self, index: int) -> str:
        """Return the path, or the URI without its secrets."""
        return mask(self.uri(index))

    def read(self, index: int) -> Image.Image:
        """Read and decode a file; raise `BrokenImage` if it is missing or no image, and `RunError`
        if its storage fails."""
        uri = self.uri(index)
        if not uri:
            raise BrokenImage(f"row {index + 1} of these names no image")
        if not has_printable_name(uri):
            raise BrokenImage(unprintable(uri))
        if not is_uri(uri):
            return read_image(uri)
        try:
            content = read_bytes(uri)
        except (OSError, UserError) as error:
            raise BrokenImage(f"'{mask(uri)}': {_reason(error)}") from None
        return read_image(mask(uri), content)

    def fingerprint(self, indices: Ints) -> str:
        """Return a hash of the names, of the manifest, and of sizes and modification times of the
        files on this machine. Files at URIs are not looked at: each takes a request."""
        digest = hashlib.sha256(f"uris\x1f{self.about}\x1e".encode())
        with working_on("looking at image files:", len(indices)) as advance:
            for index in indices.tolist():
                uri = self.uri(index)
                stat = "" if is_uri(uri) else file_stat(uri)
                digest.update(f"{uri}\x1f{stat}\x1e".encode(errors="surrogateescape"))
                advance(1)
        return digest.hexdigest()


@dataclass(frozen=True)
class Members:
    """Where the images of tar files are.

    tars: paths or URIs of the tar files. stats: size and time of the last change of each. tar,
    start, size: int64 [N], the file of each image, and the bytes that it takes in it. names: [N].
    """

    tars: Sequence[str]
    stats: Sequence[str]
    tar: NDArray[np.int64]
    start: NDArray[np.int64]
    size: NDArray[np.int64]
    names: Sequence[str] = field(repr=False)


class MemberImages:
    """Image files within tar files, each read from its place."""

    files = True

    def __init__(self, members: Members) -> None:
        self.members = members

    def __len__(self) -> int:
        return len(self.members.names)

    def where(self, index: int) -> str:
        """Return the tar file and the name of the image in it."""
        return f"{mask(self._tar(index))}/{self.members.names[index]}"

    def read(self, index: int) -> Image.Image:
        """Read and decode an image; raise `BrokenImage` if that fails, and `RunError` if the
        storage does."""
        name = self.where(index)
        if not has_printable_name(name):
            raise BrokenImage(unprintable(name))
        start, size = int(self.members.start[index]), int(self.members.size[index])
        try:
            content = read_bytes(self._tar(index), start, size)
        except (OSError, UserError) as error:
            raise BrokenImage(f"'{name}': {_reason(error)}") from None
        return read_image(name, content)

    def fingerprint(self, indices: Ints) -> str:
        """Return a hash of the names and places of the images, and of the sizes and modification
        times of the tar files."""
        members, order = self.members, np.ascontiguousarray(indices, dtype=np.int64)
        digest = hashlib.sha256(b"members")
        for path, stat in zip(members.tars, members.stats, strict=True):
            digest.update(f"{path}\x1f{stat}\x1e".encode(errors="surrogateescape"))
        for places in (members.tar, members.start, members.size):
            digest.update(places[order].tobytes())
        names = "\x1f".join(members.names[index] for index in order.tolist())
        digest.update(names.encode(errors="surrogateescape"))
        return digest.hexdigest()

    def _tar(self, index: int) -> str:
        return self.members.tars[int(self.members.tar[index])]


def _reason(error: OSError | UserError) -> str:
    if isinstance(error, UserError):
        return error.problem
    return error.strerror.lower() if error.strerror else "no such file or directory"
