"""The module's signatures. An array is anything that DLPack or the buffer protocol exports: of NumPy,
torch, JAX, CuPy. None is copied, and what is read or written is so during the call only (on a stream:
until the stream is past it).

What raises: TypeError for an object that is no array, or one of another dtype; ValueError for another
shape, stride or device, or one that is read-only where it is written; thermoe.Error's kinds, with the
library's words, for everything else.
"""

import os
from types import TracebackType
from typing import Literal, Protocol, Sequence

import numpy as np
from numpy.typing import NDArray

class _HasDLPack(Protocol):
    def __dlpack__(self) -> object: ...

_Array = NDArray | _HasDLPack
_Path = str | os.PathLike[str]

def version() -> str:
    """The library's version, "0.1.0"."""

def has_cuda() -> bool:
    """Whether this build has the CUDA code."""

# --- telemetry ----------------------------------------------------------------------------------

class HardwareState:
    """One sample of a GPU's telemetry. A reading that is missing is None, not 0."""

    def __init__(
        self,
        *,
        time_s: float = 0.0,
        present: bool = True,
        throttle_reasons: int | None = None,
        power_instant_w: float | None = None,
        power_average_w: float | None = None,
        power_limit_w: float | None = None,
        energy_mj: float | None = None,
        sm_clock_mhz: float | None = None,
        sm_clock_max_mhz: float | None = None,
        mem_clock_mhz: float | None = None,
        temperature_c: float | None = None,
        memory_temperature_c: float | None = None,
        temperature_limit_c: float | None = None,
        sm_active_frac: float | None = None,
        tensor_active_frac: float | None = None,
        dram_active_frac: float | None = None,
    ) -> None: ...
    time_s: float
    """When it was taken, on the source's clock."""
    present: bool
    """False: nothing was ever read, or the device is lost."""
    throttle_reasons: int | None
    """NVML's bits."""
    power_instant_w: float | None
    """Of the board."""
    power_average_w: float | None
    """Of the board, over about one second."""
    power_limit_w: float | None
    """The enforced cap."""
    energy_mj: float | None
    """A counter; may be reset."""
    sm_clock_mhz: float | None
    sm_clock_max_mhz: float | None
    mem_clock_mhz: float | None
    temperature_c: float | None
    memory_temperature_c: float | None
    temperature_limit_c: float | None
    sm_active_frac: float | None
    tensor_active_frac: float | None
    dram_active_frac: float | None

class Monitor:
    """Polls a source of telemetry and publishes the newest state. Any thread may use it."""

    def __init__(
        self, source: str = "nvml:0", *, rate_hz: float = 20.0, period_s: float = 0.05
    ) -> None:
        """source: "nvml:0" a GPU by NVML's index; "replay:FILE" a recorded trace; "twin:FILE" a
        simulated GPU of that power profile, "twin" of the H100's. rate_hz: of the polling thread, 0.1
        to 1000. period_s: of a replay, virtual seconds from poll to poll.

        Raises NvmlError without a driver or device, IoError for a file that is none of its kind,
        InvalidArgument.
        """

    def start(self) -> None:
        """Begins polling by a thread of its own; so does `with monitor:`, which also ends it."""

    def stop(self) -> None: ...
    def poll(self) -> HardwareState:
        """Samples once. Raises InvalidArgument while the thread runs."""

    def state(self) -> HardwareState:
        """The newest published state; neither locks nor waits."""

    def advance(self, work: CostEstimate, period_s: float = 0.0) -> None:
        """Of a twin: runs `work` and idles until period_s after its start."""

    def set_environment(
        self,
        *,
        power_cap_w: float = 0.0,
        inlet_c: float | None = None,
        sink_resistance_factor: float = 1.0,
        sensors_lost: bool = False,
    ) -> None:
        """Of a twin, from now on. power_cap_w: 0 is the board's own. inlet_c: of the air; None as
        recorded. sink_resistance_factor: a failing fan. sensors_lost: no reading at all."""

    @property
    def source(self) -> str: ...
    def __enter__(self) -> Monitor: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None: ...

# --- costs and prices ---------------------------------------------------------------------------

class CostEstimate:
    """What work costs on a device."""

    @property
    def latency_us(self) -> float: ...
    @property
    def energy_mj(self) -> float:
        """Of the board, idle power included."""

    @property
    def clock_bound_frac(self) -> float:
        """Part of latency_us that is proportional to 1 / SM clock."""

    @property
    def sm_active_frac(self) -> float: ...
    @property
    def bytes(self) -> float:
        """HBM traffic."""

    @property
    def flops(self) -> float: ...
    @property
    def uncertainty_frac(self) -> float:
        """Of latency_us, one standard deviation."""

    @property
    def bound_by(self) -> Literal["memory", "compute", "overhead"]: ...
    @property
    def cost_source(self) -> Literal["measured", "interpolated", "transferred", "roofline"]: ...

