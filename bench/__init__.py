"""Measurements of allstop: one a file, against floors and against other libraries."""
