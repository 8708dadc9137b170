"""What a rank tells: its metrics, and a file."""

import atexit
import os
import pathlib
import time

from ..serving.report import Report, loop_report, mean, phase_report
from ..serving.statistics import PHASES
from .metrics import Metrics

_EVERY_S = 2.0


class Reports:
    """Called by the price loop's thread after each tick; writes the file at the process's end too."""

    def __init__(self, rank, path):
        self._rank, self._metrics = rank, Metrics(rank.number)
        self._path = pathlib.Path(path.replace("{rank}", str(rank.number))) if path else None
        self._written_s = 0.0
        if self._path is not None:
            self._write()
            atexit.register(self._write)

    def after_tick(self, tick):
        self._metrics.update(tick, self._rank.totals())
        if self._path is not None and time.monotonic() - self._written_s >= _EVERY_S:
            self._write()

    def _write(self):
        """As a whole or not at all."""
        self._written_s = time.monotonic()
        beside = self._path.with_suffix(f".{os.getpid()}")
        beside.write_text(make_report(self._rank).json() + "\n", encoding="utf-8")
        os.replace(beside, self._path)


def make_report(rank):
    history, first = list(rank.history), rank.layers[0]
    return Report(
        rank=rank.number,
        layers=len(rank.layers),
        experts=first.experts,
        top_k=first.top_k,
        **{phase: phase_report(rank.statistics, phase) for phase in PHASES},
        open_price=rank.current.highest(),
        open_price_mean=mean([tick.open_price for tick in history]),
        **loop_report(history, rank.loop),
        step_latency_us=mean([tick.step_latency_us for tick in history]),
        source=rank.source,
        refused_batches=rank.refused,
    )
