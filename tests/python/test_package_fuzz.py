"""The module's arguments at random: an exception of the documented kinds or a sound result, never a
crash. Examples are derived from the code, not from the clock."""

import numpy as np
import pytest
import thermoe
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

settings.register_profile(
    "thermoe", derandomize=True, deadline=None, database=None, max_examples=150,
    suppress_health_check=list(HealthCheck))
settings.load_profile("thermoe")

EXPERTS, K = 6, 2
DOCUMENTED = (TypeError, ValueError, OverflowError, MemoryError, thermoe.Error)

DTYPES = st.sampled_from(
    ["f4"] * 6 + ["f8", "f2", "i4", "i8", "u1", "u2", "?", "c8", "O", "U3", "M8[s]", ">f4", "V4"])
NUMBERS = st.one_of(
    st.sampled_from([0.0, 0.1, 0.5, 1.0, 3e38, -1.0, np.nan, np.inf, -np.inf, 1e-45]), st.floats(0, 1, width=32))


class Odd:
    """Claims to be an array."""

    def __init__(self, device, capsule):
        self._device, self._capsule = device, capsule

    def __dlpack_device__(self):
        return self._device

    def __dlpack__(self, **_):
        if isinstance(self._capsule, Exception):
            raise self._capsule
        return self._capsule


@st.composite
def views(draw, shapes=None):
    """A NumPy view: any shape, dtype, strides (negative, overlapping, zero), alignment, or read-only."""
    shape = draw(shapes if shapes is not None else st.one_of(
        st.just((draw(st.integers(0, 5)), EXPERTS)),
        st.lists(st.integers(0, 7), max_size=4).map(tuple)))
    dtype = np.dtype(draw(DTYPES))
    base = np.zeros([2 * size + 1 for size in shape], dtype)
    if dtype.kind in "fiu":
        with np.errstate(all="ignore"):
            base[...] = np.nan_to_num(draw(NUMBERS), nan=0) if dtype.kind in "iu" and draw(st.booleans()) else 0
            if dtype.kind == "f":
                base[...] = draw(NUMBERS)
    cut = []
    for size in shape:
        step = draw(st.sampled_from([1, 1, 1, 2, -1, -2]))
        cut.append(slice(0, size * abs(step), step) if step > 0 else slice(size * -step - 1 if size else 0, None, step))
    view = base[tuple(cut)]
    choice = draw(st.integers(0, 9))
    if choice == 0:
        view = view.T
    elif choice == 1:
        view = np.broadcast_to(view, (2,) * draw(st.integers(0, 1)) + view.shape)
    elif choice == 2:
        view = np.array(view)
        view.flags.writeable = False
    elif choice >= 5:
        view = np.ascontiguousarray(view)
    return view


OBJECTS = st.one_of(
    st.none(), st.integers(-2, 9), st.text(max_size=3), st.binary(max_size=9), st.lists(st.floats(), max_size=3),
    st.builds(bytearray, st.binary(max_size=16)),
    st.builds(lambda b: memoryview(b), st.binary(max_size=16)),
    st.builds(Odd, st.sampled_from([(2, 0), (1, 0), (13, 5), "cuda", None, (2,)]),
              st.sampled_from([None, 3, "capsule", BufferError("no"), RuntimeError("no"), KeyError(1)])))


def arrays(*shapes):
    usual = [st.just(shape) for shape in shapes]
    return st.one_of(views(st.one_of(usual)) if usual else views(), views(), OBJECTS)


def check_plan(plan, scores):
    ids, weights = plan.ids, plan.weights
    tokens = scores.shape[0]
    if ids is not None:
        ids = np.asarray(ids)
        assert ids.shape[0] == tokens and ids.min() >= -1 and ids.max() < EXPERTS
        for row in ids:
            used = row[row >= 0]
            assert len(set(used)) == len(used)
    if weights is not None:
        assert np.isfinite(np.asarray(weights)).all()
    assert plan.report.used_pairs <= tokens * EXPERTS


