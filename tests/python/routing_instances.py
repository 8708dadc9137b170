"""Random and adversarial instances of the routing program, by family.

FAMILIES maps a name to a function of a numpy generator that returns an instance as
routing_solve_tool reads it. Sizes are such that HiGHS needs milliseconds.
"""

import numpy as np
from routing_reference import BEST_QUALITY, LEAST_COST, Program, evaluate


def single(values):
    """As nested lists of numbers that are float32 already: both sides then read the same."""
    return np.asarray(values, np.float32).astype(float).tolist()


def shape(rng, pairs=90, most_k=4):
    """(T, E, k) with T * E up to about `pairs`."""
    experts = int(rng.integers(2, 13))
    tokens = int(rng.integers(1, max(2, pairs // experts + 1)))
    return tokens, experts, int(rng.integers(1, min(most_k, experts) + 1))


def softmax_scores(rng, tokens, experts, spread=None, popularity=None):
    spread = rng.uniform(0.2, 2.5) if spread is None else spread
    popularity = rng.uniform(0.0, 1.5) if popularity is None else popularity
    logits = spread * rng.normal(size=(tokens, experts)) + popularity * rng.normal(size=experts)
    logits -= logits.max(1, keepdims=True)
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def some_prices(rng, count, tokens):
    """Prices from far too low to matter to high enough to close most experts."""
    scale = np.exp(rng.uniform(-5.0, 1.0)) * min(1.0, tokens / 4)
    if rng.random() < 0.4:
        return np.full(count, scale)
    return scale * rng.uniform(0.0, 2.0, count)


def plain(rng, scores, k, **more):
    tokens, experts = scores.shape
    prices = {"open": single(some_prices(rng, experts, tokens))}
    if rng.random() < 0.4:
        prices["slope"] = single(0.2 * some_prices(rng, experts, 1) / k)
    return {"scores": single(scores), "k": k, "prices": prices, **more}


def make_random(rng):
    tokens, experts, k = shape(rng)
    return plain(rng, softmax_scores(rng, tokens, experts), k)


def make_larger(rng):
    experts, tokens = int(rng.choice([16, 24, 32, 64])), int(rng.choice([8, 16, 24]))
    k = int(rng.choice([2, 4, 8]))
    return plain(rng, softmax_scores(rng, tokens, experts, 1.2, 0.7), k)


def make_ties(rng):
    tokens, experts, k = shape(rng)
    scores = rng.integers(1, int(rng.integers(2, 5)), (tokens, experts)) / 8.0
    instance = plain(rng, scores, k)
    step = 1.0 / (8 * k)  # prices on the same lattice: closings that gain exactly nothing
    instance["prices"]["open"] = single(step * rng.integers(0, 2 * tokens + 1, experts))
    return instance


def make_equal(rng):
    tokens, experts, k = shape(rng)
    return plain(rng, np.full((tokens, experts), 1.0 / experts), k)


def make_zeros(rng):
    """Most scores zero; a token may have fewer positive ones than k."""
    tokens, experts, k = shape(rng)
    scores = softmax_scores(rng, tokens, experts) * (rng.random((tokens, experts)) < 0.3)
    scores[np.arange(tokens), rng.integers(0, experts, tokens)] = 0.5
    return plain(rng, scores, k)


def make_popular(rng):
    tokens, experts, k = shape(rng)
    scores = softmax_scores(rng, tokens, experts, 1.0, 0.0)
    scores[:, : int(rng.integers(1, experts + 1))] *= 20.0
    return plain(rng, scores / scores.sum(1, keepdims=True), k)


def make_duplicates(rng):
    tokens, experts, k = shape(rng)
    scores = softmax_scores(rng, tokens, experts)
    return plain(rng, scores[rng.integers(0, max(1, tokens // 3), tokens)], k)


def make_extreme_prices(rng):
    tokens, experts, k = shape(rng)
    instance = plain(rng, softmax_scores(rng, tokens, experts), k)
    for key in list(instance["prices"]):
        factor = float(rng.choice([0.0, 1e-9, 1e-4, 1e3, 1e5]))
        instance["prices"][key] = single(factor * np.asarray(instance["prices"][key]))
    if rng.random() < 0.3:  # a single forbidding one
        instance["prices"]["open"][int(rng.integers(experts))] = 1e5
    return instance


def make_unscaled_scores(rng):
    """Scores that are no probabilities, however small or large."""
    tokens, experts, k = shape(rng)
    scores = softmax_scores(rng, tokens, experts) * 10.0 ** rng.uniform(-30, 30, (tokens, 1))
    return plain(rng, np.maximum(scores, 1e-37), k, renormalize=bool(rng.random() < 0.5))


def make_edge_shapes(rng):
    kind = rng.integers(4)
    experts = 1 if kind == 0 else int(rng.integers(2, 13))
    tokens = 1 if kind == 1 else int(rng.integers(1, 9))
    k = experts if kind == 2 else 1 if kind == 3 else int(rng.integers(1, experts + 1))
    return plain(rng, softmax_scores(rng, tokens, experts), k)


def closing_losses(scores, k):
    """What the users of each expert lose by moving on from plain top-k, when only it closes."""
    program = Program({"scores": scores, "k": k})
    union = np.zeros(program.experts, bool)
    union[program.top_k] = True
    losses = np.zeros(program.experts)
    for t, own in enumerate(program.top_k):
        others = union.copy()
        others[own] = False
        best = program.share[t, others].max() if others.any() else 0.0
        losses[own] += program.share[t, own] - best
    return losses


def make_break_even(rng):
    """Prices that just about close an expert: equal to what closing it costs, or a hair off."""
    tokens, experts, k = shape(rng)
    scores = single(softmax_scores(rng, tokens, experts))
    losses = closing_losses(scores, k)
    off = rng.choice([0.0, 1e-9, -1e-9, 1e-6, -1e-6, 1e-3, -1e-3], experts)
    return {"scores": scores, "k": k, "prices": {"open": single(losses * (1.0 + off))}}


def make_exchange(rng):
    """Every token has favourites of its own and a second choice that many share but that is in
    nobody's top-k: closing favourites pays only together with opening the shared one."""
    k, groups, per_group = int(rng.integers(1, 3)), int(rng.integers(2, 4)), int(rng.integers(2, 4))
    tokens, own = groups * per_group, k * groups * per_group
    scores = rng.uniform(0.0, 0.05, (tokens, own + groups))
    for t in range(tokens):
        scores[t, k * t : k * (t + 1)] = rng.uniform(0.9, 1.0, k)
        scores[t, own + t // per_group] = rng.uniform(0.6, 0.9)
    open_price = rng.uniform(0.05, 1.2) * np.ones(own + groups) / k
    open_price[own:] *= rng.uniform(0.5, 1.5)
    return {"scores": single(scores), "k": k, "prices": {"open": single(open_price)}}


def make_variable_k(rng):
    instance = make_random(rng)
    tokens, k = len(instance["scores"]), instance["k"]
    instance["min_k"] = int(rng.integers(1, k + 1))
    if rng.random() < 0.5:  # a token more costs about what an expert's share is worth
        instance["prices"]["slope"] = single(rng.uniform(0.0, 1.5 / k, len(instance["scores"][0])))
    if rng.random() < 0.3:
        instance["prices"]["open"] = single(np.full(len(instance["scores"][0]), 0.3 * tokens))
    return instance


def make_utilities(rng):
    instance = make_variable_k(rng) if rng.random() < 0.3 else make_random(rng)
    experts = len(instance["scores"][0])
    settings = {"power": single(rng.choice([0.5, 1.0, 1.5, 2.0, 3.0]))}
    if rng.random() < 0.6:
        settings["scale"] = [single(np.exp(rng.normal(0.0, 0.5, experts)))]
    return {**instance, "settings": settings}


def variants_layout(rng, experts):
    errors = [0.0, *np.sort(rng.uniform(0.0, 0.3, int(rng.integers(1, 3))))]
    instances = [[e, v, 0] for e in range(experts) for v in range(len(errors))]
    if rng.random() < 0.3:  # not every expert is kept in every precision
        instances = [i for i in instances if i[1] == 0 or rng.random() < 0.6]
    return {"experts": experts, "devices": 1, "errors": single(errors), "instances": instances}


def variant_prices(rng, layout, base):
    """Prices by expert, less for the lower precisions."""
    cheaper = np.asarray([1.0, 0.55, 0.3])
    return single([base[e] * cheaper[v] for e, v, _ in layout["instances"]])


def make_variants(rng):
    tokens, experts, k = shape(rng, pairs=50)
    layout = variants_layout(rng, experts)
    prices = {"open": variant_prices(rng, layout, some_prices(rng, experts, tokens))}
    if rng.random() < 0.5:
        prices["slope"] = variant_prices(rng, layout, 0.3 * some_prices(rng, experts, 1) / k)
    scores = softmax_scores(rng, tokens, experts)
    return {"scores": single(scores), "k": k, "layout": layout, "prices": prices}


def placed_layout(rng, experts, replicas):
    devices = int(rng.integers(2, 4))
    instances = []
    for e in range(experts):
        copies = 1 + int(rng.random() < replicas)
        # unbalanced: the first device is the likeliest
        weights = np.asarray([2.0] + [1.0] * (devices - 1))
        at = rng.choice(devices, min(copies, devices), replace=False, p=weights / weights.sum())
        instances += [[e, 0, int(g)] for g in sorted(at)]
    return {"experts": experts, "devices": devices, "errors": [0.0], "instances": instances}


def device_prices(rng, layout, tokens, k):
    count = len(layout["instances"])
    scale = np.exp(rng.uniform(-3.5, 0.5)) * min(1.0, tokens / 4)
    prices = {"device_open": single(scale * rng.uniform(0.5, 1.5, count))}
    if rng.random() < 0.6:
        prices["device_slope"] = single(scale * rng.uniform(0.0, 0.6, count) / k)
    if rng.random() < 0.5:
        prices["device_base"] = single(scale * rng.uniform(0.0, 3.0, layout["devices"]))
    if rng.random() < 0.4:
        prices["open"] = single(0.3 * some_prices(rng, count, tokens))
    return prices


def make_devices(rng):
    tokens, experts, k = shape(rng, pairs=60)
    layout = placed_layout(rng, experts, replicas=0.0)
    prices = device_prices(rng, layout, tokens, k)
    scores = softmax_scores(rng, tokens, experts)
    return {"scores": single(scores), "k": k, "layout": layout, "prices": prices}


def make_replicas(rng):
    tokens, experts, k = shape(rng, pairs=50)
    layout = placed_layout(rng, experts, replicas=rng.uniform(0.3, 1.0))
    prices = device_prices(rng, layout, tokens, k)
    scores = softmax_scores(rng, tokens, experts)
    return {"scores": single(scores), "k": k, "layout": layout, "prices": prices}


def make_joint_closing(rng):
    """Devices that are all equally slow: closing an expert on one alone gains nothing, as the others
    still decide; closing one on each pays."""
    devices, per_device, k = int(rng.integers(2, 4)), int(rng.integers(2, 4)), int(rng.integers(1, 3))
    experts = devices * per_device
    tokens = int(rng.integers(experts, 2 * experts))
    scores = rng.uniform(0.3, 0.6, (tokens, experts))
    for t in range(tokens):
        scores[t, t % experts] = rng.uniform(0.6, 0.9)
    layout = {
        "experts": experts,
        "devices": devices,
        "errors": [0.0],
        "instances": [[e, 0, e % devices] for e in range(experts)],
    }
    price = rng.uniform(0.2, 3.0) * np.ones(experts)
    return {"scores": single(scores), "k": k, "layout": layout, "prices": {"device_open": single(price)}}


def add_capacity(rng, instance):
    """From ample over just enough to too little."""
    tokens, experts = len(instance["scores"]), len(instance["scores"][0])
    layout = instance.setdefault(
        "layout",
        {
            "experts": experts,
            "devices": 1,
            "errors": [0.0],
            "instances": [[e, 0, 0] for e in range(experts)],
        },
    )
    count = len(layout["instances"])
    mean = tokens * instance["k"] / count
    kind = rng.integers(4)
    if kind == 0:
        capacity = np.full(count, int(np.ceil(mean * rng.choice([1.0, 1.25, 1.5]))))
    elif kind == 1:
        capacity = rng.integers(0, max(2, int(2.5 * mean) + 1), count)
    elif kind == 2:
        capacity = np.full(count, tokens)
        capacity[rng.integers(0, count, max(1, count // 3))] = rng.integers(0, 2)
    else:
        capacity = np.full(count, max(1, int(mean * rng.uniform(0.5, 1.0))))
    layout["capacity"] = [int(c) for c in capacity]
    return instance


def make_capacity(rng):
    instance = add_capacity(rng, make_random(rng))
    if rng.random() < 0.3:
        instance["prices"] = {}
    return instance


def with_goal(rng, instance):
    """A limit at either end or between: of utility as a share, of cost relative to top-k's."""
    if rng.random() < 0.5:
        limit = float(rng.choice([0.0, 0.5, 0.8, 0.9, 0.95, 0.99, 0.999, 1.0, rng.uniform(0.7, 1.0)]))
        return {**instance, "goal": {"kind": LEAST_COST, "limit": limit}}
    program = Program(instance)
    first = np.searchsorted(program.expert, np.arange(program.experts))
    chosen = np.zeros((program.tokens, program.count))
    np.put_along_axis(chosen, first[program.top_k], 1.0, 1)
    share = float(rng.choice([0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.99, 1.0, 1.5, rng.uniform(0.4, 1.0)]))
    return {**instance, "goal": {"kind": BEST_QUALITY, "limit": share * evaluate(program, chosen).cost}}


def make_goals(rng):
    return with_goal(rng, make_random(rng))


def make_goals_mixed(rng):
    made = (make_variants, make_devices, make_replicas, make_variable_k, make_ties, make_utilities)
    return with_goal(rng, made[rng.integers(len(made))](rng))


def make_everything(rng):
    """Variants on several devices, replicas, capacities, variable k, any utility and goal."""
    tokens, experts, k = shape(rng, pairs=36, most_k=3)
    placed = placed_layout(rng, experts, replicas=0.4)
    errors = [0.0, rng.uniform(0.01, 0.2)]
    instances = sorted([e, v, g] for e, _, g in placed["instances"] for v in (0, 1) if rng.random() < 0.8)
    missing = set(range(experts)) - {i[0] for i in instances}
    instances = sorted(instances + [[e, 0, 0] for e in missing])
    layout = {**placed, "errors": single(errors), "instances": instances}
    instance = {
        "scores": single(softmax_scores(rng, tokens, experts)),
        "k": k,
        "layout": layout,
        "prices": device_prices(rng, layout, tokens, k),
    }
    if rng.random() < 0.4:
        instance["min_k"] = int(rng.integers(1, k + 1))
    if rng.random() < 0.4:
        instance["settings"] = {"power": 2.0}
    if rng.random() < 0.4:
        add_capacity(rng, instance)
    return with_goal(rng, instance) if rng.random() < 0.5 else instance


# Name: (function, instances per thousand).
FAMILIES = {
    "random": (make_random, 100),
    "larger": (make_larger, 30),
    "ties": (make_ties, 50),
    "equal": (make_equal, 20),
    "zeros": (make_zeros, 40),
    "popular": (make_popular, 40),
    "duplicates": (make_duplicates, 40),
    "extreme prices": (make_extreme_prices, 40),
    "unscaled scores": (make_unscaled_scores, 20),
    "edge shapes": (make_edge_shapes, 30),
    "break even": (make_break_even, 50),
    "exchange": (make_exchange, 40),
    "variable k": (make_variable_k, 60),
    "utilities": (make_utilities, 50),
    "variants": (make_variants, 70),
    "devices": (make_devices, 60),
    "replicas": (make_replicas, 60),
    "joint closing": (make_joint_closing, 20),
    "capacity": (make_capacity, 50),
    "goals": (make_goals, 50),
    "goals, mixed": (make_goals_mixed, 50),
    "everything": (make_everything, 30),
}
assert sum(share for _, share in FAMILIES.values()) == 1000
