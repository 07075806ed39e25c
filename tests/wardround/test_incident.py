"""The life of an incident: only what may follow follows."""

from __future__ import annotations

from itertools import pairwise

import pytest

from wardround.errors import UserError
from wardround.models.incident import STATES, check_transition, may_follow


def test_the_whole_way_is_legal():
    way = ["open", "investigating", "diagnosed", "awaiting_approval", "remediating", "verifying", "resolved"]
    assert all(may_follow(before, after) for before, after in pairwise(way))


def test_what_is_closed_stays_closed_and_everything_else_can_be_closed_or_escalated():
    assert not any(may_follow("closed", after) for after in STATES)
    for state in set(STATES) - {"closed"}:
        assert may_follow(state, "closed")
        assert may_follow(state, "escalated") == (state != "escalated")


def test_nothing_is_remediated_without_approval():
    assert [state for state in STATES if may_follow(state, "remediating")] == ["awaiting_approval"]


def test_a_refusal_says_what_would_be_legal():
    with pytest.raises(UserError, match="open cannot become resolved") as refusal:
        check_transition("open", "resolved")
    assert "investigating" in refusal.value.why


def test_every_state_can_be_reached_and_left():
    for state in STATES:
        assert state == "open" or any(may_follow(before, state) for before in STATES)
