"""Search for the best settings: ``catalog-batch search`` as a script, with the same options."""

from catalog_batch.cli import main

if __name__ == "__main__":
    main("search")
