"""Starts a command again whenever it ends.  usage: restart.py PAUSE_S COMMAND..."""

import subprocess
import sys
import time

while True:
    subprocess.run(sys.argv[2:], check=False)
    time.sleep(float(sys.argv[1]))
