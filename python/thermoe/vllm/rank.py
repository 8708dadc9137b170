"""One process of vLLM: its layers, its prices, the telemetry of its GPU."""

import collections
import logging
import weakref

import numpy as np
import torch

from .. import _core
from ..errors import InvalidArgument
from ..serving.device_router import DevicePrices
from ..serving.price_loop import Current, PriceLoop, instruments
from ..serving.statistics import PHASES, Statistics
from .agreement import Agreement
from .reports import Reports

_LOG = logging.getLogger("vllm.thermoe")  # vLLM's handlers and level
_TICKS_KEPT = 1000  # of history: what a report's means are of
_SERVED = "models whose router takes the top-k of a softmax or of sigmoids (Qwen3-MoE, OLMoE, Mixtral)"


class Rank:
    """Made when the module is loaded, at work from the first router on. vLLM's one thread that runs the model calls
    all but what says otherwise."""

    def __init__(self):
        self.settings = None
        self._runners, self.routers, self.layers = [], [], []
        self.current, self.statistics, self.history = Current(), Statistics(0), collections.deque(maxlen=_TICKS_KEPT)
        self.phase, self.tokens = None, 0  # of the pass under way; None: one that vLLM makes up
        self.number, self.loop, self.source = 0, None, "no monitor"
        self.refused = 0  # batches of one layer whose logits were no numbers
        self.device_prices = self.device_tokens = None  # on a GPU: DevicePrices, and `tokens`; what graphs read
        self._proposed, self._agreement, self._passes = None, None, 0

    def configure(self, settings):
        self.settings = settings

    # --- while vLLM builds the model ------------------------------------------------------------

    def router(self, router):
        """The planned router in its place. Raises InvalidArgument for one that a plan can't stand for."""
        from vllm.model_executor.layers.fused_moe.router.fused_topk_router import FusedTopKRouter

        from .routing import PlannedRouter

        if type(router) is not FusedTopKRouter:
            raise InvalidArgument(f"{type(router).__name__}: thermoe's plug-in serves {_SERVED}; unset the variables "
                                  "THERMOE_VLLM_* to serve this model without it")
        planned = PlannedRouter(router, self)
        self.routers.append(planned)
        return planned

    def place(self, runner):
        """A MoERunner that was made: where its router is ours, experts on the CPU are told to ask it."""
        if runner.router not in self.routers:
            return
        self._runners.append(weakref.ref(runner))
        if _cpu():
            runner.routed_experts.custom_routing_function = runner.router.route_on_cpu

    # --- before each forward pass ---------------------------------------------------------------

    def begin_pass(self, metadata):
        """attn_metadata as vLLM gives it: None, or by layer, each with num_actual_tokens and max_query_len."""
        if not self.routers:
            return
        if self._agreement is None:
            self._begin()
        if self._agreement is None:  # no layer was made of the routers
            return
        if self._passes % self.settings.agree_steps == 0:
            self._agree()
        self._passes += 1
        if isinstance(metadata, list):
            raise InvalidArgument("dual-batch overlap (--enable-dbo) cuts a batch in two: thermoe's plug-in routes "
                                  "whole batches; leave it out")
        layers = metadata.values() if isinstance(metadata, dict) else ()
        told = next((layer for layer in layers if hasattr(layer, "num_actual_tokens")), None)
        self.phase, self.tokens = None, 0
        if told is not None:
            self.phase = "decode" if told.max_query_len <= 1 else "prefill"
            self.tokens = told.num_actual_tokens
            self.statistics.begin_step(self.phase)
        if self.device_tokens is not None:
            self.device_tokens.fill_(self.tokens)

    # --- prices ---------------------------------------------------------------------------------

    def govern(self, governor):
        """Of the price loop's thread: what this rank proposes at the next agreement."""
        prices = governor.prices(self.layers[0].experts)
        self._proposed = (np.asarray(prices.open), np.asarray(prices.slope))

    def propose(self, open, slope):
        """Fixed prices, of every expert, in force from the next agreement on."""
        self._proposed = tuple(np.full(self.layers[0].experts, price, np.float32) for price in (open, slope))

    def read_frac(self, _tally):
        """Experts run as they are stored."""
        return 1.0

    def _agree(self):
        proposed = self._proposed
        if proposed is None:
            proposed = (np.zeros(self.layers[0].experts, np.float32),) * 2
        self.current = Current(_core.Prices(*map(np.ascontiguousarray, self._agreement(*proposed))))
        if self.device_prices is not None:
            self.device_prices.set(self.current.prices)

    def refuse(self, error):
        """A batch that could not be planned, and is vLLM's alone."""
        self.refused += 1
        if self.refused == 1:
            _LOG.warning("thermoe left a batch to vLLM's own routing (said once; reports count them): %s", error)

    # --- the beginning --------------------------------------------------------------------------

    def _begin(self):
        runners = [runner for runner in (ref() for ref in self._runners) if runner is not None]
        if not runners:
            return
        for runner in runners:
            _check(runner)
        first = runners[0].moe_config
        experts = first.num_logical_experts
        if len({(r.moe_config.num_logical_experts, r.moe_config.experts_per_token) for r in runners}) > 1:
            raise InvalidArgument("layers of different numbers of experts: thermoe's plug-in serves models whose MoE "
                                  "layers are alike")
        for number, runner in enumerate(runners):
            runner.router.place(number, experts)
            self.layers.append(runner.router.layer)
        self.statistics = Statistics(len(self.layers))
        self._agreement = Agreement(_group(), _mine(runners[0].routed_experts, experts))
        if self.settings.fixed:
            self.propose(self.settings.open_price or 0.0, self.settings.slope_price or 0.0)
        if not _cpu():
            device = torch.device("cuda", torch.cuda.current_device())
            self.device_prices = DevicePrices(experts, device)
            self.device_tokens = torch.zeros((), dtype=torch.int32, device=device)
        self._start(first)

    def _start(self, config):
        settings = self.settings
        limits = {"power_cap_w": settings.power_cap_w, "temperature_cap_c": settings.temperature_cap_c,
                  "latency_target_us": settings.step_latency_target_us, "max_open_price": settings.max_open_price}

        def cost_model():
            return _core.CostModel(settings.profile, hidden_size=config.hidden_dim,
                                   expert_inter_size=config.intermediate_size_per_partition,
                                   experts=config.num_logical_experts, top_k=config.experts_per_token,
                                   layers=len(self.layers))

        made = instruments(None if settings.monitor == "none" else settings.monitor, _gpu(), settings.interval_s,
                           len(self.layers), settings.decode_tokens, cost_model, limits)
        self.number, self.source = _rank(), made.source
        self.loop = PriceLoop(self, made, settings.interval_s, after=Reports(self, settings.report).after_tick)
        self.loop.start()

    def totals(self):
        """{phase: Tally} since the beginning. Any thread."""
        return {phase: self.statistics.total(phase) for phase in PHASES}


