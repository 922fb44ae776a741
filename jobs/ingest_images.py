"""Store the images of a manifest: ``catalog-batch ingest`` as a script, with the same options."""

from catalog_batch.cli import main

if __name__ == "__main__":
    main("ingest")
