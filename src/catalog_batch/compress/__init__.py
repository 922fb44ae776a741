"""Variants of a trained model that answer the same in less time."""
