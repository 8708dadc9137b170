"""Routing and packing in Triton against numpy: top-k, prices and layouts bit for bit, gates to 2e-6."""

import numpy as np
import pytest
import torch
from thermoe import triton as tt
from thermoe.triton.kernels import specialisations
from triton_experts import host_pack

GRID = 2.0**32  # steps of a unit of utility, src/routing/grid.h


def on_grid(value):
    return np.rint(value * GRID) / GRID


def softmax_scores(random, tokens, experts, levels=None):
    logits = random.normal(0, 1.5, (tokens, experts)) + 0.75 * random.normal(0, 1, experts)
    scores = np.exp(logits)
    scores = (scores / scores.sum(1, keepdims=True)).astype(np.float32)
    if levels:  # few different values: ties
        scores = np.round(scores * levels).astype(np.float32) / np.float32(levels)
        scores[:, 0] += np.float32(1 / levels)
    return scores


def top_k(scores, k):
    """Ids of one token by falling score, ties by lower id."""
    return np.argsort(-scores, kind="stable")[:k]


def mass_of(scores, ids):
    mass = np.float32(0)
    for e in ids:
        mass = np.float32(mass + scores[e])
    return mass


class Instances:
    """Each expert in one to three instances with errors (include/thermoe/expert_layout.h), or once."""

    def __init__(self, random, experts, laid_out):
        counts = random.integers(1, 4, experts) if laid_out else np.ones(experts, int)
        self.first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        self.expert = np.repeat(np.arange(experts, dtype=np.int32), counts)
        self.count = len(self.expert)
        error = random.choice([0, 0.002, 0.05], self.count) * random.uniform(0.5, 1.5, self.count) * laid_out
        kept = np.maximum(1 / 1024, 1 - error)
        self.best = np.array([kept[a:b].max() for a, b in zip(self.first[:-1], self.first[1:])])
        self.kept = kept / self.best[self.expert]
        self.even = bool((self.best == self.best[0]).all())
        tensors = [torch.from_numpy(a) for a in (self.first, self.expert, self.best, self.kept)]
        self.layout = tt.Layout(*tensors, self.even) if laid_out else None


def best_at_prices(scores, k, instances, price, power, scale):
    """Instances that one token takes: src/routing/utility.cpp and the priced choice, in float64 on the grid."""
    own = top_k(scores, k)
    x = scores.astype(np.float64) * ((1.0 if power == 1 else float(k)) / np.float64(mass_of(scores, own)))
    worth = {1.0: x, 1.5: x * np.sqrt(x) / k, 2.0: x * x / k}[power]
    if scale is not None:
        worth = worth * scale.astype(np.float64)
    worth = on_grid(np.minimum(worth, 2.0**18) * instances.best)
    if scale is not None or not instances.even:
        least = worth[own].min()
        low = least * (1.0 - 0.01)
        for e in set(range(len(scores))) - set(own.tolist()):
            if worth[e] > low:
                worth[e] = on_grid(low + least * 0.01 * worth[e] / (worth[e] + 2.0 * least))
    value = worth[instances.expert]
    if instances.layout is not None:
        value = on_grid(value * instances.kept)
    value = value - price
    chosen = []
    order = sorted(range(instances.count), key=lambda i: (-value[i], -scores[instances.expert[i]], i))
    taken = set()
    for i in order:
        if instances.expert[i] not in taken and len(chosen) < k:
            chosen.append(i)
            taken.add(instances.expert[i])
    return sorted(chosen, key=lambda i: (-scores[instances.expert[i]], i)), own


def expect_plan(plan, scores, k, chosen, instances, renormalize):
    """The plan is what the reference chose: ids, instances, weights, changed, packed order and report."""
    used = np.array([c for c, _ in chosen], np.int32)
    ids = instances.expert[used]
    np.testing.assert_array_equal(plan.instances.numpy(), used)
    np.testing.assert_array_equal(plan.ids.numpy(), ids)
    changed = [set(ids[t]) != set(own) for t, (_, own) in enumerate(chosen)]
    np.testing.assert_array_equal(plan.changed.numpy(), np.array(changed, np.uint8))
    for t, (_, own) in enumerate(chosen):
        divisor = mass_of(scores[t], own) if renormalize else np.float32(1)
        np.testing.assert_array_equal(plan.weights[t].numpy(), scores[t][ids[t]] / divisor)
    offsets, packed = host_pack(used, instances.count)
    np.testing.assert_array_equal(plan.offsets.numpy(), offsets)
    np.testing.assert_array_equal(plan.packed.numpy()[: len(packed)], packed)
    distinct = [-1, -1, sum(changed), len(np.unique(ids)), len(np.unique(used))]
    assert plan.report.tolist() == distinct + [0] * 7


