"""Shards, their manifest, the order of an epoch, and reading by position. Knows no model and imports no torch."""
