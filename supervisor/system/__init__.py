"""What we ask of Linux: processes, memory, environments, files that are on the disk."""
