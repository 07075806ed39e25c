"""Writes to a folder until it is refused, and goes on trying.  usage: fill.py FOLDER data|files PAUSE_S"""

import itertools
import sys
import time
from pathlib import Path

folder, pause = Path(sys.argv[1]), float(sys.argv[3])
block = b"x" * (64 << 10) if sys.argv[2] == "data" else b""
for number in itertools.count():
    try:
        with (folder / f"part-{number:06}").open("wb") as out:
            out.write(block)
    except OSError as error:
        print(error, flush=True)
        time.sleep(pause)
