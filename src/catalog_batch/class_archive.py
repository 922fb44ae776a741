"""An archive of the classes that a local Spark loads: with it, starts take some seconds less.

Spark, Delta and their libraries are 16,000 classes, which a JVM otherwise reads from JARs, checks
and links anew in each command. What it loads from an archive was checked when that was written.

Source: JEP 350, Dynamic CDS Archives.
"""

import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from catalog_batch.config import SparkSettings
from catalog_batch.errors import CatalogBatchError

# In the environment whose JARs it holds, so that it goes when that goes.
ARCHIVE = Path(sys.prefix) / "share" / "catalog-batch" / "spark-and-delta.jsa"
# The JVM would tell of an archive that no longer fits on standard output, where the status is.
_MESSAGES = "-Xlog:disable -Xlog:all=warning:stderr"
_PRODUCTS = 30
_MAIN = "from catalog_batch.cli import main; main()"


def archive_options(archive: Path = ARCHIVE) -> str:
    """Return the JVM's options to use the archive; none when none has been written.

    The JVM itself checks that the archive is of its own release and of the same JARs, and goes on
    without it when it is not.
    """
    if not archive.is_file():
        return ""
    return f"{_MESSAGES} -XX:SharedArchiveFile={shlex.quote(str(archive))}"


def write_archive(settings: SparkSettings, archive: Path = ARCHIVE) -> None:
    """Ingest a few generated products, and archive the classes that took; replaces an older one.

    Takes about as long as two starts.

    Raises:
        CatalogBatchError: When no archive came of it; everything works without one, only slower.
    """
    try:
        archive.parent.mkdir(parents=True, exist_ok=True)
        archive.unlink(missing_ok=True)  # Classes that come from an archive are not archived.
        with tempfile.TemporaryDirectory(prefix="ingest-", dir=archive.parent) as work:
            made = Path(work) / archive.name
            _ingest_few(Path(work), f"{settings.java_options} {_writing(made)}")
            made.rename(archive)
    except OSError as error:
        raise CatalogBatchError(
            f"The archive of Spark's classes is not written to {archive}: {error}. All works "
            "without it; each start takes some seconds more."
        ) from error


def _writing(archive: Path) -> str:
    return f"-XX:ArchiveClassesAtExit={shlex.quote(str(archive))}"


def _ingest_few(folder: Path, java_options: str) -> None:
    catalogue = folder / "catalogue"
    _run("generate", str(catalogue), "--products", str(_PRODUCTS))
    inputs = [f"{catalogue}/manifest.csv", "--images", f"{catalogue}/images"]
    settings = [f"spark.java_options={java_options}", "ingest.max_rejected_share=1"]
    overrides = [f"--set={setting}" for setting in settings]
    _run("ingest", *inputs, "--warehouse", f"{folder}/warehouse", *overrides)


def _run(*command: str) -> None:
    """Run a command of this package, and wait until its JVM has ended too."""
    # The JVM, which archives when Python is gone, holds the other end of the pipes.
    finished = subprocess.run(
        [sys.executable, "-c", _MAIN, *command], capture_output=True, text=True, check=False
    )
    if finished.returncode:
        last = finished.stderr.strip().splitlines()[-1:] or ["no message"]
        raise CatalogBatchError(
            f"catalog-batch {command[0]} ended with exit code {finished.returncode}: {last[0]}"
        )
