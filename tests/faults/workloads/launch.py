"""Runs a short program again and again, as fast as it can, from several threads.  usage: launch.py THREADS COMMAND"""

import os
import sys
import threading


def launch() -> None:
    while True:
        pid = os.posix_spawn(sys.argv[2], [sys.argv[2]], {"STAGE_ID": os.environ.get("STAGE_ID", "")})
        os.waitpid(pid, 0)


for _ in range(int(sys.argv[1]) - 1):
    threading.Thread(target=launch).start()
launch()
