"""Judging a model by its predictions: arrays and the taxonomy in, figures and thresholds out."""
