"""From one category tree to the next: what is published moves along, without a model."""
