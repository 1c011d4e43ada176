"""The command line: one command a file; only :mod:`~supervisor.cli.main` knows exit codes."""
