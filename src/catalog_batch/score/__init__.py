"""Predicted categories for stored images: one pass of the model, then a decision per product."""

DAEMON = f"{__name__}.daemon"
"""Module that starts Python workers which have imported what scoring needs."""
