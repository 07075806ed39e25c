"""Taint masks in the kernel's letters."""

from __future__ import annotations

import pytest

from collectors.vmcore.taint import kernel_letters, letters, meanings


@pytest.mark.parametrize(
    ("mask", "shown"),
    [
        (0, ""),
        (1 << 12, "GO"),
        (1 << 0 | 1 << 12, "PO"),
        (1 << 12 | 1 << 13, "GOE"),
        (1 << 7, "GD"),
        (1 << 9 | 1 << 14, "GWL"),
        (1 << 63, "G"),
    ],
)
def test_a_kernel_prints_its_taint_so(mask: int, shown: str) -> None:
    assert kernel_letters(mask) == shown


def test_a_module_has_no_letter_for_being_fine() -> None:
    assert letters(0) == ""
    assert letters(1 << 12 | 1 << 13) == "OE"


def test_letters_are_explained_and_unknown_ones_say_nothing() -> None:
    assert len(meanings("GOE?")) == 2
    assert "unsigned" in meanings("E")[0]
