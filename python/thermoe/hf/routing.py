"""The fast loop: what a router module returned becomes what the plan says.

Under torch.compile the same runs as the custom operator thermoe::route, which a graph carries whole; it
reads prices when it runs, so that new ones need no new graph.
"""

import weakref

import numpy as np
import torch

from .. import _core

# Attachments by key: what a compiled graph can name. One that is gone routes nothing.
ALIVE = weakref.WeakValueDictionary()
MOST_TOGETHER = 256  # tokens of one program in decoding: what a plan in microseconds allows


class Batch:
    """The shape of the forward pass under way, as the model's own pre-hook saw it."""

    def __init__(self):
        self.columns = 1  # tokens of each sequence
        self.mask = None  # [sequences, columns] bool, False where a token is padding; None: no padding


def mask_of(attention_mask, columns):
    """Which of the pass's tokens are real: [sequences, columns] bool, or None where nothing says.

    Of a mask [sequences, past + columns] its end; of one [sequences, heads, columns, keys] whether a token
    may attend to anything: padding on the left may not."""
    if isinstance(attention_mask, dict):  # by kind of attention; padding is the same in all
        attention_mask = next(iter(attention_mask.values()), None)
    if not isinstance(attention_mask, torch.Tensor):
        return None
    if attention_mask.dim() == 2:
        return attention_mask[:, -columns:] != 0
    if attention_mask.dim() != 4:
        return None
    seen = attention_mask[:, 0]
    if seen.dtype != torch.bool:
        seen = seen > torch.finfo(seen.dtype).min / 2
    return seen.any(-1)


class LayerRouter:
    """Plans one layer's batches."""

    def __init__(self, number, site, layout):
        self.number, self.site = number, site
        self.variants = 1 if layout is None else layout.instances // site.count
        self.int4 = None  # of the pass under way, for the layer's experts
        self.router = _core.Router(site.count, site.top_k, layout=layout, renormalize=site.renormalize)
        self._out = None

    def _plan(self, tokens):
        """Arrays for so many tokens, used again while the number stays."""
        if self._out is None or self._out.ids.shape[0] != tokens:
            shape = (tokens, self.site.top_k)
            self._out = _core.Plan(ids=np.empty(shape, np.int32), instances=np.empty(shape, np.int32),
                                   weights=np.empty(shape, np.float32))
        return self._out

    def plain(self, tally, ids, groups):
        """Counts passes at zero prices."""
        for rows in groups:
            chosen = ids if rows is None else ids[rows]
            distinct = int(np.count_nonzero(np.bincount(chosen.reshape(-1), minlength=self.site.count)))
            tally.add(len(chosen), chosen.size, distinct, distinct)

    def planned(self, tally, logits, ids, groups, prices):
        """(rows, ids, weights, int4) of the tokens whose experts are not the router's own, or None."""
        parts = []
        for rows in groups:
            scores = logits if rows is None else logits[rows]
            plan = self.router.plan(scores, prices, out=self._plan(len(scores)), gate="softmax", layer=self.number)
            report, own = plan.report, ids if rows is None else ids[rows]
            if self.variants > 1:  # precisions change too: every token is the plan's
                int4 = (plan.instances % self.variants).astype(np.uint8)
                differ = np.arange(len(own))
            else:  # so does a tie that the router broke otherwise than the plan
                int4 = None
                differ = np.flatnonzero((np.sort(plan.ids, 1) != np.sort(own, 1)).any(1))
            tally.add(len(own), report.used_pairs, report.distinct_experts, report.top_k_distinct_experts,
                      report.gate_mass_frac, report.changed_tokens, 0 if int4 is None else int(int4.sum()))
            if len(differ):
                at = differ if rows is None else rows[differ]
                parts.append((at, plan.ids[differ], plan.weights[differ], None if int4 is None else int4[differ]))
        if not parts:
            return None
        return [None if column[0] is None else np.concatenate(column) for column in zip(*parts)]


