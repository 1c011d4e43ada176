"""Findings as aligned lines, for files and pipes, and where rich is not installed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from supervisor.doctor.finding import Finding, Status


def plain_lines(findings: Sequence[Finding]) -> Iterator[str]:
    """Yield a line per finding, one more per fix, and the summary."""
    width = max((len(finding.name) for finding in findings), default=0)
    for finding in findings:
        yield f"{finding.status:<7}  {finding.name:<{width}}  {finding.what}"
        if finding.fix:
            yield f"{'':<{width + 11}}→ {finding.fix}"
    yield summary(findings)


def summary(findings: Sequence[Finding]) -> str:
    """Return how many problems and warnings there are, in words."""
    counts = [
        f"{count} {status}{'s' * (count > 1)}"
        for status in (Status.PROBLEM, Status.WARNING)
        if (count := sum(finding.status is status for finding in findings))
    ]
    return ", ".join(counts) or "no problem found"
