"""The fast loop: what a router module returned becomes what the plan says.

Under torch.compile the same runs as the custom operator thermoe::route, which a graph carries whole; it
reads prices when it runs, so that new ones need no new graph.
"""

import weakref

import numpy as np
import torch

from ..serving.device_router import MOST_TOGETHER, DeviceRouter
from ..serving.layer_router import LayerRouter

# Attachments by key: what a compiled graph can name. One that is gone routes nothing.
ALIVE = weakref.WeakValueDictionary()


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


class SiteRouter(LayerRouter):
    """A site's."""

    def __init__(self, number, site, layout):
        super().__init__(number, site.count, site.top_k, site.renormalize, layout)
        self.site, self.device = site, DeviceRouter(self)
        self.int4 = None  # of the pass under way, for the layer's experts


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
    left_alone = phase == "prefill" and attachment.prefill == "top-k"
    if left_alone:
        prices = None
    if logits.device.type != "cpu":
        if left_alone:  # also the first batch of a size, and a captured one
            return weights, ids, None
        return *route_on_gpu(attachment, layer, logits, weights, ids, mask, columns, prices), None
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


def route_on_gpu(attachment, layer, logits, weights, ids, mask, columns, prices):
    """(weights, ids). Nothing is counted, which would wait for the GPU."""
    if not layer.device.needed(len(ids), prices is not None):
        return weights, ids
    shown = attachment.on_device(logits.device)
    mask = None if mask is None else mask.reshape(-1).to(torch.bool)
    if columns == 1 or attachment.prefill != "positions":
        return layer.device.plan(shown, logits, weights, ids, mask=mask)
    weights, ids = weights.clone(), ids.clone()
    for column in range(columns):  # tokens of one column stand `columns` rows apart
        rows = slice(column, None, columns)
        weights[rows], ids[rows] = layer.device.plan(shown, logits[rows], weights[rows], ids[rows],
                                                     mask=None if mask is None else mask[rows].contiguous())
    return weights, ids


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
