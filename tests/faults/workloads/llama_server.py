"""llama.cpp's own HTTP server, from the xllamacpp package found in $ENGINE_SITE.

usage: llama-server -m MODEL.gguf --port PORT -t THREADS [-c CONTEXT]
"""

import argparse
import importlib
import os
import signal
import sys

parser = argparse.ArgumentParser()
parser.add_argument("-m", "--model", required=True)
parser.add_argument("--host", default="127.0.0.1")
parser.add_argument("--port", type=int, required=True)
parser.add_argument("-t", "--threads", type=int, required=True)
parser.add_argument("-c", "--ctx-size", type=int, default=1024)
options = parser.parse_args()
sys.path.insert(0, os.environ["ENGINE_SITE"])

xllamacpp = importlib.import_module("xllamacpp")
params = xllamacpp.CommonParams()
params.model.path = options.model
params.hostnames = [options.host]
params.port = options.port
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
params.n_ctx = options.ctx_size
params.n_parallel = 1
params.endpoint_metrics = True
server = xllamacpp.Server(params)
print("listening at", server.listening_address, flush=True)
while True:
    signal.pause()
