"""``doctor``."""


def doctor() -> None:
    """Show."""
