"""What the measurements share: machines, processes, turns, statistics."""
