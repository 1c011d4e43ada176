"""Calls to the controller: one call, what its answer means, and pauses between calls."""
