"""The grouped experts against float64 over forms, shapes and loads; what packs bf16 weights; what is refused."""

import dataclasses

import numpy as np
import pytest
import torch
from thermoe import triton as tt
from triton_experts import Case, cycle, random_expert, random_plan, read_blocks, reference, relative_error, split_sides

TOLERANCE = 4e-3  # as tests/kernels/cuda/decode_experts_test.cpp
FORMS = ("bf16", "int8", "int4")

CASES = [
    *(Case(f"OneToken-{form}", 1, 1, 64, 32, (form,)) for form in FORMS),
    *(Case(f"Few-{form}", 7, 2, 224, 96, cycle(7, form)) for form in FORMS),
    *(Case(f"Wide-{form}", 3, 2, 96, 288, cycle(2, form), block_m=64) for form in FORMS),
    Case("Mixed", 6, 4, 160, 160, cycle(5, "int8", "int4", "bf16"), holes=True),
    Case("ManyTokensOnOneExpert", 50, 2, 64, 64, cycle(5, "bf16", "int4"), hot=50, block_m=16),
    Case("ManyTokensOnOneExpert64", 100, 2, 96, 64, cycle(5, "int8", "bf16"), hot=100, block_m=64),
    Case("ManyTokensOnOneExpert128", 150, 1, 64, 64, cycle(3, "bf16", "int4"), hot=150, block_m=128),
    Case("AllInOneAndNoneInOthers", 40, 1, 64, 32, cycle(9, "bf16"), hot=40),
    Case("ManyInstances", 2, 8, 32, 32, cycle(300, "int4", "bf16", "int8")),
    Case("MostInstances", 2, 3, 32, 32, cycle(1024, "bf16")),
    *(Case(f"Slots{k}", 3, k, 32, 64, cycle(9, "bf16"), holes=k > 3) for k in (3, 5, 6, 7)),
]


@pytest.fixture(autouse=True)
def poison():
    """Whatever torch.empty() gives is NaN, or the largest integer."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


def make(case, seed=17):
    """(table, x as float64, x in fragment order, plan, dense weights)."""
    random = np.random.default_rng(seed)
    experts, dense = zip(*(random_expert(random, form, case.hidden, case.inter) for form in case.forms))
    x = torch.from_numpy(random.normal(0, 1, (case.tokens, case.hidden))).bfloat16()
    table = tt.expert_table(list(experts), case.hidden, case.inter)
    return table, x.double().numpy(), tt.to_fragment_order(x), random_plan(random, case), dense


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_agrees_with_float64(case):
    table, x, fragments, plan, dense = make(case)
    out = tt.grouped_experts(table, fragments, plan, block_m=case.block_m)
    assert relative_error(out, reference(x, plan, dense)) < TOLERANCE


def test_block_sizes_agree():
    """Tiles share nothing: with any block size a pair's sums are the same but for their grouping."""
    table, x, fragments, plan, dense = make(Case("Blocks", 20, 2, 64, 64, cycle(2, "bf16", "int8")))
    want = reference(x, plan, dense)
    for block_m in (16, 64, 128):
        assert relative_error(tt.grouped_experts(table, fragments, plan, block_m=block_m), want) < TOLERANCE


def test_a_token_without_experts_is_zero():
    case = Case("None", 3, 2, 32, 32, cycle(2, "bf16"))
    table, x, fragments, plan, dense = make(case)
    plan.instances[1] = -1
    offsets, packed = tt.pack_plan(plan.instances, 2)
    plan = dataclasses.replace(plan, offsets=offsets, packed=packed)
    out = tt.grouped_experts(table, fragments, plan)
    assert (out[1] == 0).all()
    assert relative_error(out, reference(x, plan, dense)) < TOLERANCE


def test_repeats_bit_for_bit():
    table, _, fragments, plan, _ = make(Case("Again", 9, 2, 64, 64, cycle(4, "int4", "bf16")))
    first = tt.grouped_experts(table, fragments, plan)
    assert torch.equal(first, tt.grouped_experts(table, fragments, plan))


def test_packed_bf16_weights_are_read_back():
    random = np.random.default_rng(3)
    for hidden, inter in ((32, 32), (96, 64), (64, 160)):
        expert, (gate, up, down) = random_expert(random, "bf16", hidden, inter)
        packed_gate, packed_up = split_sides(read_blocks(expert.gate_up, 2 * inter, hidden))
        np.testing.assert_array_equal(packed_gate, gate)
        np.testing.assert_array_equal(packed_up, up)
        np.testing.assert_array_equal(read_blocks(expert.down, hidden, inter), down)


def test_fragment_order():
    x = torch.arange(64).reshape(1, 64)
    pairs = [16 * tile + 8 * half + 2 * t for t in range(4) for tile in range(2) for half in range(2)]
    order = [column + odd for column in pairs for odd in range(2)]
    assert tt.to_fragment_order(x)[0].tolist() == order + [32 + c for c in order]


def test_block_size_follows_the_load():
    assert [tt.choose_block_m(pairs, 128) for pairs in (8, 2048, 8192, 32768)] == [16, 16, 64, 128]


def test_refuses_what_does_not_fit():
    case = Case("Refused", 4, 2, 64, 32, cycle(3, "bf16"))
    table, _, fragments, plan, _ = make(case)

    def refused(message, x=fragments, with_plan=plan, **options):
        with pytest.raises(ValueError, match=message):
            tt.grouped_experts(table, x, with_plan, **options)

    refused("x has shape", x=fragments[:, :32].contiguous())
    refused("x is torch.float32", x=fragments.float())
    refused("contiguous", x=fragments.t().contiguous().t())
    refused("plan.instances has shape", x=fragments[:2])
    refused("plan.offsets has shape", with_plan=dataclasses.replace(plan, offsets=plan.offsets[:2]))
    refused("plan.weights is torch.float64", with_plan=dataclasses.replace(plan, weights=plan.weights.double()))
    refused("block_m is 32", block_m=32)
    refused("out is torch.float32", out=torch.empty(4, 64))
    with pytest.raises(ValueError, match="hidden is 48"):
        tt.expert_table(list(table.experts), 48, 32)
    with pytest.raises(ValueError, match="gate_up.data has shape"):
        tt.expert_table(list(table.experts), 96, 32)
    with pytest.raises(ValueError, match="inter is 16"):
        tt.bf16_expert(*(torch.zeros(s, dtype=torch.bfloat16) for s in ((16, 32), (16, 32), (32, 16))))
    with pytest.raises(ValueError, match='form is "int3"'):
        tt.nested_expert("int3", table.experts[0].gate_up, table.experts[0].down)
