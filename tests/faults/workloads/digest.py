"""Threads that hash large blocks, which runs outside the interpreter lock.  usage: digest.py THREADS"""

import hashlib
import sys
import threading

BLOCK = bytes(4 << 20)


def compute() -> None:
    while True:
        hashlib.sha256(BLOCK).digest()


for _ in range(int(sys.argv[1]) - 1):
    threading.Thread(target=compute).start()
compute()
