"""Threads that need one lock, held while something slow is done.  usage: convoy.py THREADS HOLD_MS"""

import sys
import threading
import time

gate = threading.Lock()
hold_s = float(sys.argv[2]) / 1000


def work() -> None:
    while True:
        with gate:
            time.sleep(hold_s)
        time.sleep(0.0005)


for _ in range(int(sys.argv[1]) - 1):
    threading.Thread(target=work).start()
work()