@pytest.mark.parametrize("experts, k", [(1, 1), (3, 2), (8, 8), (60, 4), (128, 8), (150, 7), (512, 16)])
def test_top_k(experts, k):
    random = np.random.default_rng(experts + k)
    instances = Instances(random, experts, False)
    renormalize = experts != 60
    scores = np.concatenate([softmax_scores(random, 2, experts), softmax_scores(random, 3, experts, 6)])
    plan = tt.route(torch.from_numpy(scores), k, renormalize=renormalize)
    chosen = [(top_k(row, k), top_k(row, k)) for row in scores]
    expect_plan(plan, scores, k, chosen, instances, renormalize)


def test_top_k_of_a_layout_takes_first_instances():
    random = np.random.default_rng(4)
    scores = softmax_scores(random, 6, 20, 5)
    instances = Instances(random, 20, True)
    plan = tt.route(torch.from_numpy(scores), 3, layout=instances.layout)
    expect_plan(plan, scores, 3, [(instances.first[top_k(r, 3)], top_k(r, 3)) for r in scores], instances, True)


@pytest.mark.parametrize("case", range(20))
def test_priced(case):
    random = np.random.default_rng(case)
    experts = int(random.choice([3, 9, 20, 40, 65]) if case else 130)
    k = int(random.integers(1, min(experts, 8) + 1))
    laid_out = case % 2 == 1
    instances = Instances(random, experts, laid_out)
    scores = softmax_scores(random, 3, experts, 8 if case % 3 == 0 else None)
    power = (1.0, 1.5, 2.0)[case % 3]
    scale = random.uniform(0.5, 2, experts).astype(np.float32) if case % 4 == 3 else None
    slope = (random.uniform(0, 0.3, instances.count) * random.integers(0, 2, instances.count)).astype(np.float32)
    marginal = random.uniform(0, 0.05, instances.count).astype(np.float32) if case % 5 == 0 else None
    price = np.floor(slope.astype(np.float64) * GRID) / GRID
    if marginal is not None:
        price = price + np.floor(marginal.astype(np.float64) * GRID) / GRID
    plan = tt.route(
        torch.from_numpy(scores), k, layout=instances.layout, priced=True, slope=torch.from_numpy(slope),
        marginal=None if marginal is None else torch.from_numpy(marginal), utility_power=power,
        utility_scale=None if scale is None else torch.from_numpy(scale), renormalize=case % 7 != 0,
    )  # fmt: skip
    chosen = [best_at_prices(row, k, instances, price, power, scale) for row in scores]
    expect_plan(plan, scores, k, chosen, instances, case % 7 != 0)


def test_outsiders_stay_just_below_the_own_top_k():
    """A scale makes expert 1 worth 6.7 where the token's own is worth 1: it is capped to 0.9977."""
    scores, scale = np.array([[0.6, 0.4]], np.float32), np.array([1, 10], np.float32)
    instances = Instances(np.random.default_rng(1), 2, False)
    for slope, want in ((0.002, 0), (0.0025, 1), (0.005, 1)):
        prices = np.array([slope, 0], np.float32)
        plan = tt.route(torch.from_numpy(scores), 1, priced=True, slope=torch.from_numpy(prices), utility_power=1.0,
                        utility_scale=torch.from_numpy(scale))  # fmt: skip
        assert plan.ids.tolist() == [[want]]
        price = np.floor(prices.astype(np.float64) * GRID) / GRID
        chosen = [best_at_prices(scores[0], 1, instances, price, 1.0, scale)]
        expect_plan(plan, scores, 1, chosen, instances, True)


