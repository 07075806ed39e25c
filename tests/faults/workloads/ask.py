"""Clients that ask a web server again and again.  usage: ask.py HOST PORT THREADS PAUSE_S [TIMEOUT_S]"""

import socket
import sys
import threading
import time

host, port, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[4])
timeout = float(sys.argv[5]) if len(sys.argv) > 5 else 5.0


def ask() -> None:
    while True:
        try:
            with socket.create_connection((host, port), timeout=timeout) as peer:
                peer.sendall(b"GET / HTTP/1.0\r\n\r\n")
                while peer.recv(65536):
                    pass
        except OSError as error:
            print(error, flush=True)
        time.sleep(pause)


for _ in range(int(sys.argv[3]) - 1):
    threading.Thread(target=ask).start()
ask()