@given(st.data())
def test_plans(data):
    router = thermoe.Router(EXPERTS, K)
    scores = data.draw(arrays((3, EXPERTS), (1, EXPERTS)), "scores")
    keywords = {}
    try:
        prices = None
        if data.draw(st.booleans()):
            prices = thermoe.Prices(data.draw(arrays((EXPERTS,)), "open"), data.draw(arrays((EXPERTS,)), "slope"))
        if data.draw(st.integers(0, 3)) == 0:
            keywords["out"] = thermoe.Plan(
                ids=data.draw(arrays((3, K)), "ids"), weights=data.draw(arrays((3, K)), "weights"),
                packed=data.draw(arrays((3 * K,)), "packed"))
        for name, values in {
            "gate": st.sampled_from(["none", "softmax", "sigmoid", "", "x"]),
            "layer": st.integers(-(2**33), 2**33),
            "max_loss_frac": st.floats(),
            "cost_budget": st.floats(),
            "stream": st.integers(0, 2**65),
            "workspace": OBJECTS,
        }.items():
            if data.draw(st.integers(0, 7)) == 0:
                keywords[name] = data.draw(values, name)
        plan = router.plan(scores, prices, **keywords)
    except DOCUMENTED as error:
        assert str(error)
        return
    check_plan(plan, np.asarray(scores))


@given(st.data())
def test_routers_and_layouts(data):
    numbers = st.one_of(st.integers(-3, 9), st.sampled_from([2**31 - 1, -(2**31), 2**40, 65536, 65537]))
    try:
        layout = None
        if data.draw(st.booleans()):
            variant = st.one_of(st.text(max_size=3), st.tuples(st.text(max_size=3), st.floats()), OBJECTS)
            layout = thermoe.Layout(
                data.draw(numbers), data.draw(st.lists(variant, max_size=10)), devices=data.draw(numbers),
                expert=data.draw(arrays((EXPERTS,))), capacity=data.draw(arrays((EXPERTS,))))
        router = thermoe.Router(
            data.draw(numbers), data.draw(numbers), min_k=data.draw(numbers), layout=layout,
            policy=data.draw(st.one_of(st.none(), st.text(max_size=12), st.sampled_from(["topk", "oea:k0=1"]))))
    except DOCUMENTED as error:
        assert str(error)
        return
    assert 1 <= router.k <= router.experts <= router.instances


@given(st.data())
def test_experts(data):
    fixed = np.full((2, 4, 8), 0.1, np.float32)
    try:
        experts = thermoe.QuantizedExperts(
            data.draw(st.one_of(st.just(fixed), arrays((2, 4, 8)))),
            data.draw(st.one_of(st.just(fixed), arrays((2, 4, 8)))),
            data.draw(st.one_of(st.just(fixed.reshape(2, 8, 4)), arrays((2, 8, 4)))),
            threads=data.draw(st.sampled_from([1, 1, 1, -1, 2**20])))
        out = experts.forward(
            data.draw(st.one_of(st.just(np.ones((3, 8), np.float32)), arrays((3, 8)))),
            data.draw(st.one_of(st.just(np.int32([[0, 1], [1, -1], [-1, -1]])), arrays((3, 2)))),
            data.draw(st.one_of(st.just(np.full((3, 2), 0.5, np.float32)), arrays((3, 2)))),
            int4=data.draw(st.one_of(st.none(), arrays((3, 2)))), out=data.draw(st.one_of(st.none(), arrays((3, 8)))))
    except DOCUMENTED as error:
        assert str(error)
        return
    assert np.asarray(out).shape[1] == 8


@given(st.data())
def test_the_loop(data):
    reals = st.one_of(st.floats(), st.sampled_from([0.0, 100.0, 500.0]), OBJECTS)
    costs = test_the_loop.costs
    monitor = test_the_loop.monitor
    try:
        state = thermoe.HardwareState(
            power_average_w=data.draw(reals), temperature_c=data.draw(reals), throttle_reasons=data.draw(
                st.one_of(st.none(), st.integers(-1, 2**65))))
        surrogate = costs.surrogate(data.draw(st.one_of(st.just(16), reals)))
        governor = thermoe.Governor(
            surrogate, power_cap_w=data.draw(reals), layer_latency_target_us=data.draw(reals),
            max_open_price=data.draw(st.one_of(st.just(0.25), reals)))
        governor.update(state, data.draw(st.one_of(st.just(0.1), reals)), data.draw(reals))
        open_price = governor.prices(data.draw(st.one_of(st.just(EXPERTS), st.integers(-5, 2**31)))).open
        assert np.isfinite(open_price).all() and (open_price >= 0).all()
        work = costs.layer(16, data.draw(st.one_of(st.just(80.0), reals)), 128, state)
        monitor.advance(work, data.draw(st.one_of(st.just(0.1), st.floats(1, 1e300))))
        monitor.set_environment(power_cap_w=data.draw(reals), sink_resistance_factor=data.draw(reals))
    except DOCUMENTED as error:
        assert str(error)


test_the_loop.costs = thermoe.CostModel()
test_the_loop.monitor = thermoe.Monitor("twin")
