"""Writes a record of a log and syncs it, a few times a second.

usage: records.py FILE PAUSE_S [SLOTS]    append, or write over SLOTS places of the file in turn
"""

import itertools
import os
import sys
import time

slots = int(sys.argv[3]) if len(sys.argv) > 3 else 0
record = (b"record\n" * 600)[:4096]
for number in itertools.count():
    try:
        file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | (0 if slots else os.O_APPEND))
        try:
            os.pwrite(file, record, number % slots * len(record) if slots else 0)
            os.fdatasync(file)
        finally:
            os.close(file)
    except OSError as error:
        print(error, flush=True)
    time.sleep(float(sys.argv[2]))
