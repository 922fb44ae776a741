"""Roll a model back: ``catalog-batch rollback`` as a script, with the same options."""

from catalog_batch.cli import main

if __name__ == "__main__":
    main("rollback")
