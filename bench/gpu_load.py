#!/usr/bin/env python3
"""The load that a GPU's telemetry is recorded under: idle, bf16 products at the power cap, recovery, copies, idle.

Writes the running phase's name to a file, which `thermoe monitor --phase-file` reads, and prints one JSON object: what
ran when (monotonic clock) and how fast. Needs PyTorch with CUDA.
"""

import argparse
import json
import os
import time

import torch

SIZE = 8192  # of the square matrices
COPY_BYTES = 2 << 30
PHASES = [("idle", "idle", 15.0), ("gemm_bf16_8192", "gemm", 35.0), ("recovery", "idle", 25.0),
          ("copy_2GiB", "copy", 10.0), ("idle_again", "idle", 10.0)]
SHORT_PHASES = [("idle", "idle", 5.0), ("gemm_bf16_8192", "gemm", 15.0), ("recovery", "idle", 5.0)]


class PhaseFile:
    """Replaced whole: a reader sees the old name or the new one."""

    def __init__(self, path):
        self.path = path

    def write(self, name):
        if self.path is None:
            return
        with open(self.path + ".next", "w", encoding="utf-8") as file:
            file.write(name + "\n")
        os.replace(self.path + ".next", self.path)


def repeat(work, seconds, batch):
    """Calls work() back to back for so long, never more than 2 * batch ahead of the GPU; how many calls it was."""
    calls, events = 0, []
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        for _ in range(batch):
            work()
        calls += batch
        event = torch.cuda.Event()
        event.record()
        events.append(event)
        if len(events) > 1:
            events.pop(0).synchronize()
    torch.cuda.synchronize()
    return calls


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--phase-file", help="file to keep the running phase's name in")
    parser.add_argument("--gemm-only-s", type=float, help="nothing but products, for so many seconds")
    parser.add_argument("--short", action="store_true", help="25 s in place of 95 s: no copies")
    arguments = parser.parse_args()
    phases = SHORT_PHASES if arguments.short else PHASES
    if arguments.gemm_only_s:
        phases = [("gemm_bf16_8192", "gemm", arguments.gemm_only_s)]

    phase_file = PhaseFile(arguments.phase_file)
    phase_file.write("setup")
    torch.manual_seed(1)
    # Random data: zeros and constants draw far less power.
    a, b = (torch.randn(SIZE, SIZE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    c = torch.empty_like(a)
    source = torch.empty(COPY_BYTES, device="cuda", dtype=torch.uint8).random_()
    target = torch.empty_like(source)
    works = {"gemm": (lambda: torch.matmul(a, b, out=c), 20), "copy": (lambda: target.copy_(source), 10)}
    for work, _ in works.values():
        work()
    torch.cuda.synchronize()

    results = []
    for name, kind, seconds in phases:
        phase_file.write(name)
        begin_s = time.monotonic()
        result = {"phase": name, "begin_s": begin_s}
        if kind == "idle":
            time.sleep(seconds)
        else:
            calls = repeat(works[kind][0], seconds, works[kind][1])
            took_s = time.monotonic() - begin_s
            result["calls"] = calls
            if kind == "gemm":
                result["flop_per_s"] = 2.0 * SIZE**3 * calls / took_s
            else:
                result["bytes_per_s"] = 2.0 * COPY_BYTES * calls / took_s  # read and written
        result["took_s"] = time.monotonic() - begin_s
        results.append(result)
    phase_file.write("done")
    print(json.dumps({"device": torch.cuda.get_device_name(), "torch": torch.__version__, "cuda": torch.version.cuda,
                      "phases": results}, indent=1))


if __name__ == "__main__":
    main()