class CostSurrogate:
    """latency = c0_us + open_us * distinct + slope_us * assignments; energy alike."""

    @property
    def c0_us(self) -> float: ...
    @property
    def open_us(self) -> float: ...
    @property
    def slope_us(self) -> float: ...
    @property
    def c0_mj(self) -> float: ...
    @property
    def open_mj(self) -> float: ...
    @property
    def slope_mj(self) -> float: ...
    @property
    def fit_error_frac(self) -> float: ...
    @property
    def envelope_gap_frac(self) -> float: ...

class CostModel:
    """What an MoE layer costs on a device, from measured tables. Any thread may use it."""

    def __init__(
        self,
        profile: _Path | None = None,
        shape: str | None = None,
        *,
        dtype: str = "bf16",
        kernel: str = "",
        hidden_size: int = 0,
        expert_inter_size: int = 0,
        experts: int = 0,
        top_k: int = 0,
        layers: int = 0,
    ) -> None:
        """profile: a file of data/profiles; None: the H100's. shape: a published model's by name, or
        None and its five sizes; neither: "qwen3-30b-a3b". dtype, kernel: of the experts' weights, as
        the profile has them.

        Raises IoError naming file and field; ProfileMiss listing what the profile has; InvalidArgument
        listing the known shapes. Takes up to a second.
        """

    def layer(
        self,
        tokens: float,
        distinct_experts: float,
        assignments: float,
        state: HardwareState | None = None,
    ) -> CostEstimate:
        """One layer's experts of which `distinct_experts` are read for `assignments` token-expert
        pairs. With a state at its clock and temperature. Raises InvalidArgument on what is negative,
        not finite, or more experts than exist."""

    def surrogate(self, tokens: float, state: HardwareState | None = None) -> CostSurrogate: ...

class Multipliers:
    """Prices of resources, in utility."""

    @property
    def per_us(self) -> float: ...
    @property
    def per_mj(self) -> float: ...

class Prices:
    """Of a layer's I instances, or of its E experts without a layout: float32, contiguous, finite, >= 0,
    1 being the gate mass of one unmodified token. None: zero."""

    def __init__(
        self,
        open: _Array | None = None,
        slope: _Array | None = None,
        *,
        device_open: _Array | None = None,
        device_slope: _Array | None = None,
        device_base: _Array | None = None,
    ) -> None:
        """open [I]: for reading an instance's weights. slope [I]: for each token sent there.
        device_open, device_slope [I], device_base [devices]: the same, of which the dearest device's
        sum counts."""

    @property
    def open(self) -> _Array | None: ...
    @property
    def slope(self) -> _Array | None: ...
    @property
    def device_open(self) -> _Array | None: ...
    @property
    def device_slope(self) -> _Array | None: ...
    @property
    def device_base(self) -> _Array | None: ...

class Layout:
    """In which precisions and on which devices a layer's experts can be had."""

    def __init__(
        self,
        experts: int,
        variants: Sequence[str | tuple[str, float] | tuple[str, float, float] | tuple[str, float, float, float]],
        *,
        devices: int = 1,
        expert: _Array | None = None,
        variant: _Array | None = None,
        device: _Array | None = None,
        capacity: _Array | None = None,
    ) -> None:
        """variants: a name, or (name, error_frac, read_frac, compute_frac), the first the checkpoint's
        own. expert, variant, device [I] int32: the instances, by expert, then variant, then device;
        None: every expert in every variant. capacity [I] int32: most tokens of a batch."""

    @property
    def instances(self) -> int:
        """I."""

class Governor:
    """The slow loop: limits in, prices out. One thread at a time."""

    def __init__(
        self,
        surrogate: CostSurrogate,
        *,
        power_cap_w: float | None = None,
        temperature_cap_c: float | None = None,
        layer_latency_target_us: float | None = None,
        max_open_price: float = 0.25,
    ) -> None:
        """None: no such limit. max_open_price: ceiling of an expert's opening price; bounds the loss.
        Raises InvalidArgument on what is not positive and finite."""

    def set_limits(
        self,
        *,
        power_cap_w: float | None = None,
        temperature_cap_c: float | None = None,
        layer_latency_target_us: float | None = None,
        max_open_price: float = 0.25,
    ) -> None: ...
    def update(
        self, state: HardwareState, dt_s: float, layer_latency_us: float | None = None
    ) -> Multipliers:
        """One tick, dt_s after the last. layer_latency_us: observed mean of an MoE layer since."""

    def prices(
        self,
        experts: int = 0,
        *,
        layout: Layout | None = None,
        surrogate: CostSurrogate | None = None,
    ) -> Prices:
        """Of so many experts, or of a layout's instances: NumPy arrays open and slope. surrogate: None
        is the governor's own."""

# --- routing ------------------------------------------------------------------------------------

class Report:
    """What a plan is worth and how far from the best it can be."""

    @property
    def infeasible(self) -> bool:
        """No plan keeps the limits; this one violates them least."""

    @property
    def objective(self) -> float: ...
    @property
    def bound(self) -> float:
        """No plan that keeps the limits does better."""

    @property
    def gap_frac(self) -> float:
        """|bound - objective| / |bound|."""

    @property
    def utility(self) -> float: ...
    @property
    def cost(self) -> float: ...
    @property
    def limit_excess(self) -> float: ...
    @property
    def gate_mass_frac(self) -> float:
        """Kept share of the tokens' own top-k mass."""

    @property
    def distinct_experts(self) -> int: ...
    @property
    def distinct_instances(self) -> int: ...
    @property
    def top_k_distinct_experts(self) -> int: ...
    @property
    def changed_tokens(self) -> int: ...
    @property
    def used_pairs(self) -> int:
        """How many entries of `packed` are the plan's."""

