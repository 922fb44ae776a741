"""Product images into the warehouse: read, check, decode, store once, reject with a reason."""
