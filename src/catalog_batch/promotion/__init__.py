"""Which version of a model scores: challenger against champion, and the way back."""
