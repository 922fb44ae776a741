"""Predicted categories for stored images: one pass of the model, then a decision per product."""

DAEMON = f"{__name__}.daemon"
"""Module that starts Python workers which have imported what scoring needs."""

DAEMON_IMPORTS = "CATALOG_BATCH_DAEMON_IMPORTS"
"""Variable that names one module more for it to import."""
