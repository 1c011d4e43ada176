"""A run on disk, never half written."""
