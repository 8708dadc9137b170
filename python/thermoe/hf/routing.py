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
            distinct = len(set(chosen.reshape(-1).tolist())) if chosen.size < 512 else int(
                np.count_nonzero(np.bincount(chosen.reshape(-1), minlength=self.site.count)))
            tally.add(len(chosen), chosen.size, distinct, distinct)

    def planned(self, tally, logits, groups, prices):
        """(ids, weights, int4, rows): the plan's arrays [T, slots], of which `rows` [T] were planned. int4 is None
        where precisions are not the plan's to choose, rows where all were planned."""
        if len(groups) == 1 and groups[0] is None:
            return *self._group(tally, logits, prices), None
        shape = (len(logits), self.site.top_k)
        ids, weights, planned = np.zeros(shape, np.int32), np.zeros(shape, np.float32), np.zeros(len(logits), bool)
        int4 = np.zeros(shape, np.uint8) if self.variants > 1 else None
        for rows in groups:
            ids[rows], weights[rows], coarse = self._group(tally, logits[rows], prices)
            planned[rows] = True
            if coarse is not None:
                int4[rows] = coarse
        return ids, weights, int4, planned

    def _group(self, tally, logits, prices):
        plan = self.router.plan(logits, prices, out=self._plan(len(logits)), gate="softmax", layer=self.number)
        int4 = (plan.instances % self.variants).astype(np.uint8) if self.variants > 1 else None
        report = plan.report
        tally.add(len(logits), report.used_pairs, report.distinct_experts, report.top_k_distinct_experts,
                  report.gate_mass_frac, report.changed_tokens, 0 if int4 is None else int(int4.sum()))
        return plan.ids, plan.weights, int4


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
    groups = groups_of(len(ids), columns, None if mask is None else mask.cpu().numpy(), attachment.prefill)
    if prices is None:
        layer.plain(tally, ids.cpu().numpy(), groups)
        return weights, ids, None
    planned = layer.planned(tally, logits.detach().float().cpu().numpy(), groups, prices)
    new_ids, new_weights, int4, rows = (None if a is None else torch.from_numpy(a).to(ids.device) for a in planned)
    # A token keeps what its router returned, bit for bit, unless the plan changed it or broke a tie otherwise.
    take = (new_ids != ids).any(1, keepdim=True)
    if rows is not None:
        take &= rows.unsqueeze(1)
    # Copies: the plan's arrays are written again by the next batch of this size.
    return (torch.where(take, new_weights.to(weights.dtype), weights.detach()),
            torch.where(take, new_ids.to(ids.dtype), ids), int4)


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
