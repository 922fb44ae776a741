"""Where source images are read from: one folder, local or on an object store, never outside it.

A local file is opened by Python alone, once, after its location was resolved and found to lie under
the root. What an error says of a root leaves out the URI's credentials and query.
"""

import errno
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from pyarrow import fs

from catalog_batch.errors import BadInputError
from catalog_batch.imaging import Reason, Rejection
from catalog_batch.ingest.reading import (
    announce_local,
    changed,
    modified_at,
    read_local,
    too_large,
)
from catalog_batch.ingest.tar_shards import (
    SHARDS_OPEN,
    SUFFIX,
    Container,
    LocalContainer,
    RemoteContainer,
    TarShards,
    utc,
)

_FOLDERS_REMEMBERED = 4096
_CONTROL_CHARACTER = re.compile(r"[\0-\x1f]")


@dataclass(frozen=True)
class SourceFile:
    """A file that is there: its path in the file system, size in bytes, modification time (UTC).

    With a ``member``, the path and the time are those of the tar shard that holds it, and the size
    is not known before the shard is opened.
    """

    path: str
    size: int | None
    modified_at: datetime | None
    member: str | None = None


class ImageRoot:
    """The folder that all images of a manifest lie in; opened once by each process.

    It remembers folders' real paths and open shards, so it should live as long as the work does.
    """

    def __init__(self, uri: str) -> None:
        """Open the root: a local path, ``file://``, ``s3://``, ``s3a://``, ``hdfs://`` or ``gs://``.

        Raises:
            BadInputError: When no file system serves the URI.
        """
        self.uri = shown_uri(uri)
        """What may be shown of the URI: no credentials, no query."""
        self._files, self._root = _file_system(uri)
        self.is_local = isinstance(self._files, fs.LocalFileSystem)
        self._real_root = os.path.realpath(self._root) if self.is_local else self._root
        self._prefixes = _prefixes(self.uri, self._root)
        self._real_folder = lru_cache(_FOLDERS_REMEMBERED)(os.path.realpath)
        # A local shard is looked at for each row; on a store that would be a request for each.
        self._shard: Callable[[str], SourceFile | Rejection] = (
            self._file if self.is_local else lru_cache(SHARDS_OPEN)(self._file)
        )
        self._shards = TarShards(self._open_shard)

    def require_folder(self) -> None:
        """Refuse a root that is not there: every image would seem to be missing.

        Raises:
            BadInputError: When the root is no folder.
        """
        try:
            is_folder = self._files.get_file_info(self._root).type == fs.FileType.Directory
        except OSError as error:
            raise BadInputError(
                f"The image root {self.uri!r} cannot be looked at: {_unreadable(error).detail}. "
                "Check the endpoint, the credentials and the bucket."
            ) from None
        if not is_folder:
            raise BadInputError(
                f"The image root {self.uri!r} is no folder. Check --images, or mount it."
            )

    def find(self, image_uri: str) -> SourceFile | Rejection:
        """Look an image up without opening it.

        Args:
            image_uri: Relative to the root, or an absolute location that lies under it; taken as
                it is, without decoding. ``shards/0.tar/a.jpg`` is a member of a tar shard.
        """
        parts = self._confined(image_uri)
        if isinstance(parts, Rejection):
            return parts
        try:
            # Most locations hold no shard; the text tells so fast.
            return (self._member(parts) if "tar/" in image_uri else None) or self._file(
                "/".join(parts)
            )
        except (FileNotFoundError, NotADirectoryError):
            return Rejection(Reason.MISSING, f"no file {image_uri[:150]!r} under the image root")
        except (OSError, ValueError) as error:
            return _unreadable(error)

    def announce(self, file: SourceFile) -> None:
        """Tell that a file will be read soon: a local one is then in memory, without a thread."""
        if self.is_local and file.member is None and not self._has_left(file):
            announce_local(file.path)

    def read(self, file: SourceFile, max_bytes: int) -> bytes | Rejection:
        """Read the whole file that was found; may be called by several threads.

        Args:
            file: What ``find`` returned, here or in another process.
            max_bytes: A larger file is rejected unread.
        """
        if file.size is not None and file.size > max_bytes:
            return too_large(file.size)
        try:
            if self.is_local and self._has_left(file):
                return Rejection(Reason.OUTSIDE_ROOT, "the folder now leaves the image root")
            if file.member is not None:
                return self._shards.read(file.path, file.member, file.modified_at, max_bytes)
            if self.is_local:
                return read_local(file.path, file.size, file.modified_at)
            return self._read_remote(file)
        except (FileNotFoundError, NotADirectoryError):
            return Rejection(Reason.MISSING, "the file vanished before it was read")
        except (OSError, ValueError) as error:
            # A link took the place of the file, and was not followed.
            return changed() if _errno(error) == errno.ELOOP else _unreadable(error)

    def _confined(self, image_uri: str) -> list[str] | Rejection:
        """Return the parts under the root, decided by the text alone; symbolic links come later."""
        if _CONTROL_CHARACTER.search(image_uri):
            return Rejection(Reason.OUTSIDE_ROOT, "the location holds a control character")
        relative = image_uri
        for prefix in self._prefixes:
            if image_uri.startswith(prefix):
                relative = image_uri[len(prefix) :]
                break
        parts = [part for part in relative.split("/") if part not in ("", ".")]
        if not parts or ".." in parts or relative[0] == "/" or "://" in relative:
            return Rejection(Reason.OUTSIDE_ROOT, "the location does not lie under the image root")
        return parts

    def _member(self, parts: list[str]) -> SourceFile | None:
        """Return the member if a part before the last is a tar file, and no folder of that name."""
        for count, part in enumerate(parts[:-1], start=1):
            if part.endswith(SUFFIX):
                shard = self._shard("/".join(parts[:count]))
                if isinstance(shard, SourceFile):
                    member = "/".join(parts[count:])
                    return SourceFile(shard.path, None, shard.modified_at, member)
        return None

    def _file(self, relative: str) -> SourceFile | Rejection:
        return self._local_file(relative) if self.is_local else self._remote_file(relative)

    def _local_file(self, relative: str) -> SourceFile | Rejection:
        folder, _, name = f"{self._root.rstrip('/')}/{relative}".rpartition("/")
        folder = self._real_folder(folder)
        path = f"{folder}/{name}"
        status = os.lstat(path) if self._is_inside(folder) else None
        if status and stat.S_ISLNK(status.st_mode):
            path = os.path.realpath(path)
            # Still a link where links lead in a circle.
            status = os.stat(path) if self._is_inside(path) else None
        if status is None:
            return Rejection(Reason.OUTSIDE_ROOT, "a symbolic link leaves the image root")
        if not stat.S_ISREG(status.st_mode):
            return Rejection(Reason.UNREADABLE, f"not a file but {_kind(status.st_mode)}")
        return SourceFile(path, status.st_size, modified_at(status))

    def _has_left(self, file: SourceFile) -> bool:
        """Return whether the folder of a local file now leads out of the root."""
        return not self._is_inside(os.path.realpath(os.path.dirname(file.path)))

    def _is_inside(self, path: str) -> bool:
        root = self._real_root
        return path == root or path.startswith(root if root == "/" else f"{root}/")

    def _remote_file(self, relative: str) -> SourceFile | Rejection:
        path = f"{self._root.rstrip('/')}/{relative}"
        info: Any = self._files.get_file_info(path)
        if info.type == fs.FileType.NotFound:
            raise FileNotFoundError(path)
        if info.type != fs.FileType.File:
            return Rejection(Reason.UNREADABLE, f"not a file but a {info.type.name.lower()}")
        return SourceFile(path, info.size, utc(info.mtime))

    def _read_remote(self, file: SourceFile) -> bytes | Rejection:
        # Not "detect", the default: it would unpack x.jpg.gz, however large that becomes.
        with self._files.open_input_stream(file.path, compression=None) as stream:
            content = bytes(stream.read((file.size or 0) + 1))
        return content if len(content) == file.size else changed()

    def _open_shard(self, path: str) -> Container:
        return LocalContainer(path) if self.is_local else RemoteContainer(self._files, path)


