"""Move the category tree: ``catalog-batch migrate-taxonomy`` as a script, with the same options."""

from catalog_batch.cli import main

if __name__ == "__main__":
    main("migrate-taxonomy")
