"""torchhd's side of the bench of hypervectors.

Reads vectors as packed bits (a set bit is -1) from a folder and obeys one command per line on standard input
(`<command> <count>`), answering with one line of JSON. Reading and unpacking are not timed; they count as memory, as
on the other side.

- `cleanup`: cosines of 10,000 queries with all items, and the largest of each; checksum: sum of the largest, times D.
- `bind`: 100,000 pairs; checksum: sum of all components.
- `bundle`: 100,000 vectors in one sum; checksum: sum of the sizes of its components.
"""

import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

import numpy
import torch
import torchhd

D = 4096
folder = Path(sys.argv[1])
torch.set_num_threads(int(sys.argv[2]))


def read(name):
    bits = numpy.unpackbits(numpy.fromfile(folder / name, dtype=numpy.uint8).reshape(-1, D // 8), axis=1, bitorder="little")
    return torchhd.MAPTensor(torch.from_numpy(bits).to(torch.float32).mul_(-2).add_(1))


def status(key):
    for line in open("/proc/self/status"):
        if line.startswith(key):
            return int(line.split()[1])
    return 0


def cleanup():
    items, queries = read("items"), read("queries")
    started = time.perf_counter()
    best = torchhd.cosine_similarity(queries, items).max(dim=1).values
    seconds = time.perf_counter() - started
    return seconds, round(float(best.double().sum()) * D)


def bind():
    left, right = read("left"), read("right")
    started = time.perf_counter()
    bound = torchhd.bind(left, right)
    seconds = time.perf_counter() - started
    return seconds, sum(round(float(part.double().sum())) for part in bound.split(1000))


def bundle():
    left = read("left")
    started = time.perf_counter()
    total = torchhd.multiset(left)
    seconds = time.perf_counter() - started
    return seconds, round(float(total.abs().double().sum()))


def answer(command):
    if command == "ready":
        return {"version": version("torch-hd"), "threads": torch.get_num_threads()}
    with open("/proc/self/clear_refs", "w") as refs:
        refs.write("5")
    start = status("VmRSS")
    with torch.no_grad():
        seconds, checksum = {"cleanup": cleanup, "bind": bind, "bundle": bundle}[command]()
    return {"seconds": seconds, "checksum": checksum, "kib": max(0, status("VmHWM") - start)}


for line in sys.stdin:
    answers.write(json.dumps(answer(line.split()[0])) + "\n")
    answers.flush()
