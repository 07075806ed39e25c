"""Takes memory and gives it all back, again and again, as a collected heap does.  usage: heap.py TOP_MB RATE_MB"""

import mmap
import sys
import time

top, rate = int(sys.argv[1]), float(sys.argv[2])
while True:
    blocks = []
    for _ in range(top):
        block = mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        block[:: mmap.PAGESIZE] = b"x" * ((1 << 20) // mmap.PAGESIZE)
        blocks.append(block)
        time.sleep(1 / rate)
    for block in blocks:
        block.close()
