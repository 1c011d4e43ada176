"""Interfaces to Linux: processes, memory, environments, durable files."""
