"""How the controller is asked: one call, what its answer means, and pauses between two."""
