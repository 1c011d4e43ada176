"""Other libraries, one a file, each with an object ``PEER`` (see :mod:`bench.harness.peer`)."""
