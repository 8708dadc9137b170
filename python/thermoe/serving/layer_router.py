"""One layer's plans on the CPU."""

import numpy as np

from .. import _core


class LayerRouter:
    """Plans one layer's batches."""

    def __init__(self, number, experts, top_k, renormalize, layout=None, gate="softmax"):
        self.number, self.experts, self.top_k, self.gate = number, experts, top_k, gate
        self.variants = 1 if layout is None else layout.instances // experts
        self.router = _core.Router(experts, top_k, layout=layout, renormalize=renormalize)
        self._out = None

    def _plan(self, tokens):
        """Arrays for so many tokens, used again while the number stays."""
        if self._out is None or self._out.ids.shape[0] != tokens:
            shape = (tokens, self.top_k)
            self._out = _core.Plan(ids=np.empty(shape, np.int32), instances=np.empty(shape, np.int32),
                                   weights=np.empty(shape, np.float32))
        return self._out

    def plain(self, tally, ids, groups):
        """Counts passes at zero prices."""
        for rows in groups:
            chosen = ids if rows is None else ids[rows]
            distinct = len(set(chosen.reshape(-1).tolist())) if chosen.size < 512 else int(
                np.count_nonzero(np.bincount(chosen.reshape(-1), minlength=self.experts)))
            tally.add(len(chosen), chosen.size, distinct, distinct)

    def planned(self, tally, logits, groups, prices):
        """(ids, weights, int4, rows): the plan's arrays [T, slots], of which `rows` [T] were planned. int4 is None
        where precisions are not the plan's to choose, rows where all were planned."""
        if len(groups) == 1 and groups[0] is None:
            return *self._group(tally, logits, prices), None
        shape = (len(logits), self.top_k)
        ids, weights, planned = np.zeros(shape, np.int32), np.zeros(shape, np.float32), np.zeros(len(logits), bool)
        int4 = np.zeros(shape, np.uint8) if self.variants > 1 else None
        for rows in groups:
            ids[rows], weights[rows], coarse = self._group(tally, logits[rows], prices)
            planned[rows] = True
            if coarse is not None:
                int4[rows] = coarse
        return ids, weights, int4, planned

    def _group(self, tally, logits, prices):
        plan = self.router.plan(logits, prices, out=self._plan(len(logits)), gate=self.gate, layer=self.number)
        int4 = (plan.instances % self.variants).astype(np.uint8) if self.variants > 1 else None
        report = plan.report
        tally.add(len(logits), report.used_pairs, report.distinct_experts, report.top_k_distinct_experts,
                  report.gate_mass_frac, report.changed_tokens, 0 if int4 is None else int(int4.sum()))
        return plan.ids, plan.weights, int4
