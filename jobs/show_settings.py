"""Show every setting: ``catalog-batch settings`` as a script, with the same options."""

from catalog_batch.cli import main

if __name__ == "__main__":
    main("settings")
