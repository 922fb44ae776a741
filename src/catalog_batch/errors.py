"""Everything this package raises on purpose, and the exit code each becomes.

::

    CatalogBatchError                  1   a bug or a broken machine
    ├── BadInputError                 20   what was given cannot be used
    │   ├── ConfigError               20   a setting is unknown, of the wrong type or out of bounds
    │   ├── ManifestError             20   the manifest is missing, unreadable or lacks a column
    │   ├── MissingTableError         20   the warehouse lacks a table that an earlier job writes
    │   ├── SchemaMismatchError       20   a frame or a stored table does not fit schemas/
    │   ├── TrainingDataError         20   the snapshot cannot be trained on
    │   ├── DivergenceError           20   a loss is not finite: the settings or weights do not do
    │   └── QueryError                20   a SQL text is not a query, or does not run
    ├── GateRefusedError              30   a quality gate blocked publishing
    ├── ModelRefusedError             40   a model bundle is damaged, foreign or missing
    ├── LockHeldError                 75   another run of the same job holds the lock
    ├── ReconciliationError            1   rows in and rows out do not add up: nothing was published
    └── ConcurrentWriteError           1   another run wrote the same table at once

Exit codes 0 (published) and 10 (nothing to do, or already applied) are outcomes, not errors:
see ``runs.py``.
"""


class CatalogBatchError(Exception):
    """Base of the package's errors; ``exit_code`` is what a scheduler sees."""

    exit_code = 1


class BadInputError(CatalogBatchError, ValueError):
    """Raised when something the user gave cannot be used."""

    exit_code = 20


class ConfigError(BadInputError):
    """Raised for a setting that is unknown, of the wrong type or out of bounds."""


class ManifestError(BadInputError):
    """Raised when a manifest is missing, unreadable or lacks a required column."""


class MissingTableError(BadInputError):
    """Raised when the warehouse lacks a table that an earlier job should have written."""


class SchemaMismatchError(BadInputError):
    """Raised when a frame or a stored table does not fit its file under ``schemas/``."""


class TrainingDataError(BadInputError):
    """Raised when a training snapshot cannot be trained on."""


class DivergenceError(BadInputError):
    """Raised when a loss is not finite: the same steps from the same checkpoint end the same."""


class QueryError(BadInputError):
    """Raised when a SQL text is not a query, or does not run."""


class GateRefusedError(CatalogBatchError):
    """Raised when a quality gate blocks publishing."""

    exit_code = 30


class ModelRefusedError(CatalogBatchError):
    """Raised when a model bundle is damaged, foreign or missing."""

    exit_code = 40


class LockHeldError(CatalogBatchError):
    """Raised when another run of the same job holds its lock."""

    exit_code = 75


class ReconciliationError(CatalogBatchError):
    """Raised when rows in and rows out do not add up; nothing is published then."""


class ConcurrentWriteError(CatalogBatchError):
    """Raised when another run wrote a table between this one's reading and its commit, or after.

    This run's rows are published, and the next run looks at all again.
    """
