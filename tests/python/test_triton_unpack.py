"""Unpacking nested planes to bf16 against an independent reader of the planes, bit for bit."""

import numpy as np
import pytest
import torch
from thermoe import triton as tt
from triton_experts import (
    Case,
    cycle,
    random_expert,
    random_plan,
    read_blocks,
    read_planes,
    reference,
    relative_error,
)


def rounded(weight, both):
    """The values in f32 as the CUDA kernel has them, rounded to bf16, as float64."""
    whole, scales = read_planes(weight, both)
    values = whole * (scales * np.float32(weight.base))
    assert values.dtype == np.float32
    return torch.from_numpy(values).bfloat16().double().numpy()


@pytest.mark.parametrize("hidden, inter", [(32, 32), (96, 160), (288, 64)])
def test_values_are_the_planes(hidden, inter):
    random = np.random.default_rng(hidden)
    forms = ("int8", "bf16", "int4", "int4")
    experts = [random_expert(random, form, hidden, inter)[0] for form in forms]
    table = tt.expert_table(experts, hidden, inter)
    unpacked = tt.dequantize_and_unpack(table, torch.tensor([0, 2, 3, 4, 4], dtype=torch.int32))
    assert unpacked.forms == {"bf16"}
    for i in (0, 2):
        for have, want, shape in (
            (unpacked.experts[i].gate_up, experts[i].gate_up, (2 * inter, hidden)),
            (unpacked.experts[i].down, experts[i].down, (hidden, inter)),
        ):
            np.testing.assert_array_equal(read_blocks(have, *shape), rounded(want, forms[i] == "int8"))
    # The entries are what a table of the results has; one of bf16 is copied, one without tokens points to its room.
    again = tt.expert_table(list(unpacked.experts), hidden, inter)
    assert torch.equal(unpacked.words, again.words)
    assert torch.equal(unpacked.words[1], table.words[1])


def test_an_instance_without_tokens_is_not_written():
    random = np.random.default_rng(1)
    experts = [random_expert(random, "int4", 32, 32)[0] for _ in range(2)]
    torch.use_deterministic_algorithms(True)  # with which torch.empty() fills uint8 with 255
    try:
        table = tt.expert_table(experts, 32, 32)
        unpacked = tt.dequantize_and_unpack(table, torch.tensor([0, 0, 1], dtype=torch.int32))
    finally:
        torch.use_deterministic_algorithms(False)
    for weight in (unpacked.experts[0].gate_up, unpacked.experts[0].down):
        assert (weight.data == 255).all() and (weight.lo == 255).all()
    assert not (unpacked.experts[1].down.lo == 255).all()


def test_experts_run_on_what_was_unpacked():
    case = Case("Unpacked", 9, 2, 96, 64, cycle(3, "int8", "int4", "bf16"))
    random = np.random.default_rng(5)
    experts, dense = zip(*(random_expert(random, form, case.hidden, case.inter) for form in case.forms))
    x = torch.from_numpy(random.normal(0, 1, (case.tokens, case.hidden))).bfloat16()
    plan = random_plan(random, case)
    table = tt.dequantize_and_unpack(tt.expert_table(list(experts), case.hidden, case.inter), plan.offsets)
    out = tt.grouped_experts(table, tt.to_fragment_order(x), plan)
    assert relative_error(out, reference(x.double().numpy(), plan, dense)) < 4e-3


def test_refuses_other_offsets():
    table = tt.expert_table([random_expert(np.random.default_rng(1), "int4", 32, 32)[0]], 32, 32)
    with pytest.raises(ValueError, match="offsets has shape"):
        tt.dequantize_and_unpack(table, torch.zeros(3, dtype=torch.int32))
