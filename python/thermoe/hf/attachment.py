"""attach and detach."""

import collections
import inspect
import itertools
import threading
import weakref

import numpy as np

from .. import _core
from ..errors import InvalidArgument
from ..serving.device_router import DevicePrices
from ..serving.price_loop import Current, PriceLoop, instruments
from ..serving.statistics import Statistics
from . import experts, routing
from .report import make_report
from .sites import check_version, find_sites, holder_of

_KEYS = itertools.count(1)
_ATTACHED = weakref.WeakKeyDictionary()
_PREFILL = ("batch", "positions", "top-k")
_TICKS_KEPT = 100_000  # of history: some hours


class Attachment:
    """What attach returns: a context manager that detaches. One thread runs the model at a time; any may call
    the rest. `history`: the price loop's Ticks, oldest first."""

    def __init__(self, model, sites, quantized, prefill):
        self.key, self.model_name, self.prefill = next(_KEYS), type(model).__name__, prefill
        self.quantized, self.batch = quantized, routing.Batch()
        layouts = quantized.layouts if quantized else [None] * len(sites)
        choice = quantized is not None and len(quantized.variants) > 1
        self.layers = [routing.SiteRouter(number, site, layout if choice else None)
                       for number, (site, layout) in enumerate(zip(sites, layouts))]
        self.layout = layouts[0]
        self.statistics = Statistics(len(sites))
        self.history = collections.deque(maxlen=_TICKS_KEPT)
        self.current, self.loop, self.source, self._fixed = Current(), None, "no monitor", False
        devices = {site.router.weight.device for site in sites}
        self._shown = {d: DevicePrices(sites[0].count, d) for d in devices if d.type != "cpu"}
        self._one_at_a_time = threading.Lock()  # who sets prices
        self._model, self._handles, self._implementation = weakref.ref(model), [], None

    # --- prices ---------------------------------------------------------------------------------

    @property
    def prices(self):
        """The thermoe.Prices in force, or None where all are zero."""
        return self.current.prices

    def set_prices(self, open=0.0, slope=0.0):
        """Fixes the prices, of every layer: a number, or one for each expert, in bf16; a variant's opening price is
        the share of it that the variant reads. None gives them back to the governor."""
        current = Current(None if open is None else self._spread(open, slope))
        with self._one_at_a_time:
            self._fixed = open is not None
            self._put(current)
        for shown in self._shown.values():
            shown.wait()

    def set_limits(self, *, power_cap_w=None, temperature_cap_c=None, latency_target_us=None, max_open_price=0.25):
        """Other limits from now on, as attach takes them; None: no such limit, whose price goes at once."""
        if self.loop is None or not self.loop.governs:
            raise InvalidArgument("set_limits: attached without limits, so nothing governs: give attach one")
        self.loop.set_limits(power_cap_w=power_cap_w, temperature_cap_c=temperature_cap_c,
                             latency_target_us=latency_target_us, max_open_price=max_open_price)

    def _spread(self, open, slope):
        count = self.layers[0].site.count
        arrays = []
        for name, value in (("open", open), ("slope", slope)):
            array = np.asarray(value, np.float32)
            if array.shape not in ((), (count,)) or not np.isfinite(array).all() or (array < 0).any():
                raise InvalidArgument(f"prices: {name} must be a number or {count} numbers, finite and 0 or more")
            arrays.append(np.ascontiguousarray(np.broadcast_to(array, (count,))))
        if self.quantized:
            read = np.tile(np.float32([self.quantized.read_frac[v] for v in self.quantized.variants]), count)
            per = len(self.quantized.variants)
            arrays = [np.repeat(arrays[0], per) * read, np.repeat(arrays[1], per)]
        return _core.Prices(*arrays)

    def govern(self, governor):
        """Of the price loop: takes the governor's prices unless they are fixed."""
        current = Current(governor.prices(layout=self.layout) if self.layout is not None
                          else governor.prices(self.layers[0].site.count))
        with self._one_at_a_time:
            if not self._fixed:
                self._put(current)

    def _put(self, current):
        self.current = current
        for shown in self._shown.values():
            shown.set_aside(current.prices)

    def on_device(self, device):
        """The prices in force, where a GPU reads them."""
        return self._shown[device]

    def read_frac(self, tally):
        """The mean share of an expert's bf16 bytes that the tally's pairs read."""
        if not self.quantized or not tally.pairs:
            return 1.0
        fracs = [self.quantized.read_frac[v] for v in self.quantized.variants]
        int4 = tally.int4_pairs / tally.pairs
        return fracs[0] if len(fracs) == 1 else (1 - int4) * fracs[0] + int4 * fracs[1]

    # --- the model ------------------------------------------------------------------------------

    def _install(self, model):
        holder = holder_of(model, [layer.site for layer in self.layers])
        names = list(inspect.signature(holder.forward).parameters)
        self._handles.append(holder.register_forward_pre_hook(routing.batch_hook(self.batch, names), with_kwargs=True))
        for layer in self.layers:
            hook = routing.router_hook(self, layer.number)
            self._handles.append(layer.site.router.register_forward_hook(hook))
        if self.quantized:
            for layer in self.layers:
                layer.site.experts._thermoe = (self.key, layer, self.quantized)
            self._implementation = model.get_experts_implementation()
            model.set_experts_implementation(experts.NAME)
        routing.ALIVE[self.key] = self

    def detach(self):
        """Takes everything out of the model again; a second time does nothing."""
        self.stop()
        model = self._model()
        for handle in self._handles:
            handle.remove()
        self._handles = []
        routing.ALIVE.pop(self.key, None)
        if self._implementation is not None:
            if model is not None:
                model.set_experts_implementation(self._implementation)
            for layer in self.layers:
                vars(layer.site.experts).pop("_thermoe", None)
            self._implementation = None
        if model is not None and _ATTACHED.get(model) is self:
            del _ATTACHED[model]

    def stop(self):
        """Ends the price loop; the prices stay where they are."""
        if self.loop is not None:
            self.loop.stop()

    def report(self):
        """What was routed, at which prices, with which power: a dict that prints as a table."""
        return make_report(self)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.detach()


