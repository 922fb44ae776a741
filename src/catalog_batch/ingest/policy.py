"""What is read and how, and what may become of it: shared by executors and their children."""

from dataclasses import dataclass

from catalog_batch.imaging import DecodePolicy

INGESTED = "ingested"
UNCHANGED = "unchanged"
REJECTED = "rejected"
TO_DO = "to_do"


@dataclass(frozen=True)
class SourcePolicy:
    """What is read, and how it is decoded."""

    root: str
    max_source_bytes: int
    decode: DecodePolicy
    reads_in_flight: int = 8
    read_ahead_bytes: int = 64_000_000
    batch_images: int = 32
    image_cpu_seconds: int = 5
    batch_wall_seconds: float = 120
    decoder_memory_mib: int = 1024
    only_new: bool = False
    """Whether known images are left as they are: a late manifest may be older than they are."""

    retried: frozenset[str] = frozenset()
    """Reasons of rejection that are tried again though the file did not change."""
