"""Measurements of fullstop against its floors and its peers."""
