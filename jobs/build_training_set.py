"""Write a training set: ``catalog-batch build-training-set`` as a script, same options."""

from catalog_batch.cli import main

if __name__ == "__main__":
    main("build-training-set")
