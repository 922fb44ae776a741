"""What a machine must have, checked one by one, with how to mend each red line."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from rich.console import Console

from catalog_batch.class_archive import ARCHIVE, write_archive
from catalog_batch.config import Settings, SparkSettings
from catalog_batch.spark import build_session, delta_jars

JAVA_VERSIONS = (17, 21)
FREE_GIB = 5


@dataclass(frozen=True)
class Finding:
    """One line of the examination; ``mend`` says what to do when it is not fine."""

    subject: str
    is_fine: bool
    seen: str
    mend: str = ""


def examine(settings: Settings, console: Console) -> bool:
    """Print every finding; return whether all are fine."""
    findings = [
        _python(),
        _java(),
        *_packages(),
        _jars(),
        _class_archive(),
        _warehouse(settings.warehouse),
        _disk(settings.warehouse),
        _processors(),
        _gpus(),
    ]
    for finding in findings:
        mark = "[green]ok[/]  " if finding.is_fine else "[bold red]bad[/] "
        console.print(f"{mark} {finding.subject}: {finding.seen}", highlight=False)
        if not finding.is_fine:
            console.print(f"     -> {finding.mend}", highlight=False, markup=False)
    return all(finding.is_fine for finding in findings)


def prepare(settings: SparkSettings) -> None:
    """Let Spark's Ivy fetch Delta's JARs if they are missing, and archive Spark's classes.

    Raises:
        CatalogBatchError: When the archive cannot be written.
    """
    if not _java().is_fine:
        return
    if not delta_jars():
        build_session(settings, "catalog-batch fetch-jars").stop()
    write_archive(settings)


def _python() -> Finding:
    seen = ".".join(map(str, sys.version_info[:3]))
    is_fine = sys.version_info[:2] == (3, 11)
    return Finding("Python", is_fine, seen, "Install Python 3.11 and run make setup again.")


def _java() -> Finding:
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    mend = "Install a JDK 17, such as Debian's openjdk-17-jre-headless, or set JAVA_HOME to one."
    try:
        finished = subprocess.run(
            [java or "java", "-version"], capture_output=True, text=True, check=False, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return Finding("Java", False, f"none at {java or 'java'}", mend)
    found = re.search(r'version "(\d+)', finished.stderr)
    version = int(found[1]) if found else 0
    return Finding("Java", version in JAVA_VERSIONS, f"{version} at {java}", mend)


def _packages() -> Iterator[Finding]:
    """Hold every installed dependency against the bounds that this package declares."""
    for text in metadata.requires("catalog-batch") or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            version = "missing"
        is_fine = version != "missing" and requirement.specifier.contains(version)
        yield Finding(
            requirement.name,
            is_fine,
            version,
            f"Needs {requirement.specifier or 'any version'}: run make setup, "
            "or pip install -r requirements.lock.",
        )


def _jars() -> Finding:
    jars = delta_jars()
    seen = f"{len(jars)} in {jars[0].parent}" if jars else "not fetched yet"
    return Finding("Delta JARs", bool(jars), seen, "Run catalog-batch doctor --prepare.")


def _class_archive() -> Finding:
    if ARCHIVE.is_file():
        return Finding("Class archive", True, f"{ARCHIVE.stat().st_size >> 20} MiB at {ARCHIVE}")
    seen = "none: starts take longer, until catalog-batch doctor --prepare has written one"
    return Finding("Class archive", True, seen)


def _warehouse(root: str) -> Finding:
    mend = "Choose a folder you may write to: --warehouse DIR, or make this one writable."
    if "://" in root:
        return Finding("Warehouse", True, f"{root} (a URI: not checked)")
    nearest = _nearest_folder(Path(root))
    tables = sorted(path.parent.name for path in Path(root).glob("*/_delta_log"))
    seen = f"{root}, {len(tables)} tables" if tables else f"{root}, no tables yet"
    return Finding("Warehouse", os.access(nearest, os.W_OK), seen, mend)


def _disk(root: str) -> Finding:
    nearest = _nearest_folder(Path(root)) if "://" not in root else Path.cwd()
    free = shutil.disk_usage(nearest).free / 2**30
    return Finding(
        "Free disk",
        free >= FREE_GIB,
        f"{free:.1f} GiB at {nearest}",
        f"Free {FREE_GIB} GiB, or put the warehouse on another disk.",
    )


def _processors() -> Finding:
    cores = len(os.sched_getaffinity(0))
    mend = "Training needs a core for each worker: --set train.num_workers=0 trains in process."
    return Finding("CPU cores", cores >= 2, str(cores), mend)


def _gpus() -> Finding:
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return Finding("GPUs", True, f"{count}" if count else "none (training and scoring use CPUs)")


def _nearest_folder(path: Path) -> Path:
    while not path.is_dir():
        path = path.parent
    return path
