"""The slow loop: telemetry and the pace of decode steps become prices, a few times a second."""

import dataclasses
import threading
import time

import numpy as np

from .. import _core
from ..errors import InvalidArgument

# Layers that a twin runs back to back in a tick: bounds the tick's own work to some ms.
_MOST_LAYERS = 20000


@dataclasses.dataclass
class Tick:
    """What one tick saw and decided. None: no reading."""

    time_s: float
    power_w: float | None
    temperature_c: float | None
    energy_mj: float | None
    step_latency_us: float | None
    open_price: float


class Current:
    """The prices in force: replaced as a whole, never changed. `prices` is None where all are zero."""

    def __init__(self, prices=None):
        zero = prices is None or not any(a is not None and np.any(a) for a in (prices.open, prices.slope))
        self.prices = None if zero else prices

    def highest(self):
        """The highest opening price of an expert or instance."""
        return 0.0 if self.prices is None or self.prices.open is None else float(np.max(self.prices.open))


@dataclasses.dataclass
class Instruments:
    """What a price loop works with; None: there is none."""

    monitor: _core.Monitor | None
    owned: bool  # whether the monitor is the loop's to start and stop
    costs: _core.CostModel | None
    governor: _core.Governor | None

    @property
    def source(self):
        return "no monitor" if self.monitor is None else self.monitor.source


def instruments(monitor, gpu, interval_s, layers, decode_tokens, cost_model, limits):
    """Instruments. monitor: as attach takes it. gpu: NVML's index of the model's GPU, None on the CPU. cost_model():
    a CostModel, made only where it is needed. limits: power_cap_w, temperature_cap_c, latency_target_us (of a step of
    so many layers) and max_open_price; a governor is made where one of the first three is not None."""
    opened, owned = _open_monitor(monitor, gpu, interval_s, limits["power_cap_w"], limits["temperature_cap_c"])
    governed = any(limits[name] is not None for name in ("power_cap_w", "temperature_cap_c", "latency_target_us"))
    costs = cost_model() if governed or (opened is not None and opened.source.startswith("twin")) else None
    governor = _core.Governor(costs.surrogate(decode_tokens), **_of_a_layer(limits, layers)) if governed else None
    return Instruments(opened, owned, costs, governor)


def _of_a_layer(limits, layers):
    """As the Governor takes them."""
    others = dict(limits)
    step_us = others.pop("latency_target_us")
    return others | {"layer_latency_target_us": None if step_us is None else step_us / layers}


def _open_monitor(monitor, gpu, interval_s, power_cap_w, temperature_cap_c):
    """A Monitor or None, and whether it is ours to start and stop. "auto" is the GPU of that NVML index, None
    without one."""
    if monitor == "auto":
        monitor = None if gpu is None else f"nvml:{gpu}"
    if monitor is None:
        if power_cap_w is not None or temperature_cap_c is not None:
            raise InvalidArgument('a power or temperature cap needs telemetry: give monitor="nvml:0" on a machine with '
                                  'a GPU, "twin" for a simulated one, or "replay:FILE"')
        return None, False
    opened, owned = (_core.Monitor(monitor, period_s=interval_s), True) if isinstance(monitor, str) else (monitor, False)
    if gpu is not None and opened.source.startswith("twin"):
        raise InvalidArgument('a twin runs what was routed, which is counted on the CPU alone: give monitor="nvml:0", or '
                              "run the model on the CPU")
    return opened, owned


class PriceLoop:
    """A thread that ticks. Reads its host's `statistics`, `layers` and read_frac(tally); gives it each tick's
    prices by govern(governor), and appends a Tick to its `history`, with the price of its `current`.
    after(tick): called at each one's end, by the thread; None where a twin had nothing to run."""

    def __init__(self, host, made, interval_s, after=None):
        """made: Instruments."""
        self._host, self._costs, self._governor, self._after = host, made.costs, made.governor, after
        self._monitor, self._owned, self._interval_s = made.monitor, made.owned, interval_s
        self._twin = made.source.startswith("twin")
        self._polled = self._twin or made.source.startswith("replay")
        self._last, self._pace = host.statistics.total("decode"), (0.0, 0)
        self._stop, self._thread, self._start = threading.Event(), None, time.perf_counter()
        self._one_at_a_time = threading.Lock()  # the governor
        self.error = None

    @property
    def governs(self):
        return self._governor is not None

    def set_limits(self, **limits):
        """All of those that instruments() takes."""
        with self._one_at_a_time:
            self._governor.set_limits(**_of_a_layer(limits, len(self._host.layers)))

    def start(self):
        if self._owned and not self._polled:
            self._monitor.start()
        self._thread = threading.Thread(target=self._run, name="thermoe prices", daemon=True)
        self._thread.start()

    def cancel(self):
        """Lets the thread end, without waiting for it."""
        self._stop.set()

    def stop(self):
        self.cancel()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            if self._owned and not self._polled:
                self._monitor.stop()

    def _run(self):
        before = time.perf_counter()
        try:
            while not self._stop.wait(self._interval_s):
                now = time.perf_counter()
                self.tick(now - before)
                before = now
        except Exception as error:  # said by report(); prices stay where they are
            self.error = error

    def tick(self, dt_s):
        """One tick, dt_s after the last."""
        total = self._host.statistics.total("decode")
        window, self._last = total.minus(self._last), total
        pace, before = self._host.statistics.pace(), self._pace
        self._pace = pace
        step_us = (pace[0] - before[0]) / (pace[1] - before[1]) * 1e6 if pace[1] > before[1] else None
        if self._twin:
            if not window.plans:  # a twin's time passes while the model decodes
                return self._end_tick(None)
            step_us = self._simulate(window, dt_s)
        if self._monitor is None:
            state = _core.HardwareState(present=False)
        else:
            state = self._monitor.poll() if self._polled and self._owned else self._monitor.state()
        if self._governor is not None:
            with self._one_at_a_time:
                layer_us = None if step_us is None else step_us / len(self._host.layers)
                self._governor.update(state, dt_s, layer_us)
                self._host.govern(self._governor)
        power = state.power_instant_w if state.power_average_w is None else state.power_average_w
        seconds = state.time_s if self._twin else time.perf_counter() - self._start
        tick = Tick(seconds, power, state.temperature_c, state.energy_mj, step_us, self._host.current.highest())
        self._host.history.append(tick)
        self._end_tick(tick)

    def _end_tick(self, tick):
        if self._after is not None:
            self._after(tick)

    def _simulate(self, window, dt_s):
        """Lets a twin run what was routed since the last tick, back to back: a step's latency on it, in us."""
        plans = window.plans
        read = self._host.read_frac(window)
        layer = self._costs.layer(window.tokens / plans, window.distinct / plans * read, window.pairs / plans,
                                  self._monitor.state())
        for _ in range(max(1, min(_MOST_LAYERS, int(dt_s * 1e6 / layer.latency_us)))):
            self._monitor.advance(layer)
        return layer.latency_us * len(self._host.layers)
