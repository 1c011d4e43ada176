"""A combination is a number; its row is in a journal."""
