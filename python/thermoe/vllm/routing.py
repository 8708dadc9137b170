"""A vLLM router whose choice is the plan's: what vLLM's own router says, but for the tokens that the plan changes."""

import numpy as np
import torch
from vllm.model_executor.layers.fused_moe.config import RoutingMethodType
from vllm.model_executor.layers.fused_moe.router.base_router import BaseRouter

from .. import _core
from ..errors import InvalidArgument
from ..serving.device_router import MOST_TOGETHER, DeviceRouter, opening_share
from ..serving.layer_router import LayerRouter

_ROUTERS = []  # this process's, by number: what a compiled graph can name


class PlannedRouter(BaseRouter):
    """Around one of vLLM's routers that takes the top-k of a softmax or of sigmoids."""

    def __init__(self, inner, rank):
        super().__init__(inner.top_k, inner.global_num_experts, inner.eplb_state)
        self.inner, self.rank, self.number = inner, rank, len(_ROUTERS)
        self.layer = self.device = None  # once the number of experts is known
        _ROUTERS.append(self)

    @property
    def routing_method_type(self):
        return RoutingMethodType.Custom  # so that no kernel is chosen that routes by itself

    def place(self, number, experts):
        """The layer's number and experts, once they are known."""
        self.layer = LayerRouter(number, experts, self.top_k, self.inner.renormalize, gate=self.inner.scoring_func)
        self.device = DeviceRouter(self.layer)

    def _compute_routing(self, hidden_states, router_logits, indices_type, *, input_ids=None):
        weights, ids = self.inner._compute_routing(hidden_states, router_logits, indices_type, input_ids=input_ids)
        return self.planned(router_logits, weights, ids)

    def route_on_cpu(self, hidden_states, gating_output, topk, renormalize):
        """For RoutedExperts.custom_routing_function: vLLM's CPU experts ask no router."""
        from vllm.model_executor.layers.fused_moe.cpu_fused_moe import select_experts

        weights, ids = select_experts(hidden_states, gating_output, topk, False, renormalize,
                                      scoring_func=self.inner.scoring_func)
        return self.planned(gating_output, weights, ids)

    def planned(self, logits, weights, ids):
        """(weights, ids) [T, k] as vLLM chose them, with the plan's where it differs."""
        if torch.compiler.is_compiling():
            return torch.ops.thermoe.vllm_route(logits, weights, ids, self.number)
        if logits.device.type == "cpu":
            return self._on_cpu(logits, weights, ids)
        return self._on_gpu(logits, weights, ids)

    # --- on the CPU -----------------------------------------------------------------------------

    def _on_cpu(self, logits, weights, ids):
        current, phase = self.rank.current, self.rank.phase
        tokens = min(self.rank.tokens, len(ids))
        if phase is None or tokens == 0:
            return weights, ids
        groups = [None if tokens == len(ids) else np.arange(tokens)]
        tally, prices = self.rank.statistics.layers[self.layer.number][phase], current.prices
        if prices is None or (tokens > MOST_TOGETHER and self.rank.settings.large_batches == "top-k"):
            self.layer.plain(tally, ids.numpy(), groups)
            return weights, ids
        if tokens > MOST_TOGETHER:
            prices = _core.Prices(slope=prices.slope + prices.open * opening_share(tokens, self.layer.experts, self.top_k))
        try:
            planned = self.layer.planned(tally, logits.detach().float().numpy(), groups, prices)
        except InvalidArgument as error:  # logits that are no numbers
            self.rank.refuse(error)
            return weights, ids
        new_ids, new_weights, _, rows = (None if a is None else torch.from_numpy(a) for a in planned)
        take = (new_ids.sort(1).values != ids.sort(1).values).any(1, keepdim=True)
        if rows is not None:
            take &= rows.unsqueeze(1)
        return torch.where(take, new_weights, weights), torch.where(take, new_ids.to(ids.dtype), ids)

    # --- on a GPU -------------------------------------------------------------------------------

    def _on_gpu(self, logits, weights, ids):
        tokens, rank = len(ids), self.rank
        left_alone = tokens > MOST_TOGETHER and rank.settings.large_batches == "top-k"
        priced = rank.phase is not None and rank.current.prices is not None
        if left_alone or not self.device.needed(tokens, priced):
            return weights, ids
        return self.device.plan(rank.device_prices, logits, weights, ids, count=rank.device_tokens)


@torch.library.custom_op("thermoe::vllm_route", mutates_args=())
def _route(logits: torch.Tensor, weights: torch.Tensor, ids: torch.Tensor,
           number: int) -> tuple[torch.Tensor, torch.Tensor]:
    new_weights, new_ids = _ROUTERS[number].planned(logits, weights, ids)
    # An operator's results may not be its arguments.
    return (new_weights.clone() if new_weights is weights else new_weights,
            new_ids.clone() if new_ids is ids else new_ids)


@_route.register_fake
def _(logits, weights, ids, number):
    return torch.empty_like(weights), torch.empty_like(ids)
