"""What this machine can do for a run, what it cannot, and how to fix that.

Each file has the checks of one kind. A check is a function without arguments
that returns a :class:`~supervisor.doctor.finding.Finding`. Nothing outside the
standard library is imported before a check needs it, and no module that PyPI's
``supervisor`` would overwrite: ``doctor`` must also examine a damaged
installation. If the command line cannot start, ``python -m supervisor.doctor``
still does.
"""
