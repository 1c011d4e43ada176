"""Measurements of allstop against its floors and its peers."""
