"""The process that you signal: it starts a run, watches it, and reports its end."""
