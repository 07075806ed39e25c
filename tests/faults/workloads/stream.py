"""Lasting TCP connections between two hosts.

usage: stream.py serve ADDRESS PORT [RECEIVE_BUFFER]      takes what comes and answers each message's first byte
       stream.py send ADDRESS PORT THREADS BYTES PAUSE_S  sends without waiting for answers
       stream.py talk ADDRESS PORT THREADS BYTES PAUSE_S  sends, waits for the answer, pauses
"""

import socket
import sys
import threading
import time

mode, address = sys.argv[1], (sys.argv[2], int(sys.argv[3]))


def take(peer: socket.socket) -> None:
    with peer:
        try:
            while data := peer.recv(65536):
                peer.sendall(data[:1])
        except OSError as error:
            print(error, flush=True)


def serve() -> None:
    with socket.socket() as listener:
        if len(sys.argv) > 4:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, int(sys.argv[4]))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(64)
        while True:
            peer, _ = listener.accept()
            threading.Thread(target=take, args=(peer,)).start()


def drain(peer: socket.socket) -> None:
    try:
        while peer.recv(65536):
            pass
    except OSError as error:
        print(error, flush=True)


def send() -> None:
    message, pause = b"m" * int(sys.argv[5]), float(sys.argv[6])
    while True:
        try:
            with socket.create_connection(address) as peer:
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if mode == "send":
                    threading.Thread(target=drain, args=(peer,), daemon=True).start()
                while True:
                    peer.sendall(message)
                    if mode == "talk" and not peer.recv(65536):
                        break
                    time.sleep(pause)
        except OSError as error:
            print(error, flush=True)
            time.sleep(0.5)


if mode == "serve":
    serve()
for _ in range(int(sys.argv[4]) - 1):
    threading.Thread(target=send).start()
send()
