"""Predicted categories for stored images: one pass of the model, then a decision per product."""
