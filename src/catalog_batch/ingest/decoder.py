"""What runs in the child of an executor: bytes to a decoded, measured image. No Spark here."""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, NamedTuple

from PIL import Image

from catalog_batch.imaging import Reason, Rejection, StoredImage, decode_image
from catalog_batch.ingest.parquet_rows import ParquetRows
from catalog_batch.ingest.policy import INGESTED, REJECTED, UNCHANGED, SourcePolicy
from catalog_batch.ingest.quality import measure
from catalog_batch.ingest.reading import announced, read_ahead
from catalog_batch.ingest.sources import ImageRoot, SourceFile


class Task(NamedTuple):
    """An image to decode, as it travels to the child."""

    file: SourceFile | None
    """None for an image that lies in the manifest itself."""

    content_file: str | None
    content_row: int | None
    sha256: str | None
    known_image_id: str | None
    modified_at: datetime | None


def start_decoder(policy: SourcePolicy) -> Callable[[Sequence[Task]], Iterator[dict[str, Any]]]:
    """Open the sources in the child; return what handles a batch there."""
    # The first hash loads scipy: not at the first image's expense.
    measure(Image.new("RGB", (64, 64)).effect_spread(9))
    root, inline = ImageRoot(policy.root), ParquetRows(policy.root)

    def read(task: Task) -> bytes | Rejection:
        if task.file is not None:
            return root.read(task.file, policy.max_source_bytes)
        return inline.read(task.content_file or "", task.content_row or 0, policy.max_source_bytes)

    def announced_bytes(task: Task) -> int:
        # The size of a shard's member is not known before it is read.
        known = task.file.size if task.file else 0
        return policy.max_source_bytes if known is None else known

    def announce(task: Task) -> None:
        if task.file is not None:
            root.announce(task.file)

    def process(tasks: Sequence[Task]) -> Iterator[dict[str, Any]]:
        # The rows of a Parquet file are read in order, by one cursor. Of local files the kernel
        # reads ahead: threads of ours would take a tenth of the decoder's time.
        in_flight = 1 if tasks[0].file is None or root.is_local else policy.reads_in_flight
        coming = announced(tasks, announce, policy.reads_in_flight)
        ahead = read_ahead(coming, announced_bytes, read, in_flight, policy.read_ahead_bytes)
        for task, content in ahead:
            yield _decoded(task, content, policy)

    return process


def _decoded(task: Task, content: bytes | Rejection, policy: SourcePolicy) -> dict[str, Any]:
    try:
        return decode_task(task, content, policy)
    except MemoryError:
        raise  # The child's limit: its parent tries the image alone in a fresh one.
    except Exception as error:
        # Decoders hold asserts that no list of ours foresees; one image must not cost the night.
        return rejection(Reason.UNDECODABLE, f"the decoder raised {type(error).__name__}")


def decode_task(task: Task, content: bytes | Rejection, policy: SourcePolicy) -> dict[str, Any]:
    """Check, decode and measure the bytes of one image."""
    if isinstance(content, Rejection):
        return rejection(content.reason, content.detail)
    located = {"source_bytes": len(content), "bytes_read": len(content)}
    image_id = hashlib.sha256(content).hexdigest()
    expected = (task.sha256 or image_id).lower()
    if expected != image_id:
        detail = f"manifest says {expected[:12]}, the bytes have {image_id[:12]}"
        return located | rejection(Reason.CHECKSUM_MISMATCH, detail)
    if image_id == task.known_image_id:
        # Touched, copied or uploaded again: other time, same bytes.
        return located | {"outcome": UNCHANGED, "image_id": image_id}
    started = time.perf_counter()
    decoded = decode_image(content, policy.decode)
    if isinstance(decoded, Rejection):
        return located | rejection(decoded.reason, decoded.detail)
    stored = _stored(decoded, image_id)
    return located | stored | {"decode_ms": (time.perf_counter() - started) * 1000}


def _stored(image: StoredImage, image_id: str) -> dict[str, Any]:
    return {
        "outcome": INGESTED,
        "image_id": image_id,
        "stored_bytes": len(image.content),
        "content": image.content,
        "width": image.width,
        "height": image.height,
        "source_format": image.source_format,
        "source_width": image.source_width,
        "source_height": image.source_height,
        "is_animated": image.is_animated,
        **asdict(measure(image.picture)),
    }


def rejection(reason: Reason, detail: str) -> dict[str, Any]:
    """Return the outcome of an image that is not stored."""
    return {"outcome": REJECTED, "reason": str(reason), "detail": detail}