@pytest.mark.parametrize(
    "gate, biased, half",
    [("softmax", False, False), ("softmax", True, True), ("sigmoid", True, False), ("sigmoid", False, True)],
)
def test_gates(gate, biased, half):
    tolerance = 2e-6
    random = np.random.default_rng(11)
    for experts, priced in ((8, False), (60, True), (35, False)):
        logits = torch.from_numpy(random.normal(0, 1.5, (4, experts + 3)).astype(np.float32))
        logits = (logits.bfloat16() if half else logits)[:, :experts]  # rows stand apart
        values = logits.double().numpy()
        if gate == "softmax":
            values = np.exp(values - values.max(1, keepdims=True))
            values /= values.sum(1, keepdims=True)
        else:
            values = 1 / (1 + np.exp(-values))
        bias = (biased * 0.05 * ((np.arange(experts) * 7) % 13 - 6)).astype(np.float32)
        k, renormalize = min(experts, 6), experts != 60
        plan = tt.route(logits, k, gate=gate, bias=torch.from_numpy(bias) if biased else None, renormalize=renormalize,
                        priced=priced)  # fmt: skip
        assert plan.report.tolist()[:3] == [-1, -1, 0]
        for t in range(4):
            ids = plan.ids[t].numpy()
            selection = values[t] + bias
            assert len(set(ids)) == k
            assert (selection[ids] >= np.sort(selection)[-k] - tolerance).all()
            assert (np.diff(values[t][ids]) <= tolerance).all()
            share = values[t][ids] / (values[t][ids].sum() if renormalize else 1)
            np.testing.assert_allclose(plan.weights[t].numpy(), share, atol=tolerance, rtol=0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("priced", [False, True])
def test_bad_logits_are_named(value, priced):
    logits = np.random.default_rng(1).normal(0, 1, (5, 40)).astype(np.float32)
    logits[3, 27] = logits[3, 39] = logits[4, 5] = value
    logits[2, 3] = -np.inf  # a score of zero
    plan = tt.route(torch.from_numpy(logits), 8, gate="softmax", priced=priced, check=False)
    assert plan.report.tolist()[:2] == [3, 27]
    assert plan.offsets[-1] == 5 * 8
    with pytest.raises(ValueError, match="token 3, expert 27"):
        tt.check_report(plan)


def test_bad_scores_are_named():
    scores = softmax_scores(np.random.default_rng(1), 5, 30)
    scores[3, 4] = -0.25
    with pytest.raises(ValueError, match="token 3, expert 4"):
        tt.route(torch.from_numpy(scores), 2)
    scores[1] = 0
    with np.errstate(invalid="ignore"), pytest.raises(ValueError, match="all scores of token 1 are zero"):
        tt.route(torch.from_numpy(scores), 2)
    minus_infinite = torch.full((1, 4), -torch.inf)
    with np.errstate(invalid="ignore"), pytest.raises(ValueError, match="all scores of token 0 are zero"):
        tt.route(minus_infinite, 2, gate="softmax")


@pytest.mark.parametrize("count", [1, 3, 40])
@pytest.mark.parametrize("pairs", [1, 33, 2500])
def test_packing(count, pairs):
    random = np.random.default_rng(pairs)
    instances = random.integers(-1, count, (pairs, 1)).astype(np.int32)
    offsets, packed = tt.pack_plan(torch.from_numpy(instances), count)
    want_offsets, want_packed = host_pack(instances, count)
    np.testing.assert_array_equal(offsets.numpy(), want_offsets)
    np.testing.assert_array_equal(packed.numpy()[: len(want_packed)], want_packed)


def test_bounds_cover_the_limits():
    assert [specialisations.route_bound(n, False) for n in (1, 128, 129, 512)] == [128, 128, 512, 512]
    assert [specialisations.route_bound(n, True) for n in (128, 129, 1024)] == [128, 1024, 1024]


def test_refuses_what_does_not_fit():
    scores = torch.rand(3, 8)
    for message, arguments in {
        "k is 9": {"k": 9},
        "k is 0": {"k": 0},
        'gate is "relu"': {"gate": "relu"},
        "utility_power is 3": {"utility_power": 3.0},
        "prices are read": {"slope": torch.zeros(8)},
        "slope has shape": {"slope": torch.zeros(7), "priced": True},
        "bias is torch.float64": {"bias": torch.zeros(8, dtype=torch.float64)},
        "scores is torch.float16": {"scores": scores.half()},
        "contiguous rows": {"scores": scores.t()},
        "number of experts": {"scores": torch.rand(2, 513)},
    }.items():
        with pytest.raises(ValueError, match=message):
            tt.route(**{"scores": scores, "k": 2, **arguments})
    with pytest.raises(ValueError, match="number of instances is 1025"):
        tt.pack_plan(torch.zeros((2, 2), dtype=torch.int32), 1025)
