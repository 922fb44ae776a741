"""A training run's settings, curves, system figures and artefacts in MLflow, TensorBoard and W&B.

Nothing is imported before a run asks for it.
"""
