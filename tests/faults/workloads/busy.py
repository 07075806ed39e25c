"""A master and its computing child processes.  usage: busy.py PROCESSES"""

import os
import signal
import sys


def compute() -> None:
    while True:
        sum(i * i for i in range(100_000))


for _ in range(int(sys.argv[1])):
    if os.fork() == 0:
        compute()
while True:
    signal.pause()
