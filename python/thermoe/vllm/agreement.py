"""One price for an expert on all ranks that route the same tokens."""

import numpy as np
import torch


class Agreement:
    """Of the ranks of one tensor-parallel group, which see the same tokens and so must make the same plan. An
    expert's price is that of the rank that holds it, the highest where several do or none of the group does.

    group: a torch.distributed group on the CPU; None: this rank alone. mine: bool [E], the experts whose weights
    this rank reads."""

    def __init__(self, group, mine):
        self._group, self._mine = group, mine
        held = self._highest(mine.astype(np.float32)) > 0
        self._orphan = ~held  # held by other groups: priced by this one's own telemetry

    def __call__(self, open, slope):
        """float32 [E] each: this rank's prices in, the agreed ones out. Every rank calls it after the same number of
        forward passes."""
        own = np.stack([open, slope])
        return tuple(self._highest(np.where(self._mine | self._orphan, own, np.float32(0))))

    def _highest(self, values):
        if self._group is None:
            return values
        shared = torch.from_numpy(np.ascontiguousarray(values, np.float32).copy())
        torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX, group=self._group)
        return shared.numpy()
