"""A small web server on 127.0.0.1 with a pool of threads and some real work a request.

usage: web.py PORT WORK_LOOPS [crossed-after REQUESTS] [leak]
`crossed-after N`: after N requests two handlers take two locks in opposite order.
`leak`: each request leaves a file open.
"""

import itertools
import os
import socket
import sys
import threading
import time

port, loops = int(sys.argv[1]), int(sys.argv[2])
crossed_after = int(sys.argv[4]) if "crossed-after" in sys.argv else None
leaks = "leak" in sys.argv
accounts, journal = threading.Lock(), threading.Lock()
numbers = itertools.count()
kept: list[int] = []


def answer(peer: socket.socket) -> None:
    number = next(numbers)
    if not peer.recv(4096):
        return
    sum(i * i for i in range(loops))
    if crossed_after is not None and number >= crossed_after:
        first, second = (accounts, journal) if number % 2 else (journal, accounts)
        with first:
            time.sleep(0.3)
            with second:
                pass
    else:
        with accounts, journal:
            pass
    if leaks:
        kept.append(os.open("/proc/self/stat", os.O_RDONLY))
    peer.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nok\n")


def serve() -> None:
    while True:
        try:
            peer, _ = listener.accept()
        except OSError:
            time.sleep(0.02)
            continue
        with peer:
            try:
                answer(peer)
            except OSError as error:
                print(error, flush=True)


listener = socket.create_server(("127.0.0.1", port), backlog=64)
for _ in range(3):
    threading.Thread(target=serve).start()
serve()
