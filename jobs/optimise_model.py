"""Optimise a model: ``catalog-batch optimise`` as a script, with the same options."""

from catalog_batch.cli import main

if __name__ == "__main__":
    main("optimise")
