"""Labels joined with images, split by product, written as one table version that training pins."""
