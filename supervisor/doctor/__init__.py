"""What this machine can do for a run, what it cannot, and how to mend it.

One kind of question a file; each check is a function without arguments that
returns a :class:`~supervisor.doctor.finding.Finding`. Nothing outside the
standard library is imported before a check asks for it, and no module that
PyPI's ``supervisor`` would overwrite: a damaged installation is what ``doctor``
is for. Where even the command line does not start, ``python -m
supervisor.doctor`` does.
"""
