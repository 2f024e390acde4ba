"""The side of a peer written in Python: answers the driver's lines (see README.md) through one class.

A peer is a class with open(device, dtype) -> name, prepare(name, kind, inputs, folder) -> first run in ms,
run(name, n) -> ms, read(name) -> array, drop(name).
"""
import os
import statistics
import sys
import time

import numpy as np

CHAIN = 5  # links of the longer chain


def clock(work):
    """Milliseconds of a call."""
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1e3


def slope(short, long, runs):
    """Milliseconds of one link: the difference of a chain and a single link, medians of alternating runs."""
    times = [(clock(short), clock(long)) for _ in range(runs)]
    return (statistics.median(t[1] for t in times) - statistics.median(t[0] for t in times)) / (CHAIN - 1)


def serve(peer):
    # Libraries print what they like; the driver's pipe is for answers only.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        command, *words = line.rstrip("\n").split("\t")
        if command == "quit":
            break
        try:
            if command == "prepare" and len(words) == 3:
                words.append(None)
            if command == "run":
                words[1] = int(words[1])
            if command == "read":
                np.ascontiguousarray(peer.read(words[0]), np.float32).tofile(words[1])
                reply = ""
            else:
                reply = getattr(peer, command)(*words)
            reply = f"ok {'' if reply is None else reply}"
        except Exception as error:
            reply = f"error {type(error).__name__}: {error}"
        print(reply.replace("\n", " ").strip()[:400], file=answers, flush=True)
    # Some drivers crash while they are taken down; nothing is left to lose.
    answers.flush()
    os._exit(0)