def shown_uri(uri: str) -> str:
    """Return the URI without credentials and query, fit for logs, errors and tables."""
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme == "file":
        return uri
    host, slash, path = rest.partition("?")[0].partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def _file_system(uri: str) -> tuple[fs.FileSystem, str]:
    try:
        if "://" not in uri:
            return fs.LocalFileSystem(), os.path.abspath(uri)
        files, root = fs.FileSystem.from_uri(uri.replace("s3a://", "s3://", 1))
        return files, root
    except (OSError, ValueError) as error:
        # The text of an error quotes the URI, and so does that of its cause.
        shown = shown_uri(uri)
        why = error if shown == uri else type(error).__name__
        raise BadInputError(f"No file system serves the image root {shown!r}: {why}") from None


def _prefixes(uri: str, root: str) -> tuple[str, ...]:
    """Return what an absolute location under the root begins with."""
    scheme = urlsplit(uri).scheme if "://" in uri else ""
    uris = [uri] if scheme else []
    if scheme in ("s3", "s3a"):
        uris = [f"{name}://{root}" for name in ("s3", "s3a")] + uris
    # A relative root is no prefix: images/ may hold a folder images/. Nor is a bucket's name.
    return tuple(f"{text.rstrip('/')}/" for text in [*uris, *([root] if root[:1] == "/" else [])])


def _unreadable(error: Exception) -> Rejection:
    # Only the kind of error: its text holds paths and, on object stores, signed addresses.
    number = _errno(error)
    return Rejection(Reason.UNREADABLE, os.strerror(number) if number else type(error).__name__)


def _errno(error: Exception) -> int | None:
    return error.errno if isinstance(error, OSError) else None


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a pipe" if stat.S_ISFIFO(mode) else "a device or socket"