class Plan:
    """A batch's plan in arrays of the caller's, to be given as out=; Router.plan makes one of NumPy
    arrays where it gets none. T tokens, slots of a token (k, or more where the policy gives more)."""

    def __init__(
        self,
        *,
        ids: _Array | None = None,
        instances: _Array | None = None,
        weights: _Array | None = None,
        changed: _Array | None = None,
        offsets: _Array | None = None,
        packed: _Array | None = None,
        device_report: _Array | None = None,
    ) -> None:
        """Each contiguous and writable; None where it is not wanted. On a GPU all are needed."""

    @property
    def ids(self) -> _Array | None:
        """[T, slots] int32: experts by falling score; unused slots stand last and are -1."""

    @property
    def instances(self) -> _Array | None:
        """[T, slots] int32."""

    @property
    def weights(self) -> _Array | None:
        """[T, slots] float32: the share of each expert's output in the token's; unused 0."""

    @property
    def changed(self) -> _Array | None:
        """[T] uint8: 1 where the set of experts is not the token's top-k."""

    @property
    def offsets(self) -> _Array | None:
        """[I + 1] int32: the pairs of instance i are packed[offsets[i]:offsets[i + 1]]."""

    @property
    def packed(self) -> _Array | None:
        """[T * slots] int32: token * slots + slot; the first report.used_pairs are the plan's."""

    @property
    def device_report(self) -> _Array | None:
        """[48] uint8 on the GPU: thermoe_device_report of c_api.h."""

    @property
    def report(self) -> Report:
        """Of the last batch that was planned on the CPU."""

class Router:
    """Plans batches of one layer. Threads take turns; the GIL is free meanwhile."""

    def __init__(
        self,
        experts: int,
        k: int,
        *,
        min_k: int = 0,
        layout: Layout | None = None,
        policy: str | None = None,
        renormalize: bool = True,
    ) -> None:
        """min_k: a token may use so few experts; 0: the policy's own. policy: as of `thermoe route
        --policy`; None: "adaptive". renormalize: an unmodified token's weights sum to 1. Raises
        InvalidArgument."""

    def plan(
        self,
        scores: _Array,
        prices: Prices | None = None,
        *,
        out: Plan | None = None,
        gate: Literal["none", "softmax", "sigmoid"] = "none",
        layer: int = 0,
        max_loss_frac: float | None = None,
        cost_budget: float | None = None,
        stream: int | None = None,
        workspace: _Array | None = None,
        bias: _Array | None = None,
    ) -> Plan:
        """scores [T, E], float32 or bfloat16, of any row stride: gate probabilities, or what `gate`
        makes such. max_loss_frac: least cost that loses at most so much of top-k's utility.
        cost_budget: most utility at such a cost. With zero prices the plan is top-k's, bit for bit.
        Returns `out`, or a new plan.

        stream: plan on the GPU that holds scores, prices and out, on that cudaStream_t, without
        allocation or synchronisation (policies "adaptive" and "topk"; of more than 256 tokens "adaptive" routes each
        alone at slope prices, and reads no opening prices); workspace: uint8 there, of
        workspace_bytes(T); bias [E] float32. Raises NoCuda where the build has no CUDA code.

        Raises InvalidArgument naming token and expert of a score that is negative or not finite.
        """

    def workspace_bytes(self, tokens: int) -> int:
        """What plan(stream=) needs for so many tokens. Raises NoCuda."""

    @property
    def experts(self) -> int: ...
    @property
    def k(self) -> int: ...
    @property
    def instances(self) -> int: ...

class QuantizedExperts:
    """SwiGLU experts stored once, run in int8 or int4 on the CPU. Threads take turns; the GIL is free."""

    def __init__(self, gate: _Array, up: _Array, down: _Array, *, threads: int = 0) -> None:
        """gate, up [E, intermediate, hidden], down [E, hidden, intermediate], float32: quantised, then
        no longer needed. threads: 0 is one per hardware thread. Raises InvalidArgument naming the
        expert whose weights are not finite."""

    def forward(
        self,
        x: _Array,
        ids: _Array,
        weights: _Array,
        *,
        int4: _Array | None = None,
        out: _Array | None = None,
    ) -> _Array:
        """out[t] = sum over slots of weights[t, s] * expert ids[t, s] (x[t]). x, out [T, hidden]
        float32, of any row stride; out may be x. ids [T, slots] int32, -1 for none; weights [T, slots]
        float32; int4 [T, slots] uint8: 1 where the pair runs in int4, else int8. Returns out."""

    @property
    def bytes(self) -> tuple[int, int]:
        """Of one expert, that its products read in int8 and in int4."""

    @property
    def error_frac(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """[E] relative squared error of each expert's output in int8 and in int4: a layout's."""

    @property
    def experts(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
