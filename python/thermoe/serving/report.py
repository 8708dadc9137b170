"""What was routed, as a dict of plain values."""

import json


class Report(dict):
    """Units are in the keys. None: not known."""

    def json(self):
        return json.dumps(self, indent=2)


def mean(values):
    """Of what is known; None where nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def loop_report(history, loop):
    """Telemetry over the price loop's Ticks, and how it ended. loop: a PriceLoop, or None."""
    return {
        "power_w": mean([tick.power_w for tick in history]),
        "temperature_c": next((t.temperature_c for t in reversed(history) if t.temperature_c is not None), None),
        "error": None if loop is None or loop.error is None else str(loop.error),
    }


def phase_report(statistics, phase):
    """Passes and tokens of a phase, and means over its plans, which are one layer's each."""
    total, layers = statistics.total(phase), len(statistics.layers)
    known = total.plans > 0
    return {
        "passes": statistics.steps[phase],
        "tokens": total.tokens // layers,
        "distinct_experts": total.distinct / total.plans if known else None,
        "top_k_distinct_experts": total.top_k_distinct / total.plans if known else None,
        "gate_mass_frac": total.mass / total.tokens if known else None,
        "changed_tokens_frac": total.changed / total.tokens if known else None,
    }
