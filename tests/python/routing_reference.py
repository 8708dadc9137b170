"""The routing program of docs/theory.md, written down a second time.

An instance is the JSON object that routing_solve_tool reads (tests/routing/solve_tool.cpp). Here it
becomes a mixed-integer program for HiGHS (through SciPy), and plans are judged by the formulas of
include/thermoe/{expert_prices,routing_plan,utility_model}.h in float64. Nothing of the library's
arithmetic is shared but that scores, masses, prices and errors are float32 numbers.
"""

import dataclasses
import math

import numpy as np
import scipy.optimize
import scipy.sparse

PRICES, LEAST_COST, BEST_QUALITY = "prices", "least_cost", "best_quality"


class Program:
    """The numbers of one instance: T tokens, E experts, I instances, G devices."""

    def __init__(self, instance):
        self.scores = np.asarray(instance["scores"], np.float32)
        self.tokens, self.experts = self.scores.shape
        self.k = instance["k"]
        self.renormalize = instance.get("renormalize", True)
        settings = instance.get("settings", {})
        self.min_k = instance.get("min_k", 0) or settings.get("min_k", 0) or self.k
        goal = instance.get("goal", settings.get("goal", {"kind": PRICES}))
        self.goal, self.limit = goal["kind"], goal.get("limit", 0.0)
        self._read_layout(instance.get("layout"))
        self._read_prices(instance.get("prices"), settings)
        self._compute_utility(settings, instance.get("layer", 0))

    def _read_layout(self, layout):
        if layout is None:
            layout = {
                "devices": 1,
                "errors": [0.0],
                "instances": [[e, 0, 0] for e in range(self.experts)],
            }
        self.expert, variant, self.device = np.asarray(layout["instances"]).T
        self.count, self.devices = len(self.expert), layout["devices"]
        self.error = np.asarray(layout["errors"], np.float32).astype(float)[variant]
        capacity = layout.get("capacity") or [self.tokens] * self.count
        self.capacity = np.minimum(capacity, self.tokens)

    def _read_prices(self, prices, settings):
        if prices is None:
            prices = {
                key: [settings.get(name, 0.0)] * self.count
                for key, name in (("open", "open_price"), ("slope", "slope_price"))
            }

        def array(key, size):
            return np.asarray(prices.get(key) or [0.0] * size, np.float32).astype(float)

        self.open, self.slope = array("open", self.count), array("slope", self.count)
        self.device_open = array("device_open", self.count)
        self.device_slope = array("device_slope", self.count)
        self.device_base = array("device_base", self.devices)

    def _compute_utility(self, settings, layer):
        """share [T, E] of the own top-k mass; utility [T, I], errors taken off."""
        own = np.argsort(-self.scores, axis=1, kind="stable")[:, : self.k]
        self.top_k = own
        mass = np.zeros(self.tokens, np.float32)
        for slot in range(self.k):  # in float32, in the order of the model's own sum
            mass += self.scores[np.arange(self.tokens), own[:, slot]]
        self.mass = mass
        self.share = self.scores.astype(float) / mass.astype(float)[:, None]
        scale = settings.get("scale") or []
        power = float(np.float32(settings.get("power", 2.0)))
        worth = (self.k * self.share) ** power / self.k
        if scale:
            worth = worth * np.asarray(scale[layer], np.float32).astype(float)
        self.top_k_worth = np.take_along_axis(worth, own, 1).sum()
        kept = np.maximum(1.0 - self.error, 1 / 1024)
        best = np.zeros(self.experts)  # of an expert's most accurate instance
        np.maximum.at(best, self.expert, kept)
        worth = worth * best
        if scale or (best != best[0]).any():
            worth = self._capped(worth)
        self.utility = worth[:, self.expert] * (kept / best[self.expert])

    def _capped(self, worth):
        """Outsiders of a token's own top-k are worth less than the least within."""
        within = np.zeros(worth.shape, bool)
        np.put_along_axis(within, self.top_k, True, 1)
        least = np.where(within, worth, np.inf).min(1, keepdims=True)
        capped = 0.99 * least + 0.01 * least * worth / (worth + 2.0 * least)
        return np.where(~within & (worth > 0.99 * least), capped, worth)

    @property
    def has_device_prices(self):
        return int(self.device_open.any() or self.device_slope.any() or self.device_base.any())

    @property
    def maximises(self):
        return self.goal != LEAST_COST

    @property
    def unit(self):
        """What rounding errors are relative to: the size of what is added up."""
        used = min(self.count, self.tokens * self.k)
        prices = np.sort(self.open + self.device_open)[-used:].sum()
        loads = self.tokens * self.k * (self.slope + self.device_slope).max()
        return max(1.0, self.tokens * self.utility.max(), prices, loads, self.device_base.max())


