"""Where source images are read from: one folder, local or on an object store, never outside it."""

import os
import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

from pyarrow import fs

from catalog_batch.errors import BadInputError
from catalog_batch.imaging import Reason, Rejection


@dataclass(frozen=True)
class SourceFile:
    """A file that is there: its path in the file system, size in bytes, modification time (UTC)."""

    path: str
    size: int
    modified_at: datetime | None


class ImageRoot:
    """The folder that all images of a manifest lie in; opened anew on each executor."""

    def __init__(self, uri: str) -> None:
        """Open the root: a local path, ``file://``, ``s3://``, ``s3a://``, ``hdfs://`` or ``gs://``.

        Raises:
            BadInputError: When no file system serves the URI.
        """
        self.uri = uri
        try:
            if "://" in uri:
                location = uri.replace("s3a://", "s3://", 1)
                self._files, self._root = fs.FileSystem.from_uri(location)
            else:
                self._files, self._root = fs.LocalFileSystem(), os.path.abspath(uri)
        except (OSError, ValueError) as error:
            raise BadInputError(f"No file system serves the image root {uri!r}: {error}") from error
        self._is_local = isinstance(self._files, fs.LocalFileSystem)
        self._real_root = os.path.realpath(self._root) if self._is_local else self._root

    def require_folder(self) -> None:
        """Refuse a root that is not there: every image would seem to be missing.

        Raises:
            BadInputError: When the root is no folder.
        """
        if self._files.get_file_info(self._root).type != fs.FileType.Directory:
            raise BadInputError(
                f"The image root {self.uri!r} is no folder. Check --images, or mount it."
            )

    def find(self, image_uri: str) -> SourceFile | Rejection:
        """Look an image up without opening it.

        Args:
            image_uri: Relative to the root, or an absolute location that lies under it.
        """
        path = self._confined(image_uri)
        if isinstance(path, Rejection):
            return path
        try:
            return self._regular_local_file(path) if self._is_local else self._remote_file(path)
        except (FileNotFoundError, NotADirectoryError):
            return Rejection(Reason.MISSING, f"no file {image_uri!r} under the image root")
        except (OSError, ValueError) as error:
            return _unreadable(error)

    def read(self, file: SourceFile) -> bytes | Rejection:
        """Read a whole file."""
        try:
            # Not "detect", the default: it would unpack x.jpg.gz, however large that becomes.
            with self._files.open_input_stream(file.path, compression=None) as stream:
                return bytes(stream.read())
        except FileNotFoundError:
            return Rejection(Reason.MISSING, "the file vanished while it was read")
        except (OSError, ValueError) as error:
            return _unreadable(error)

    def _confined(self, image_uri: str) -> str | Rejection:
        """Return the path under the root, decided by the text alone; symbolic links come later."""
        if any(ord(character) < 32 for character in image_uri):
            return Rejection(Reason.OUTSIDE_ROOT, "the location holds a control character")
        relative = image_uri
        for root in (self.uri, self._root):
            # A relative root is no prefix: images/ may hold a folder images/.
            if "://" in root or root.startswith("/"):
                relative = relative.removeprefix(root.rstrip("/") + "/")
        parts = PurePosixPath(relative).parts
        if "://" in relative or relative.startswith("/") or ".." in parts or not parts:
            return Rejection(Reason.OUTSIDE_ROOT, "the location does not lie under the image root")
        return f"{self._root.rstrip('/')}/{relative}"

    def _regular_local_file(self, path: str) -> SourceFile | Rejection:
        real = os.path.realpath(path)
        if os.path.commonpath([real, self._real_root]) != self._real_root:
            return Rejection(Reason.OUTSIDE_ROOT, "a symbolic link leaves the image root")
        status = os.stat(real)
        if not stat.S_ISREG(status.st_mode):
            return Rejection(Reason.UNREADABLE, f"not a file but {_kind(status.st_mode)}")
        modified_at = datetime.fromtimestamp(status.st_mtime_ns // 1000 / 1e6, tz=UTC)
        return SourceFile(real, status.st_size, modified_at)

    def _remote_file(self, path: str) -> SourceFile | Rejection:
        info: Any = self._files.get_file_info(path)
        if info.type == fs.FileType.NotFound:
            raise FileNotFoundError(path)
        if info.type != fs.FileType.File:
            return Rejection(Reason.UNREADABLE, f"not a file but a {info.type.name.lower()}")
        modified_at = info.mtime.replace(tzinfo=UTC) if info.mtime else None
        return SourceFile(path, info.size, modified_at)


def _unreadable(error: Exception) -> Rejection:
    # Only the kind of error: its text holds paths and, on object stores, signed addresses.
    number = getattr(error, "errno", None)
    return Rejection(Reason.UNREADABLE, os.strerror(number) if number else type(error).__name__)


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a pipe" if stat.S_ISFIFO(mode) else "a device or socket"
