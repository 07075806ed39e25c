"""Clients that ask an inference engine to complete a text, one request after the other.

usage: complete.py PORT THREADS TOKENS
"""

import json
import sys
import threading
import time
import urllib.request

url = f"http://127.0.0.1:{sys.argv[1]}/completion"
body = json.dumps({"prompt": "The ward round begins with", "n_predict": int(sys.argv[3])}).encode()


def ask() -> None:
    while True:
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                answer.read()
        except OSError as error:
            print(error, flush=True)
            time.sleep(0.2)


for _ in range(int(sys.argv[2]) - 1):
    threading.Thread(target=ask).start()
ask()
