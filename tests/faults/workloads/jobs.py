"""Starts short jobs and never asks how they ended.  usage: jobs.py COUNT PAUSE_S"""

import os
import sys
import time

for _ in range(int(sys.argv[1])):
    if os.fork() == 0:
        os._exit(0)
    time.sleep(float(sys.argv[2]))
while True:
    time.sleep(60)
