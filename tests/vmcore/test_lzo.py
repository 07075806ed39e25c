"""LZO1X is unpacked as liblzo2 packs it; damaged data is an error and never more than was asked for."""

from __future__ import annotations

import random
from base64 import b85decode
from hashlib import sha256

import pytest

from collectors.vmcore.lzo import LzoError, unpack

# A page of words, runs and noise as liblzo2 2.10 packs it (lzo1x_999).
PACKED = b85decode(
    "7HxHOWq6SQw;%ujoB#j?YjkLGWnpCQ+yDbmb9HcKav%T)5deMw0G)q-(I?OV00U%YZgg^aAOJ!Y08t<SNT3A-"
    "KxuAoWMyly0h9m$p#fbW005i-03ZNJ<q()401PQ1RFwd!001LFA+0E30Gt2-"
    "C3GR#0A2t92WxL)YGq?|9UUEzvylMKC^#}800I#Jy8r;40O!prWFP=YO%SjkssI2H000"
)
DIGEST = "40b97317ced5cfaa59a9f64577788561922fb6d390fc139bf021df2d9ffe34a0"


def test_a_page_is_unpacked_as_it_was() -> None:
    page = unpack(PACKED, 4096)
    assert len(page) == 4096
    assert sha256(page).hexdigest() == DIGEST


def test_a_long_run_of_one_byte_repeats_what_it_makes() -> None:
    assert unpack(bytes([18, 7, 32, 0, 64, 0, 0, 17, 0, 0]), 4096) == bytes([7]) * (1 + 255 + 31 + 64 + 2)


def test_cut_data_is_an_error() -> None:
    for size in range(len(PACKED)):
        with pytest.raises(LzoError):
            unpack(PACKED[:size], 4096)


def test_damaged_data_gives_an_error_or_no_more_than_asked_for() -> None:
    chosen = random.Random(1)
    for _ in range(500):
        damaged = bytearray(PACKED)
        damaged[chosen.randrange(len(damaged))] ^= 1 << chosen.randrange(8)
        try:
            assert len(unpack(bytes(damaged), 4096)) <= 4096
        except LzoError:
            continue
