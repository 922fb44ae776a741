"""Give millions of product photos a category by the morning."""
