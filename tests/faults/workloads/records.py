"""Appends a record to a file and syncs it, a few times a second.  usage: records.py FILE PAUSE_S"""

import os
import sys
import time

while True:
    try:
        with open(sys.argv[1], "ab") as out:
            out.write(b"record\n" * 64)
            out.flush()
            os.fsync(out.fileno())
    except OSError as error:
        print(error, flush=True)
    time.sleep(float(sys.argv[2]))
