"""The three ways to ingest a data set that are compared, each as a command of its own."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.commands import Finished, run_command
from benchmarks.ingest.photos import Dataset
from deltalake import DeltaTable

CATALOG_BATCH = str(Path(sys.executable).parent / "catalog-batch")


@dataclass(frozen=True)
class Lane:
    """A way to ingest: what it is called, how many threads it has, the table it leaves."""

    name: str
    threads: str
    module: str = ""
    table: str = "."

    def command(self, dataset: Dataset, output: Path) -> list[str]:
        """Return the command; the package itself is run as its users run it."""
        inputs = [str(dataset.manifest), str(dataset.images)]
        if self.module:
            return [sys.executable, "-m", self.module, *inputs, str(output)]
        return ingest_command(dataset, output)

    def run(self, dataset: Dataset, output: Path) -> Finished:
        """Ingest a data set into a new folder.

        Raises:
            SystemExit: When not every photo is in the table: a lane may not win by losing rows.
        """
        finished = run_command(self.command(dataset, output))
        table = DeltaTable(str(output / self.table))
        rows = table.to_pyarrow_dataset().count_rows()
        if rows != dataset.count:
            sys.exit(f"{self.name} stored {rows:,} of {dataset.count:,} photos: no figure.")
        files = [output / self.table / name for name in table.to_pyarrow_dataset().files]
        return replace(finished, stored_bytes=sum(path.stat().st_size for path in files))


BARE = Lane("bare loop", "2 processes x 1 thread", "benchmarks.ingest.bare_loop")
USUAL = Lane("usual Spark", "local[2], 1 thread a worker", "benchmarks.ingest.spark_usual")
OURS = Lane("catalog-batch", "local[*] as shipped, a decoding child each", table="images")
LANES = (BARE, USUAL, OURS)


def ingest_command(dataset: Dataset, warehouse: Path, *options: str) -> list[str]:
    """Return the command that ingests a data set into a warehouse."""
    inputs = [str(dataset.manifest), "--images", str(dataset.images)]
    return [CATALOG_BATCH, "ingest", *inputs, "-w", str(warehouse), *options]
