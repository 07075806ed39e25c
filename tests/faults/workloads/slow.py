"""A server with one thread and a short queue that takes its time with each request.

usage: slow.py PORT BACKLOG WORK_S
"""

import socket
import sys
import time

listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=int(sys.argv[2]))
while True:
    peer, _ = listener.accept()
    with peer:
        try:
            peer.recv(4096)
            time.sleep(float(sys.argv[3]))
            peer.sendall(b"HTTP/1.0 200 OK\r\n\r\nok\n")
        except OSError as error:
            print(error, flush=True)
