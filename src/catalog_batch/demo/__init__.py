"""A synthetic product catalogue, and a walk through the whole pipeline with it."""
