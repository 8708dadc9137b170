"""Block sizes by what was measured of them, in place of triton.autotune."""

import os

import thermoe

from .kernels.specialisations import BLOCKS_M


class BlockCosts:
    """Which block_m of grouped_experts is the fastest for a layer, from a profile of `thermoe calibrate --device cuda
    --all-kernels`: nothing is timed at the first call of a shape.

    dtype: bf16, int8 or int4. Raises thermoe.IoError for what is no profile; thermoe.ProfileMiss where it has measured none
    of Triton's kernels."""

    def __init__(self, profile: str | os.PathLike, *, hidden_size: int, expert_inter_size: int, experts: int, top_k: int,
                 dtype: str = "bf16") -> None:
        self._experts, self._k = experts, top_k
        self._models = {}
        for block_m in BLOCKS_M:
            try:
                self._models[block_m] = thermoe.CostModel(
                    profile, dtype=dtype, kernel=f"thermoe_triton_m{block_m}_cold", hidden_size=hidden_size,
                    expert_inter_size=expert_inter_size, experts=experts, top_k=top_k, layers=1,
                )  # fmt: skip
            except thermoe.ProfileMiss as missing:
                last = missing
        if not self._models:
            raise last

    def predict(self, tokens: int, distinct_experts: float | None = None, state=None) -> dict[int, float]:
        """Microseconds of a layer by block_m. distinct_experts: that some token uses; None: as if tokens chose evenly.
        state: a thermoe.HardwareState, for its clock and temperature."""
        if distinct_experts is None:
            distinct_experts = self._experts * (1 - (1 - self._k / self._experts) ** tokens)
        return {
            block_m: model.layer(tokens, distinct_experts, tokens * self._k, state).latency_us
            for block_m, model in self._models.items()
        }

    def choose(self, tokens: int, distinct_experts: float | None = None, state=None) -> int:
        """The block_m that is predicted to be the fastest."""
        predicted = self.predict(tokens, distinct_experts, state)
        return min(predicted, key=predicted.get)
