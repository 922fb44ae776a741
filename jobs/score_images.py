"""Predict categories of new images: ``catalog-batch score`` as a script, with the same options."""

from catalog_batch.cli import main

if __name__ == "__main__":
    main("score")