def _cost_model(sites):
    """Costs of the model's own sizes on the H100 of the shipped profile."""
    down = sites[0].experts.down_proj
    hidden, inter = (getattr(sites[0].experts, name, None) for name in ("hidden_dim", "intermediate_dim"))
    return _core.CostModel(hidden_size=hidden or down.shape[-2], expert_inter_size=inter or down.shape[-1],
                           experts=sites[0].count, top_k=sites[0].top_k, layers=len(sites))


def attach(model, *, power_cap_w=None, temperature_cap_c=None, latency_target_us=None, max_open_price=0.25, prices=None,
           variants=None, prefill="batch", monitor="auto", costs=None, interval_s=0.2, decode_tokens=16):
    """Routes a transformers model's experts by what they cost. Returns an Attachment.

    power_cap_w, temperature_cap_c, latency_target_us: limits that the Governor turns into prices: of the board, of
      the die, of a decode step (start to start; divided by the MoE layers for the Governor). None: no such limit.
    max_open_price: ceiling of an expert's opening price; bounds the loss.
    prices: (open, slope) fixed instead, each a number or one for every expert; nothing governs.
    variants: None, the model's own experts; or on the CPU ("int8",), ("int4",) or ("int8", "int4"): quantised now,
      beside the model's own; with both each plan says which.
    prefill: who routes together in a pass of several tokens a sequence: "batch" all of them, "positions" the tokens
      of one column at a time, "top-k" leaves them alone.
    monitor: "nvml:0", "twin", "replay:FILE", a Monitor that runs, None; "auto" is the model's GPU, or None.
    costs: a CostModel; None: of the model's own sizes on the shipped H100's profile.
    interval_s: of the price loop. decode_tokens: of a decode step, for which the Governor weighs an expert's opening
      against its tokens.

    Raises InvalidArgument where the model has no MoE layer that a plan can stand for, is attached already, or a
    limit has no telemetry; what Monitor and CostModel raise.
    """
    check_version()
    if model in _ATTACHED:
        raise InvalidArgument("the model is attached already: thermoe.detach(model) first")
    if prefill not in _PREFILL:
        raise InvalidArgument(f"prefill is {prefill!r}: known are {', '.join(_PREFILL)}")
    limits = {"power_cap_w": power_cap_w, "temperature_cap_c": temperature_cap_c,
              "latency_target_us": latency_target_us}
    if prices is not None and any(value is not None for value in limits.values()):
        raise InvalidArgument("give limits or fixed prices, not both")
    sites = find_sites(model)
    listed = experts.check_variants(variants, sites)
    device = sites[0].router.weight.device
    made = instruments(monitor, (device.index or 0) if device.type == "cuda" else None, interval_s, len(sites),
                       decode_tokens, lambda: costs or _cost_model(sites), limits | {"max_open_price": max_open_price})
    attachment = Attachment(model, sites, experts.quantize(listed, sites) if listed else None, prefill)
    if prices is not None:
        attachment.set_prices(*prices)
    attachment._install(model)
    _ATTACHED[model] = attachment
    if made.governor is not None or made.monitor is not None:
        attachment.source = made.source
        attachment.loop = PriceLoop(attachment, made, interval_s)
        attachment.loop.start()
        weakref.finalize(model, attachment.loop.cancel)
    return attachment


def detach(model):
    """Ends what attach began: the model is as it was, bit for bit. Raises InvalidArgument where it is not attached."""
    attachment = _ATTACHED.get(model)
    if attachment is None:
        raise InvalidArgument("the model is not attached: thermoe.attach(model) comes first")
    attachment.detach()
