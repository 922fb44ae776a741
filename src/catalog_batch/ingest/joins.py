"""Which side of a join travels."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

BROADCAST_ROWS = 1_000_000
"""Most rows that are sent to each executor, by way of the driver: 50 MB of numbers, 200 of keys."""


def broadcast_if_few(frame: DataFrame, rows: int) -> DataFrame:
    """Send a frame of so many rows to each executor, so that the other side stays where it is.

    With more rows than the driver should hold Spark chooses, and may shuffle both sides.
    """
    return F.broadcast(frame) if rows <= BROADCAST_ROWS else frame
