"""A rank's numbers beside vLLM's own Prometheus metrics."""

import prometheus_client

_GAUGES = {
    "open_price": "Opening price of the dearest expert; 1 is the gate mass of one unmodified token",
    "power_watts": "Power of the board",
    "temperature_celsius": "Temperature of the die",
    "step_latency_seconds": "Mean of the decode steps since the last tick, start to start",
}
_COUNTERS = {
    "planned_layers": ("plans", "Batches of one layer that were routed"),
    "planned_tokens": ("tokens", "Tokens in them"),
    "changed_tokens": ("changed", "Tokens whose experts are not their top-k"),
    "distinct_experts": ("distinct", "Experts read, summed over those batches"),
    "top_k_distinct_experts": ("top_k_distinct", "Experts that top-k would have read"),
}


class Metrics:
    """Of one rank and its thermoe:* series, labelled with the rank's number and, where they count, the phase. Where
    PROMETHEUS_MULTIPROC_DIR is set vLLM's server shows those of all its processes."""

    def __init__(self, rank, registry=prometheus_client.REGISTRY):
        self._rank, self._before = str(rank), {}
        self._gauges = {name: prometheus_client.Gauge(f"thermoe:{name}", text, ["rank"], registry=registry,
                                                      multiprocess_mode="mostrecent").labels(self._rank)
                        for name, text in _GAUGES.items()}
        self._counters = {name: prometheus_client.Counter(f"thermoe:{name}", text, ["rank", "phase"],
                                                          registry=registry)
                          for name, (_, text) in _COUNTERS.items()}

    def update(self, tick, totals):
        """tick: the price loop's, or None. totals: {phase: Tally} since the beginning."""
        if tick is not None:
            values = {"open_price": tick.open_price, "power_watts": tick.power_w,
                      "temperature_celsius": tick.temperature_c,
                      "step_latency_seconds": None if tick.step_latency_us is None else tick.step_latency_us / 1e6}
            for name, value in values.items():
                if value is not None:
                    self._gauges[name].set(value)
        for phase, total in totals.items():
            grown = total.minus(self._before[phase]) if phase in self._before else total
            for name, (field, _) in _COUNTERS.items():
                self._counters[name].labels(self._rank, phase).inc(getattr(grown, field))
            self._before[phase] = total
