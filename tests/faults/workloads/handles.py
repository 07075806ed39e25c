"""Opens a file for each job and forgets to close it; when refused, waits a moment and tries again.

usage: handles.py PAUSE_S
"""

import os
import sys
import time

while True:
    try:
        os.open("/etc/hostname", os.O_RDONLY)
    except OSError as error:
        print(error, flush=True)
    time.sleep(float(sys.argv[1]))
