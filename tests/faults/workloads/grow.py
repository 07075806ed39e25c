"""A cache that nothing is ever taken from.  usage: grow.py RATE_MB MAX_MB"""

import sys
import time

rate, limit = float(sys.argv[1]), float(sys.argv[2])
cache: list[bytes] = []
while len(cache) / 16 < limit:
    cache.append(b"r" * (64 << 10))
    time.sleep(1 / 16 / rate)
while True:
    time.sleep(60)
