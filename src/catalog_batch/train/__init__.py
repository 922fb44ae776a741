"""Fine-tuning a classifier on a pinned table version, over Ray workers or in one process."""
