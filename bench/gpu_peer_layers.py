"""The peers that bench/gpu_peers.py times: each computes one MoE layer's experts by other projects' kernels,
y = sum over s of weight[s] * down(silu(gate x) * up x).
"""

import torch
import triton
import triton.language as tl

# Triton's interpreter multiplies bf16's bits as integers.
DTYPE = torch.float16 if triton.knobs.runtime.interpret else torch.bfloat16
COMPUTE_TYPE = tl.float16 if DTYPE == torch.float16 else tl.bfloat16
CONFIG_KEYS = ["BLOCK_SIZE_M", "BLOCK_SIZE_N", "BLOCK_SIZE_K", "GROUP_SIZE_M", "num_warps", "num_stages"]


# What vLLM computes by its compiled _C extension, and one pass for the weighted sum over a token's experts.


@triton.jit
def silu_and_mul_kernel(gate_up_ptr, out_ptr, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = column < columns
    gate = tl.load(gate_up_ptr + row * 2 * columns + column, mask=mask).to(tl.float32)
    up = tl.load(gate_up_ptr + row * 2 * columns + columns + column, mask=mask).to(tl.float32)
    product = gate / (1 + tl.exp(-gate)) * up
    tl.store(out_ptr + row * columns + column, product.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def sum_kernel(rows_ptr, slots_ptr, weights_ptr, out_ptr, columns, top_k: tl.constexpr, WEIGHTED: tl.constexpr,
               BLOCK: tl.constexpr):
    """out[t] = the sum of rows[t * top_k + s], or WEIGHTED of weights[t, s] * rows[slots[t, s]], over s."""
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = column < columns
    total = tl.zeros((BLOCK,), tl.float32)
    for slot in tl.static_range(top_k):
        row = token * top_k + slot
        if WEIGHTED:
            weight = tl.load(weights_ptr + row)
            row = tl.load(slots_ptr + row).to(tl.int64)
            total += weight * tl.load(rows_ptr + row * columns + column, mask=mask).to(tl.float32)
        else:
            total += tl.load(rows_ptr + row * columns + column, mask=mask).to(tl.float32)
    tl.store(out_ptr + token * columns + column, total.to(out_ptr.dtype.element_ty), mask=mask)


def silu_and_mul(gate_up, out):
    silu_and_mul_kernel[(out.shape[0], triton.cdiv(out.shape[1], 512))](gate_up, out, out.shape[1], BLOCK=512)


def sum_slots(rows, out, top_k, slots=None, weights=None):
    sum_kernel[(out.shape[0], triton.cdiv(out.shape[1], 512))](rows, slots, weights, out, out.shape[1], top_k,
                                                               slots is not None, BLOCK=512)


# Weights of one layer: gate over up [experts, 2 * intermediate, hidden] and down [experts, hidden, intermediate].


def quantise(weight, bits, group):
    """Symmetric: codes in [0, 2^bits) around 2^(bits - 1), and a bf16 scale for each group of a row."""
    half = 1 << (bits - 1)
    codes = torch.empty(weight.shape, dtype=torch.uint8, device=weight.device)
    scales = torch.empty(*weight.shape[:2], weight.shape[2] // group, dtype=DTYPE, device=weight.device)
    for expert, matrix in enumerate(weight):
        groups = matrix.float().unflatten(1, (-1, group))
        scale = (groups.abs().amax(2, keepdim=True) / (half - 1)).to(DTYPE)
        codes[expert] = ((groups / scale.float()).round().clamp_(-half, half - 1) + half).flatten(1).to(torch.uint8)
        scales[expert] = scale[..., 0]
    return codes, scales


def dequantised(codes, scales, bits):
    groups = codes.float().unflatten(1, (scales.shape[1], -1)) - (1 << (bits - 1))
    return (groups * scales.float()[..., None]).flatten(1)


def group_of(shape):
    return next(group for group in (128, 64, 32) if shape.hidden % group == 0 and shape.intermediate % group == 0)


class Peer:
    """One implementation for one shape. weights: one copy of the layer's tensors, as the kernels take them."""

    name = None
    quantised_bits = None  # None: bf16

    def __init__(self, shape, weights, vllm):
        self.shape, self.vllm, self.group = shape, vllm, group_of(shape)
        self.codes = None
        if self.quantised_bits:
            self.codes = [quantise(weight, self.quantised_bits, self.group_for(weight)) for weight in weights]
        self.weights = self.pack(weights)
        if self.codes is None:
            self.reference = weights

    def group_for(self, _weight):
        return self.group

    def pack(self, weights):
        return weights

    def expert(self, index):
        """The expert's matrices in float32, as stored."""
        if self.codes:
            return [dequantised(codes[index], scales[index], self.quantised_bits) for codes, scales in self.codes]
        return [weight[index].float() for weight in self.reference]

    def expert_bytes(self):
        return sum(tensor.numel() * tensor.element_size() for tensor in self.weights) // self.shape.experts

    def configs(self, _tokens, _top_k):
        return [None]

    def route(self, plan, config):
        """What the launches need to know of the plan: timed apart from them."""
        raise NotImplementedError

    def launcher(self, plan, config, route):
        """A function of one copy's weights, the inputs [tokens, hidden] and outputs, and the tensors between."""
        raise NotImplementedError


def buffers(plan, *columns):
    return [torch.empty(plan.slots, width, dtype=DTYPE, device=plan.ids.device) for width in columns]


class VllmTriton(Peer):
    """fused_moe_kernel: bf16."""

    name = "vllm-triton-bf16"
    flags = {"use_int8_w8a16": False, "use_int4_w4a16": False}

    def configs(self, tokens, top_k):
        """vLLM's choice first, then what else may win: its choices for near token counts, and a small grid."""
        shape = self.shape
        tuned, _ = self.vllm.tuned(shape)
        near = sorted(tuned, key=lambda count: abs(count - tokens))[:1 if self.quantised_bits else 3]
        default = self.vllm.module.get_default_config(tokens, shape.experts, shape.intermediate, shape.hidden, top_k,
                                                      None)
        configs = [tuned[count] for count in near] + [default]
        rows = tokens * top_k / shape.experts  # of an expert
        if rows <= 24:
            grid = [(16, 64, 128, 1, 4, 4), (16, 128, 128, 1, 4, 3), (16, 64, 256, 1, 4, 3), (16, 32, 256, 1, 4, 4)]
        elif rows <= 96:
            grid = [(32, 128, 128, 1, 4, 3), (64, 128, 64, 1, 4, 4), (64, 128, 128, 1, 8, 3)]
        else:
            grid = [(128, 256, 64, 16, 8, 4), (128, 256, 64, 1, 8, 3), (128, 128, 64, 16, 8, 4),
                    (64, 256, 64, 16, 8, 4)]
        configs += [dict(zip(CONFIG_KEYS, values)) for values in grid]
        configs = [{key: value for key, value in config.items() if key != "SPLIT_K"} for config in configs]
        return [config for at, config in enumerate(configs) if config not in configs[:at]]

    def block_shape(self):
        return None

    def route(self, plan, config):
        return self.vllm.module._prepare_expert_assignment(
            plan.ids, config, plan.tokens, plan.top_k, self.shape.experts, None, block_shape=self.block_shape(),
            **self.flags)

    def launcher(self, plan, config, route):
        shape, top_k = self.shape, plan.top_k
        gate_up, activated, down = buffers(plan, 2 * shape.intermediate, shape.intermediate, shape.hidden)

        def launch(weights, x, out):
            self.product(x, weights[0::2], gate_up, None, route, top_k, top_k, config)
            silu_and_mul(gate_up, activated)
            self.product(activated, weights[1::2], down, plan.weights, route, 1, top_k, config)
            sum_slots(down, out, top_k)

        return launch, [gate_up, activated, down]

    def product(self, a, weight, c, topk_weights, route, rows_per_input, top_k, config):
        self.vllm.module.invoke_fused_moe_triton_kernel(
            a, weight[0], c.view(-1, top_k, c.shape[1]), None, weight[1] if len(weight) > 1 else None, topk_weights,
            *route, topk_weights is not None, rows_per_input, config, compute_type=COMPUTE_TYPE, use_fp8_w8a8=False,
            use_int8_w8a8=False, per_channel_quant=False, block_shape=self.block_shape(), **self.flags)


class VllmTritonInt8(VllmTriton):
    """fused_moe_kernel: int8 weights, a scale a row."""

    name = "vllm-triton-int8"
    quantised_bits = 8
    flags = {"use_int8_w8a16": True, "use_int4_w4a16": False}

    def group_for(self, weight):
        return weight.shape[2]

    def pack(self, weights):
        signed = [(codes ^ 0x80).view(torch.int8) for codes, _ in self.codes]
        return signed + [scales[..., 0].contiguous() for _, scales in self.codes]


class VllmTritonInt4(VllmTriton):
    """fused_moe_kernel_gptq_awq: int4 weights, a scale a group."""

    name = "vllm-triton-int4"
    quantised_bits = 4
    flags = {"use_int8_w8a16": False, "use_int4_w4a16": True}

    def pack(self, weights):
        packed = [codes[..., 0::2] | codes[..., 1::2] << 4 for codes, _ in self.codes]
        return packed + [scales for _, scales in self.codes]

    def block_shape(self):
        return [0, self.group]

    def configs(self, tokens, top_k):
        shape = self.shape
        choice = self.vllm.module.get_default_config(tokens, shape.experts, shape.intermediate, shape.hidden, top_k,
                                                     "int4_w4a16", self.block_shape())
        if tokens * top_k / shape.experts <= 24:
            grid = [(16, 64, 64, 1, 4, 4), (16, 32, 128, 1, 4, 4), (16, 128, 64, 1, 4, 3)]
        else:
            grid = [(64, 64, 64, 1, 4, 3), (64, 128, 64, 1, 8, 3), (128, 128, 64, 1, 8, 3)]
        configs = [choice] + [dict(zip(CONFIG_KEYS, values), SPLIT_K=1) for values in grid]
        # The kernel doesn't mask the weights' columns.
        return [config for config in configs
                if all(width % config.get("BLOCK_SIZE_K", 32) == 0 for width in (shape.hidden, shape.intermediate))]

    def product(self, a, weight, c, topk_weights, route, rows_per_input, top_k, config):
        self.vllm.module.invoke_fused_moe_wna16_triton_kernel(
            a, weight[0], c.view(-1, top_k, c.shape[1]), weight[1], None, topk_weights, *route,
            topk_weights is not None, rows_per_input, config, COMPUTE_TYPE, block_shape=self.block_shape(),
            **self.flags)


class VllmMarlin(Peer):
    """moe_wna16_marlin_gemm, which vLLM itself takes for int4 and int8 on this GPU: a scale a group."""

    def route(self, plan, config):
        return self.vllm.align(plan.ids, config["block_size_m"], self.shape.experts)

    def configs(self, tokens, top_k):
        """vLLM's choice (fused_marlin_moe)."""
        for block in (8, 16, 32, 48, 64):
            if tokens * top_k / self.shape.experts / block < 0.9:
                break
        return [{"block_size_m": block}]

    def pack(self, weights):
        packed = [torch.stack([self.tiles(matrix.T) for matrix in codes]) for codes, _ in self.codes]
        order = torch.arange(64).view(8, 8).T.flatten()  # of 64 columns' scales
        for _, scales in self.codes:
            by_group = scales.transpose(1, 2)
            packed.append(by_group.reshape(-1, 64)[:, order].reshape(by_group.shape).contiguous())
        return packed

    def tiles(self, codes):
        """codes [inputs, outputs] in Marlin's order (vLLM's marlin_utils_test.py): tiles of 16 by 64, as the fragments
        of mma are, in int32 words."""
        rows, columns = codes.shape
        lane = torch.arange(32, device=codes.device)
        at = []
        for tile in range(4):
            for block in range(2):
                for row in (0, 1, 8, 9):
                    at.append(16 * (2 * (lane % 4) + row) + lane // 4 + 8 * block + 256 * tile)
        interleave = [0, 2, 4, 6, 1, 3, 5, 7] if self.quantised_bits == 4 else [0, 2, 1, 3]
        order = torch.stack(at, 1).view(-1, len(interleave))[:, interleave].flatten()
        tiled = codes.reshape(rows // 16, 16, columns // 16, 16).transpose(1, 2).reshape(-1, 1024)[:, order]
        words = tiled.reshape(rows // 16, -1, len(interleave)).int()
        packed = torch.zeros(words.shape[:2], dtype=torch.int32, device=codes.device)
        for at_word in range(len(interleave)):
            packed |= words[..., at_word] << (self.quantised_bits * at_word)
        return packed

    def launcher(self, plan, config, route):
        shape = self.shape
        gate_up, activated, down = buffers(plan, 2 * shape.intermediate, shape.intermediate, shape.hidden)
        sms = torch.cuda.get_device_properties(0).multi_processor_count
        workspace = torch.zeros(4 * sms, dtype=torch.int32, device=plan.ids.device)
        half = 1 << (self.quantised_bits - 1)
        kind = self.quantised_bits << 8 | half << 17 | 1 << 50  # vLLM's ScalarType::id: mantissa bits, bias, IEEE NaN

        def product(a, weight, c, weighted, rows_per_input, rows):
            torch.ops._moe_C.moe_wna16_marlin_gemm(
                a, c, weight[0], None, weight[1], None, None, None, None, None, workspace, *route, plan.weights,
                config["block_size_m"], rows_per_input, weighted, kind, rows, c.shape[1], a.shape[1], True, False,
                True, False, -1, -1, -1)

        def launch(weights, x, out):
            product(x, weights[0::2], gate_up, False, plan.top_k, plan.tokens)
            silu_and_mul(gate_up, activated)
            product(activated, weights[1::2], down, True, 1, plan.slots)
            sum_slots(down, out, plan.top_k)

        return launch, [gate_up, activated, down]


class VllmMarlinInt4(VllmMarlin):
    name = "vllm-marlin-int4"
    quantised_bits = 4


class VllmMarlinInt8(VllmMarlin):
    name = "vllm-marlin-int8"
    quantised_bits = 8


class TorchGrouped(Peer):
    """torch's grouped_mm (CUTLASS): bf16. The weighted sum is our kernel, faster than index_add."""

    name = "torch-grouped-bf16"

    def route(self, plan, _config):
        order = plan.ids.flatten().sort(stable=True)[1]
        slots = torch.empty_like(order).scatter_(0, order, torch.arange(plan.slots, device=order.device))
        counts = torch.zeros(self.shape.experts, dtype=torch.int32, device=order.device)
        flat = plan.ids.flatten()
        counts.scatter_add_(0, flat.long(), torch.ones_like(flat))
        return order // plan.top_k, slots, counts.cumsum(0, dtype=torch.int32)

    def launcher(self, plan, _config, route):
        shape = self.shape
        token, slots, ends = route
        activated, = buffers(plan, shape.intermediate)
        grouped_mm = getattr(torch.nn.functional, "grouped_mm", None) or torch._grouped_mm

        def launch(weights, x, out):
            gate_up = grouped_mm(x[token], weights[0].transpose(1, 2), offs=ends)
            silu_and_mul(gate_up, activated)
            down = grouped_mm(activated, weights[1].transpose(1, 2), offs=ends)
            sum_slots(down, out, plan.top_k, slots, plan.weights)

        return launch, [activated]


def peers(vllm):
    return ([VllmTriton, TorchGrouped] + [VllmMarlinInt8] * vllm.native + [VllmTritonInt8] +
            [VllmMarlinInt4] * vllm.native + [VllmTritonInt4])
