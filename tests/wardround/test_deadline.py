"""A block that takes too long ends with the error that was asked for, and leaves no alarm behind."""

from __future__ import annotations

import signal
import time

import pytest

from wardround.deadline import at_most


def test_a_block_that_takes_too_long_ends_with_the_error_asked_for() -> None:
    with pytest.raises(LookupError, match="too slow"), at_most(0.01, lambda: LookupError("too slow")):
        time.sleep(30)


def test_a_block_that_ends_in_time_leaves_no_alarm_and_the_handler_before() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with at_most(30, TimeoutError):
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    assert signal.getsignal(signal.SIGALRM) is before


def test_an_error_of_the_block_s_own_passes() -> None:
    with pytest.raises(KeyError), at_most(30, TimeoutError):
        raise KeyError
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
