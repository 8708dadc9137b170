"""What was routed, since the beginning and since the last tick of the price loop."""

import threading
import time

PHASES = ("decode", "prefill")


class Tally:
    """Sums over plans. One plan is one group of tokens of one layer."""

    FIELDS = ("plans", "tokens", "distinct", "top_k_distinct", "mass", "changed", "pairs", "int4_pairs")

    def __init__(self):
        self.plans = self.tokens = self.distinct = self.top_k_distinct = self.changed = self.pairs = 0
        self.int4_pairs = 0
        self.mass = 0.0  # gate mass kept, summed over tokens

    def add(self, tokens, pairs, distinct, top_k_distinct, mass_frac=1.0, changed=0, int4_pairs=0):
        self.plans += 1
        self.tokens += tokens
        self.pairs += pairs
        self.distinct += distinct
        self.top_k_distinct += top_k_distinct
        self.mass += mass_frac * tokens
        self.changed += changed
        self.int4_pairs += int4_pairs

    def minus(self, other):
        rest = Tally()
        for field in self.FIELDS:
            setattr(rest, field, getattr(self, field) - getattr(other, field))
        return rest

    def copy(self):
        return self.minus(Tally())

    def merged(self, other):
        both = self.copy()
        for field in self.FIELDS:
            setattr(both, field, getattr(both, field) + getattr(other, field))
        return both


class Statistics:
    """Written by the thread that runs the model, read by any."""

    def __init__(self, layers):
        self.layers = [{phase: Tally() for phase in PHASES} for _ in range(layers)]
        self.steps = dict.fromkeys(PHASES, 0)  # forward passes
        self.step_s = 0.0  # of paced decode steps, start to start
        self.paced = 0
        self._before = None  # when the last pass began, if that decoded
        self._lock = threading.Lock()

    def begin_step(self, phase):
        """A forward pass reaches its first MoE layer. Steps are paced between neighbouring decode steps: a
        prefill, and with it the pause before it, is no step's time."""
        now = time.perf_counter()
        with self._lock:
            self.steps[phase] += 1
            if phase == "decode" and self._before is not None:
                self.step_s += now - self._before
                self.paced += 1
            self._before = now if phase == "decode" else None

    def total(self, phase):
        total = Tally()
        for layer in self.layers:
            total = total.merged(layer[phase])
        return total

    def pace(self):
        """(seconds, steps) so far."""
        with self._lock:
            return self.step_s, self.paced
