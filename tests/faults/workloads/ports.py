"""Opens connection after connection to one place.

usage: ports.py ADDRESS PORT keep|close PAUSE_S    keep them open, or close each at once
"""

import socket
import sys
import time

kept = []
while True:
    try:
        peer = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3)
        if sys.argv[3] == "keep":
            kept.append(peer)
        else:
            peer.close()
    except OSError as error:
        print(error, flush=True)
    time.sleep(float(sys.argv[4]))
