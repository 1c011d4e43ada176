"""``report``."""


def report() -> None:
    """Show."""
