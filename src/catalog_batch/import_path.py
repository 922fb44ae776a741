"""Where Python looks for modules, in a worker that Spark uses for task after task."""

import sys
from zipimport import zipimporter


def forget_archives() -> None:
    """Have the next task not read again what the archives on the import path hold.

    Spark empties Python's import caches before each task, and Python 3.11 then reads the list of
    entries of each archive that it has ever looked into [cpython issue 103200, SPARK-54744]. One
    is Spark's core JAR, of 5,000 entries: a quarter second a task. A forgotten archive is opened
    again by the first import of a module that is not loaded yet, and a warm worker has none.
    """
    known = sys.path_importer_cache
    for path in [path for path, finder in known.items() if isinstance(finder, zipimporter)]:
        del known[path]
