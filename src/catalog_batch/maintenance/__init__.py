"""Care of the tables: small files merged, files that no version needs any more deleted."""