@dataclasses.dataclass
class Evaluation:
    """What a plan is worth, by the formulas. excess: by how much each kind of limit is violated."""

    objective: float
    utility: float
    cost: float
    capacity_excess: float
    goal_excess: float

    @property
    def excess(self):
        return max(self.capacity_excess, self.goal_excess)


def evaluate(program, chosen):
    """chosen [T, I] of 0 and 1."""
    p = program
    load = chosen.sum(0)
    used = load > 0
    per_instance = np.where(used, p.device_open, 0.0) + p.device_slope * load
    devices = p.device_base + np.bincount(p.device, per_instance, p.devices)
    cost = float((p.open * used + p.slope * load).sum() + devices.max())
    utility = float((p.utility * chosen).sum())
    goal_excess = 0.0
    objective = utility - cost
    if p.goal == LEAST_COST:
        objective, goal_excess = cost, max(0.0, p.limit * p.top_k_worth - utility)
    elif p.goal == BEST_QUALITY:
        objective, goal_excess = utility, max(0.0, cost - p.limit)
    return Evaluation(objective, utility, cost, float(max(0, (load - p.capacity).max())), goal_excess)


class Model:
    """The strong formulation: x[t, i] <= y[i] for every pair; variables x, y, then the slowest
    device's cost z where devices have prices. HiGHS minimises."""

    def __init__(self, program):
        self.p = p = program
        tokens, count = p.tokens, p.count
        self.pairs = tokens * count
        self.size = self.pairs + count + p.has_device_prices
        self._rows = []
        self._bounds = []
        ones = scipy.sparse.csr_array(np.ones((1, count)))
        self._add(self._join(scipy.sparse.kron(scipy.sparse.eye_array(tokens), ones)), p.min_k, p.k)
        self._add_instances_of_one_expert()
        every = scipy.sparse.eye_array(count)
        opened = scipy.sparse.kron(np.ones((tokens, 1)), every)
        self._add(self._join(scipy.sparse.eye_array(self.pairs), -opened), -np.inf, 0.0)
        load = scipy.sparse.kron(np.ones((1, tokens)), every)
        limited = np.flatnonzero(p.capacity < tokens)
        if limited.size:
            self._add(self._join(load.tocsr()[limited]), -np.inf, p.capacity[limited])
        if p.has_device_prices:
            here = (p.device[None, :] == np.arange(p.devices)[:, None]).astype(float)
            by_load = scipy.sparse.csr_array(here * p.device_slope) @ load
            z = -np.ones((p.devices, 1))
            self._add(self._join(by_load, here * p.device_open, z), -np.inf, -p.device_base)
        self._add_goal()

    def _join(self, x, y=None, z=None):
        rows = x.shape[0]
        blocks = [x, scipy.sparse.csr_array((rows, self.p.count)) if y is None else y]
        if self.p.has_device_prices:
            blocks.append(scipy.sparse.csr_array((rows, 1)) if z is None else z)
        return scipy.sparse.hstack([scipy.sparse.csr_array(block) for block in blocks])

    def _add(self, rows, low, high):
        self._rows.append(rows)
        self._bounds.append(np.broadcast_arrays(low, high, np.zeros(rows.shape[0]))[:2])

    def _add_instances_of_one_expert(self):
        p = self.p
        several = np.flatnonzero(np.bincount(p.expert, minlength=p.experts) > 1)
        if several.size:
            of = scipy.sparse.csr_array((p.expert[None, :] == several[:, None]).astype(float))
            self._add(self._join(scipy.sparse.kron(scipy.sparse.eye_array(p.tokens), of)), -np.inf, 1.0)

    def _add_goal(self):
        p = self.p
        utility = np.concatenate([p.utility.ravel(), np.zeros(self.size - self.pairs)])
        cost = np.concatenate([np.tile(p.slope, p.tokens), p.open, np.ones(p.has_device_prices)])
        if p.goal == PRICES:
            self.costs = cost - utility
        elif p.goal == LEAST_COST:
            self.costs = cost
            self._add(scipy.sparse.csr_array(utility[None, :]), p.limit * p.top_k_worth, np.inf)
        else:
            self.costs = -utility
            self._add(scipy.sparse.csr_array(cost[None, :]), -np.inf, p.limit)

    def chosen_of(self, result):
        """[T, I] of 0 and 1."""
        return np.round(result.x[: self.pairs]).reshape(self.p.tokens, self.p.count)

    def solve(self, integral, time_limit_s=None, margin=0.0):
        """SciPy's result. The gap is closed to HiGHS's own tolerance (1e-6, absolute). `margin`: by
        which fraction the goal's limit is tightened."""
        integrality = np.zeros(self.size)
        integrality[: self.pairs + self.p.count] = integral
        upper = np.ones(self.size)
        upper[self.pairs + self.p.count :] = np.inf
        low, high = (np.concatenate(side) for side in zip(*self._bounds))
        if self.p.goal == LEAST_COST:
            low[-1] += margin * self.p.tokens
        elif self.p.goal == BEST_QUALITY:
            high[-1] -= margin * max(1.0, self.p.limit)
        rows = scipy.sparse.vstack(self._rows).tocsc()
        options = {"mip_rel_gap": 0.0}
        if time_limit_s is not None:
            options["time_limit"] = time_limit_s
        return scipy.optimize.milp(
            self.costs,
            integrality=integrality,
            bounds=scipy.optimize.Bounds(np.zeros(self.size), upper),
            constraints=scipy.optimize.LinearConstraint(rows, low, high),
            options=options,
        )


