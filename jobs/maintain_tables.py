"""Compact and clean the tables: ``catalog-batch maintain-tables`` as a script, same options."""

from catalog_batch.cli import main

if __name__ == "__main__":
    main("maintain-tables")
