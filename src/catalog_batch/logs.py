"""Logging: JSON lines for machines, plain lines on a terminal; always standard error."""

import logging
import sys

from pythonjsonlogger.json import JsonFormatter
from rich.logging import RichHandler

from catalog_batch.progress import console


def configure(*, json_lines: bool, level: str = "INFO") -> None:
    """Send this package's log to standard error, as JSON lines or for a person."""
    handler: logging.Handler
    if json_lines:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(
            JsonFormatter(
                "%(asctime)s %(levelname)s %(name)s %(message)s",
                rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
            )
        )
    else:
        handler = RichHandler(console=console(), show_path=False, show_time=False)
    package = logging.getLogger("catalog_batch")
    package.handlers[:] = [handler]
    package.setLevel(level)
    package.propagate = False
