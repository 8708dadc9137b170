"""One layer's plans on a GPU, enqueued on PyTorch's current stream and never waited for.

What a CUDA graph captures reads prices, and how many of a batch's tokens are real, when it is replayed.
"""

import numpy as np
import torch

from .. import _core

MOST_TOGETHER = 256  # tokens of one program: what a plan in microseconds allows
_MOST_TOKENS = 16384  # of one launch
_STAGES = 8


class DevicePrices:
    """float32 [E] each, on one GPU; zero until they are set. Made before a graph is captured that reads them."""

    def __init__(self, experts, device):
        self._both = torch.zeros(2, experts, device=device)
        self.open, self.slope = self._both
        # Copies from pinned memory don't wait; so many prices may be under way at once.
        pinned = self._both.is_cuda
        self._staged = [torch.zeros(2, experts, pin_memory=pinned) for _ in range(_STAGES)]
        self._next = 0
        self._aside = torch.cuda.Stream(device) if pinned else None

    def set_aside(self, prices):
        """As set(), by another thread than the model's: on a stream of its own, as the model may be capturing a graph on
        its, which no other thread may disturb."""
        with torch.cuda.stream(self._aside):
            self.set(prices)

    def wait(self):
        """Until what set_aside enqueued is in force."""
        if self._aside is not None:
            self._aside.synchronize()

    def set(self, prices):
        """A thermoe.Prices of NumPy arrays, or None: zero. On the current stream; where nothing changes, nothing is
        enqueued."""
        now, before = self._staged[self._next % _STAGES], self._staged[(self._next - 1) % _STAGES]
        for row, values in zip(now, (prices and prices.open, prices and prices.slope)):
            row.copy_(torch.zeros(()) if values is None else torch.from_numpy(np.ascontiguousarray(values)))
        if not torch.equal(now, before):
            self._both.copy_(now, non_blocking=True)
            self._next += 1


def opening_share(tokens, experts, top_k):
    """What one of so many tokens bears of an expert's opening price, if the experts share them evenly."""
    return experts / (tokens * top_k)


class DeviceRouter:
    """Beside a LayerRouter without variants."""

    def __init__(self, layer):
        self._layer = layer
        self._seen = set()

    def needed(self, tokens, priced):
        """Whether to plan at all. At zero prices only a graph that is captured has to, for others to come, and the first
        batch of a size: it loads kernels, which a capture can't."""
        first = tokens not in self._seen
        self._seen.add(tokens)
        return tokens > 0 and (priced or first or torch.cuda.is_current_stream_capturing())

    def plan(self, prices, logits, weights, ids, *, count=None, mask=None):
        """(weights, ids) [T, k] as an engine chose them, with the plan's of the tokens whose experts it changes. logits
        [T, E]. Rows at and after `count` (int32 [] on the GPU), or False in `mask` (bool [T]), are padding: they keep
        what they have and are worth no price, as are those whose logits are no numbers."""
        from . import device_kernels  # Triton: comes with PyTorch for GPUs, may be missing elsewhere

        # Of a row that is none every expert scores the same: whichever it gets, no other row pays for it.
        scores, real = device_kernels.stage(logits.detach(), count, mask)
        tokens, open, slope = len(ids), prices.open, prices.slope
        if tokens > MOST_TOGETHER:
            slope = torch.add(slope, open, alpha=opening_share(tokens, self._layer.experts, self._layer.top_k))
            open = None
        parts = [slice(begin, begin + _MOST_TOKENS) for begin in range(0, tokens, _MOST_TOKENS)]
        merged = [device_kernels.merge(self._launch(scores[part], open, slope), real[part],
                                       weights.detach()[part], ids[part]) for part in parts]
        return merged[0] if len(merged) == 1 else tuple(map(torch.cat, zip(*merged)))

    def _launch(self, scores, open, slope):
        tokens, device, router = len(scores), scores.device, self._layer.router
        out = self._out(tokens, device)
        workspace = torch.empty(router.workspace_bytes(tokens), dtype=torch.uint8, device=device)
        with torch.cuda.device(device):
            router.plan(scores, _core.Prices(open, slope), out=out, gate=self._layer.gate, workspace=workspace,
                        stream=torch.cuda.current_stream().cuda_stream)
        return out

    def _out(self, tokens, device):
        def array(shape, dtype):
            return torch.empty(shape, dtype=dtype, device=device)

        top_k, experts = self._layer.top_k, self._layer.experts
        return _core.Plan(ids=array((tokens, top_k), torch.int32), instances=array((tokens, top_k), torch.int32),
                          weights=array((tokens, top_k), torch.float32), changed=array(tokens, torch.uint8),
                          offsets=array(experts + 1, torch.int32), packed=array(tokens * top_k, torch.int32),
                          device_report=array(48, torch.uint8))