@dataclasses.dataclass
class Optimum:
    """What HiGHS says, in the sense of RoutingReport::objective."""

    feasible: bool  # some plan keeps the limits, with MARGIN to spare where a goal sets one
    proven: float = math.nan  # no plan is better; nan: none is feasible
    value: float = math.nan  # of the best plan found that keeps the limits, by evaluate()
    chosen: np.ndarray = None  # [T, I] that plan
    relaxed: float = math.nan  # the linear program's optimum; nan: not asked for


# HiGHS keeps constraints to 1e-7 only. Where its plan is not strictly within the goal's limit it is
# asked again, with the limit this much tighter (a fraction): the optimum is between both answers.
MARGIN = 2e-6
INFEASIBLE, TIME_LIMIT = 2, 1


def solve(program, relaxation=True, time_limit_s=None):
    model = Model(program)
    sign = -1.0 if program.maximises else 1.0
    result = model.solve(integral=True, time_limit_s=time_limit_s)
    if result.status == INFEASIBLE:
        return Optimum(feasible=False)
    if result.x is None or result.status not in (0, TIME_LIMIT):
        raise RuntimeError(f"HiGHS: {result.message}")
    optimum = Optimum(feasible=True, proven=sign * result.mip_dual_bound)
    optimum.chosen = model.chosen_of(result)
    if evaluate(program, optimum.chosen).goal_excess > 0:
        result = model.solve(integral=True, time_limit_s=time_limit_s, margin=MARGIN)
        optimum.feasible = result.x is not None
        optimum.chosen = model.chosen_of(result) if optimum.feasible else None
    if optimum.feasible:
        optimum.value = evaluate(program, optimum.chosen).objective
    if relaxation:
        linear = model.solve(integral=False)
        if linear.status != 0:
            raise RuntimeError(f"HiGHS, relaxed: {linear.message}")
        optimum.relaxed = sign * linear.fun
    return optimum
