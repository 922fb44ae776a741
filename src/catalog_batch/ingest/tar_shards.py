"""Tar files as folders of images, in the manner of WebDataset: one index each, then random access.

Nothing is ever unpacked to disk, and a member's name is compared with names, never used as a path.
"""

import os
import stat
import tarfile
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from threading import Lock
from typing import IO, Any, Protocol, cast

from pyarrow import fs

from catalog_batch.imaging import Reason, Rejection
from catalog_batch.ingest.reading import FLAGS, changed, modified_at, read_at, too_large

SUFFIX = ".tar"
SHARDS_OPEN = 4
# A long name or a table of attributes is a header too; no honest one comes near this.
_MAX_HEADER_BYTES = 1 << 20
# What a damaged or hostile header makes tarfile raise.
_HEADER_ERRORS = (tarfile.TarError, ValueError, ArithmeticError, LookupError, RecursionError)


class Container(Protocol):
    """A file that can be read anywhere, by several threads."""

    block_bytes: int

    def modified_at(self) -> datetime | None:
        """Return the modification time, UTC."""

    def read_at(self, offset: int, size: int) -> bytes:
        """Return ``size`` bytes; fewer where the file ends."""


class LocalContainer:
    """A local file, open until nobody holds it."""

    block_bytes = 1 << 14

    def __init__(self, path: str) -> None:
        """Open the file, unless it is a link or no regular file."""
        self._descriptor = os.open(path, FLAGS)
        weakref.finalize(self, os.close, self._descriptor)
        if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            raise ValueError("not a regular file")

    def modified_at(self) -> datetime | None:
        """Return the present modification time of the open file."""
        return modified_at(os.fstat(self._descriptor))

    def read_at(self, offset: int, size: int) -> bytes:
        """Return ``size`` bytes; fewer where the file ends."""
        return read_at(self._descriptor, offset, size)


class RemoteContainer:
    """An object on a store; each read is a request, so headers are read in large blocks."""

    block_bytes = 1 << 20

    def __init__(self, files: fs.FileSystem, path: str) -> None:
        """Open the object."""
        self._modified_at = utc(files.get_file_info(path).mtime)
        self._file: Any = files.open_input_file(path)
        self._size: int = self._file.size()

    def modified_at(self) -> datetime | None:
        """Return the modification time when the object was opened."""
        return self._modified_at

    def read_at(self, offset: int, size: int) -> bytes:
        """Return ``size`` bytes; fewer where the object ends."""
        available = min(size, self._size - offset)
        return bytes(self._file.read_at(available, offset)) if available > 0 else b""


def utc(time: datetime | None) -> datetime | None:
    """Return the time as UTC, which pyarrow means but does not say in every version."""
    return time.replace(tzinfo=UTC) if time else None


class TarShard:
    """One tar file: where its members lie, and their bytes on demand."""

    def __init__(self, container: Container) -> None:
        """Build the index; a damaged file keeps the members before the damage."""
        self.container = container
        self.indexed_at = container.modified_at()
        # None stands for a member that is no regular file.
        self._places: dict[str, tuple[int, int] | None] = {}
        self.is_damaged = not self._index()

    def names(self) -> list[str]:
        """Return the names of regular files, in the order of the shard."""
        return [name for name, place in self._places.items() if place]

    def read(self, name: str, max_bytes: int) -> bytes | Rejection:
        """Read one member, or say why not."""
        if name not in self._places:
            if self.is_damaged:
                return Rejection(Reason.UNREADABLE, "the tar file is damaged before this member")
            return Rejection(Reason.MISSING, "the tar file has no such member")
        place = self._places[name]
        if place is None:
            return Rejection(Reason.UNREADABLE, "the member is a link, sparse or no file")
        offset, size = place
        if size > max_bytes:
            return too_large(size)
        content = self.container.read_at(offset, size)
        if len(content) < size:
            return Rejection(Reason.UNREADABLE, "the tar file ends within this member")
        return content

    def _index(self) -> bool:
        """Fill the index; return whether the tar file is whole."""
        headers = _Headers(self.container)
        try:
            # "r:" and not "r:*", the default: a packed tar would be unpacked, however large.
            with tarfile.open(fileobj=cast(IO[bytes], headers), mode="r:") as tar:
                for info in _members(tar):
                    is_plain = info.isreg() and not info.issparse()
                    place = (info.offset_data, info.size) if is_plain else None
                    # The last of two of one name counts, as it does for tar.
                    self._places[member_name(info.name)] = place
                # tarfile takes a bad header for the end, which is a block of zeros.
                return self.container.read_at(tar.offset, 512) == bytes(512)
        except _HEADER_ERRORS:
            return False


class TarShards:
    """The few tar files that were read last, with their indexes."""

    def __init__(self, open_container: Callable[[str], Container]) -> None:
        """Start with none.

        Args:
            open_container: Opens a path, or raises ``OSError``.
        """
        self._open = open_container
        self._shards: OrderedDict[str, TarShard] = OrderedDict()
        self._lock = Lock()

    def read(
        self, path: str, member: str, found_at: datetime | None, max_bytes: int
    ) -> bytes | Rejection:
        """Read a member of the tar file that was found with this modification time.

        Raises:
            OSError: When the tar file cannot be opened or read.
        """
        with self._lock:
            shard = self._shard(path, found_at)
        if shard is None:
            return changed()
        content = shard.read(member, max_bytes)
        return content if shard.container.modified_at() == found_at else changed()

    def _shard(self, path: str, found_at: datetime | None) -> TarShard | None:
        shard = self._shards.pop(path, None)
        # The index, not the open file: that one may have been written again, and knows it.
        if shard is None or shard.indexed_at != found_at:
            container = self._open(path)
            if container.modified_at() != found_at:
                return None
            shard = TarShard(container)
        self._shards[path] = shard
        if len(self._shards) > SHARDS_OPEN:
            self._shards.popitem(last=False)
        return shard


def member_name(name: str) -> str:
    """Return the name without empty and ``.`` parts: tar writes ``./a.jpg`` for ``a.jpg``."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    end = -1
    while (info := tar.next()) is not None:
        # A negative size would lead back to a header that was read before, for ever.
        if info.size < 0 or tar.offset <= end:
            raise tarfile.ReadError("the headers do not advance")
        end = tar.offset
        # tarfile would keep them all.
        tar.members = []  # type: ignore[attr-defined]
        yield info


class _Headers:
    """What tarfile needs of a file to read the headers, and no large content by accident."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._position = 0
        self._block, self._block_start = b"", 0

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> int:
        if position < 0:
            raise tarfile.ReadError("a header points before the start")
        self._position = position
        return position

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _MAX_HEADER_BYTES:
            raise tarfile.ReadError("a header is too large")
        start = self._position - self._block_start
        if start < 0 or start + size > len(self._block):
            want = max(size, self._container.block_bytes)
            self._block = self._container.read_at(self._position, want)
            self._block_start, start = self._position, 0
        content = self._block[start : start + size]
        self._position += len(content)
        return content
