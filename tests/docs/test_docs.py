"""The documentation agrees with the tree."""

from __future__ import annotations

from tests.docs import check, generate


def test_no_problem_is_found() -> None:
    """Links lead somewhere, faults and metrics are told of, nothing foreign is named."""
    assert check.problems() == []


def test_generated_pages_are_current() -> None:
    """docs/faults.md and docs/metrics.md are what the declarations say today."""
    assert (generate.DOCS / "faults.md").read_text() == generate.faults()
    assert (generate.DOCS / "metrics.md").read_text() == generate.metrics()