def _check(runner):
    """Raises InvalidArgument for a layer whose experts don't ask the router, or ask it about others' tokens."""
    method = runner.routed_experts.quant_method
    if _cpu():
        if not type(method).__name__.startswith("Unquantized"):
            raise InvalidArgument(f"{runner.layer_name}: {type(method).__name__} routes by itself on the CPU: serve "
                                  "the model unquantised there, or unset THERMOE_VLLM_*")
        if runner.moe_config.moe_parallel_config.use_ep:
            raise InvalidArgument("vLLM's CPU experts don't know expert parallelism: leave --enable-expert-parallel out")
    elif method.is_monolithic:
        raise InvalidArgument(f"{runner.layer_name}: {type(method).__name__} chose a kernel that routes by itself: "
                              "choose another (--moe-backend triton), or unset THERMOE_VLLM_*")
    config = runner.moe_config
    if runner.do_naive_dispatch_combine or config.pcp_size > 1:
        raise InvalidArgument(f"{runner.layer_name}: this all-to-all gathers all ranks' tokens before they are routed, "
                              "whose prices thermoe's plug-in does not agree on: choose another "
                              "(--all2all-backend), or unset THERMOE_VLLM_*")
    if config.is_sequence_parallel:
        raise InvalidArgument(f"{runner.layer_name}: tensor-parallel ranks share a batch's tokens out among themselves "
                              "here, whose plan thermoe's plug-in makes as a whole: serve with data parallelism alone "
                              "(--tensor-parallel-size 1), or unset THERMOE_VLLM_*")


def _cpu():
    from vllm.platforms import current_platform

    return current_platform.is_cpu()


def _gpu():
    """The NVML index of this process's GPU, None on the CPU."""
    from vllm.distributed import get_world_group
    from vllm.platforms import current_platform

    if not current_platform.is_cuda():
        return None
    return current_platform.device_id_to_physical_device_id(get_world_group().local_rank)


def _rank():
    from vllm.distributed import get_world_group

    return get_world_group().rank


def _group():
    """The tensor-parallel ranks' group on the CPU, or None where there is one rank."""
    from vllm.distributed import get_tp_group

    group = get_tp_group()
    return group.cpu_group if group.world_size > 1 else None


def _mine(routed_experts, experts):
    """bool [E]: the experts whose weights this rank has (without expert parallelism a part of every one's)."""
    held = routed_experts.expert_map
    if held is None or len(held) != experts:  # of replicas nobody keeps count here: each rank prices every expert
        return np.ones(experts, bool)
    return held.cpu().numpy() >= 0


RANK = Rank()