def groups_of(tokens, columns, mask, prefill):
    """Row numbers of the tokens that route together, group by group; None is every row."""
    real = None if mask is None or mask.all() else np.flatnonzero(mask.reshape(-1))
    if columns == 1:
        if tokens <= MOST_TOGETHER:
            return [real] if real is None or len(real) else []
        rows = np.arange(tokens) if real is None else real
        return [rows[i : i + MOST_TOGETHER] for i in range(0, len(rows), MOST_TOGETHER)]
    if prefill != "positions":
        return [real] if real is None or len(real) else []
    grid = np.arange(tokens).reshape(-1, columns)
    kept = np.ones_like(grid, bool) if mask is None else mask
    return [column for column in (grid[kept[:, c], c] for c in range(columns)) if len(column)]


def route(attachment, number, logits, weights, ids, mask, columns):
    """(weights, ids, int4): the tensors given, where nothing changes; int4 uint8 or None."""
    phase = "decode" if columns == 1 else "prefill"
    statistics, layer, prices = attachment.statistics, attachment.layers[number], attachment.current.prices
    if number == 0:
        statistics.begin_step(phase)
    if phase == "prefill" and attachment.prefill == "top-k":
        prices = None
    if logits.device.type != "cpu" and prices is None:  # counting would wait for the GPU
        return weights, ids, None
    tally = statistics.layers[number][phase]
    known = None if mask is None else mask.cpu().numpy()
    own = ids.detach().cpu().numpy()
    groups = groups_of(len(own), columns, known, attachment.prefill)
    if prices is None:
        layer.plain(tally, own, groups)
        return weights, ids, None
    changes = layer.planned(tally, logits.detach().float().cpu().numpy(), own, groups, prices)
    if changes is None:
        return weights, ids, None
    rows, new_ids, new_weights, int4 = (None if c is None else torch.from_numpy(c) for c in changes)
    return _written(weights, rows, new_weights), _written(ids, rows, new_ids), (
        None if int4 is None else _written(torch.zeros(ids.shape, dtype=torch.uint8), rows, int4))


def _written(base, rows, values):
    """A copy of `base` with these rows."""
    return base.detach().index_copy(0, rows.to(base.device), values.to(base.device, base.dtype))


@torch.library.custom_op("thermoe::route", mutates_args=())
def _route(logits: torch.Tensor, weights: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor | None,
           columns: int, number: int, key: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    attachment = ALIVE.get(key)
    new_weights, new_ids, int4 = weights, ids, None
    if attachment is not None:
        new_weights, new_ids, int4 = route(attachment, number, logits, weights, ids, mask, columns)
    if int4 is None:
        int4 = torch.zeros(ids.shape, dtype=torch.uint8, device=ids.device)
    # An operator's results may not be its arguments.
    return (new_weights.clone() if new_weights is weights else new_weights,
            new_ids.clone() if new_ids is ids else new_ids, int4)


@_route.register_fake
def _(logits, weights, ids, mask, columns, number, key):
    return torch.empty_like(weights), torch.empty_like(ids), torch.empty_like(ids, dtype=torch.uint8)


def router_hook(attachment, number):
    """A forward hook of a router module: (logits, weights, ids) in, the same with the plan's out."""
    batch, key, layer = attachment.batch, attachment.key, attachment.layers[number]

    def hook(_module, _args, output):
        logits, weights, ids = output
        if torch.compiler.is_compiling():
            weights, ids, int4 = torch.ops.thermoe.route(logits, weights, ids, batch.mask, batch.columns, number, key)
        else:
            weights, ids, int4 = route(attachment, number, logits, weights, ids, batch.mask, batch.columns)
        layer.int4 = int4
        return logits, weights, ids

    return hook


def batch_hook(batch, names):
    """A forward pre-hook of the model that holds the layers: learns the pass's shape and padding."""

    def hook(_module, args, kwargs):
        given = dict(zip(names, args)) | kwargs
        tokens = given.get("input_ids")
        tokens = given.get("inputs_embeds") if tokens is None else tokens
        batch.columns = tokens.shape[1]
        batch.mask = mask_of(given.get("attention_mask"), batch.columns)

    return hook
