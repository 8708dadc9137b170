"""The package thermoe against NumPy, the program and the routing program written down a second time.

Needs thermoe on the path (an installed wheel, or the build's folder python/), and the program in
THERMOE_PROGRAM.
"""

import ast
import os
import pathlib
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
import thermoe

TOP = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("THERMOE_PROGRAM", str(TOP / "build" / "thermoe"))
TRACE = TOP / "data" / "telemetry" / "h100-sxm-700w.csv"


def random_logits(tokens, experts, seed):
    return (1.5 * np.random.default_rng(seed).standard_normal((tokens, experts))).astype(np.float32)


def random_scores(tokens, experts, seed):
    e = np.exp(random_logits(tokens, experts, seed).astype(float))
    return (e / e.sum(1, keepdims=True)).astype(np.float32)


def uniform(experts, price):
    return thermoe.Prices(np.full(experts, price, np.float32))


def top_k(scores, k):
    """ids by falling score, ties by lower id, and their shares, in float32 as the model adds them."""
    ids = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    kept = np.take_along_axis(scores, ids, 1)
    mass = np.zeros(len(scores), np.float32)
    for slot in range(k):
        mass += kept[:, slot]
    return ids, kept / mass[:, None]


def routed_by_program(tmp_path, scores, k, *options, kind="--scores"):
    np.save(tmp_path / "scores.npy", scores)
    command = [PROGRAM, "route", kind, tmp_path / "scores.npy", "--k", str(k), "--out", tmp_path / "plan", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {name: np.load(tmp_path / f"plan.{name}.npy") for name in ("ids", "instances", "weights")}


# --- plans --------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens, experts, k", [(1, 1, 1), (16, 128, 8), (64, 60, 4), (3, 8, 8)])
@pytest.mark.parametrize("policy", [None, "topk"])
def test_zero_prices_are_top_k(tokens, experts, k, policy):
    scores = np.round(random_scores(tokens, experts, tokens) * 64) / 64  # with ties
    scores[:, 0] += 1 / 64
    router = thermoe.Router(experts, k, policy=policy)
    for prices in (None, uniform(experts, 0)):
        plan = router.plan(scores, prices)
        ids, weights = top_k(scores, k)
        assert np.array_equal(plan.ids, ids)
        assert np.array_equal(plan.instances, ids)
        assert np.array_equal(plan.weights, weights)
        assert not plan.changed.any()
        assert plan.report.gate_mass_frac == 1 and plan.report.changed_tokens == 0


def test_plans_are_the_programs(tmp_path):
    scores = random_scores(16, 64, 1)
    plan = thermoe.Router(64, 6).plan(scores, uniform(64, 0.05))
    want = routed_by_program(tmp_path, scores, 6, "--open-price", "0.05")
    for name, array in want.items():
        assert np.array_equal(getattr(plan, name), array), name
    assert plan.report.changed_tokens == plan.changed.sum() > 0


def test_layouts_and_logits_are_the_programs(tmp_path):
    logits = random_logits(12, 32, 2)
    layout = thermoe.Layout(32, ["bf16", ("int8", 0.004, 0.5)])
    open_price = np.tile(np.float32([0.1, 0.05]), 32)
    router = thermoe.Router(32, 4, layout=layout)
    plan = router.plan(logits, thermoe.Prices(open_price), gate="softmax")
    options = ("--open-price", "0.1", "--variants", "bf16,int8:0.004:0.5")
    want = routed_by_program(tmp_path, logits, 4, *options, kind="--logits")
    assert np.array_equal(plan.ids, want["ids"])
    assert np.array_equal(plan.instances, want["instances"])
    np.testing.assert_allclose(plan.weights, want["weights"], rtol=2e-6)
    assert (plan.instances % 2).any()


def test_the_certificate_is_the_reference_programs():
    from routing_reference import Program, evaluate

    scores = random_scores(8, 16, 3)
    price = np.full(16, 0.08, np.float32)
    plan = thermoe.Router(16, 3).plan(scores, thermoe.Prices(price))
    program = Program({"scores": scores, "k": 3, "prices": {"open": price.tolist()}})
    chosen = np.zeros((8, 16))
    np.put_along_axis(chosen, plan.ids, 1, 1)
    assert plan.report.objective == pytest.approx(evaluate(program, chosen).objective, rel=1e-6)
    assert plan.report.bound == pytest.approx(plan.report.objective)
    assert plan.report.gap_frac == 0


def test_packed_order_lists_every_pair_by_instance():
    plan = thermoe.Router(24, 4).plan(random_scores(20, 24, 4), uniform(24, 0.1))
    flat = plan.instances.reshape(-1)
    for i in range(24):
        pairs = plan.packed[plan.offsets[i] : plan.offsets[i + 1]]
        assert np.array_equal(pairs, np.flatnonzero(flat == i))
    assert plan.offsets[-1] == plan.report.used_pairs == (flat >= 0).sum()


def test_goals():
    scores, prices = random_scores(16, 32, 5), uniform(32, 1.0)
    router = thermoe.Router(32, 4)
    everything = router.plan(scores, max_loss_frac=0.0, prices=prices).report
    less = router.plan(scores, prices, max_loss_frac=0.1).report
    assert less.cost < everything.cost and less.utility < everything.utility
    budget = router.plan(scores, prices, cost_budget=10).report
    assert budget.cost <= 10 + 1e-9
    with pytest.raises(ValueError, match="not both"):
        router.plan(scores, prices, max_loss_frac=0.1, cost_budget=10)


# --- arrays -------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", ["wide", "backward", "every other row", "read-only"])
def test_rows_may_lie_anywhere(view):
    scores = random_scores(8, 16, 6)
    router, prices = thermoe.Router(16, 4), uniform(16, 0.1)
    want = router.plan(scores, prices)
    if view == "wide":
        held = np.full((8, 31), np.nan, np.float32)
        held[:, 5:21] = scores
        given = held[:, 5:21]
    elif view == "backward":
        given = np.ascontiguousarray(scores[::-1])[::-1]
    elif view == "every other row":
        given = np.full((16, 16), np.nan, np.float32)[::2]
        given[:] = scores
    else:
        given = scores.copy()
        given.flags.writeable = False
    got = router.plan(given, prices)
    assert np.array_equal(got.ids, want.ids) and np.array_equal(got.weights, want.weights)


def test_out_is_written_where_it_is():
    scores = random_scores(4, 8, 7)
    router = thermoe.Router(8, 2)
    want = router.plan(scores)
    ids, weights = np.full((4, 3), 77, np.int32), np.full((4, 3), 7, np.float32)
    plan = thermoe.Plan(ids=ids, weights=weights)
    assert router.plan(scores, out=plan) is plan
    assert plan.ids is ids and plan.packed is None
    assert np.array_equal(ids[:, :2], want.ids) and (ids[:, 2] == -1).all()
    assert np.array_equal(weights[:, :2], want.weights) and (weights[:, 2] == 0).all()


def test_torch_tensors_are_read_and_written_in_place():
    torch = pytest.importorskip("torch")
    scores = torch.from_numpy(random_scores(6, 16, 8))
    router, prices = thermoe.Router(16, 4), thermoe.Prices(torch.full((16,), 0.1))
    want = router.plan(scores.numpy(), uniform(16, 0.1))
    ids = torch.zeros((6, 4), dtype=torch.int32)
    out = router.plan(scores, prices, out=thermoe.Plan(ids=ids))
    assert out.ids is ids and np.array_equal(ids.numpy(), want.ids)
    half = scores.to(torch.bfloat16)
    a, b = router.plan(half, prices), router.plan(half.float(), prices)
    assert np.array_equal(a.ids, b.ids) and np.array_equal(a.weights, b.weights)
    with pytest.raises(TypeError, match="float32 or bfloat16, got float16"):
        router.plan(scores.half())
    trained = scores.clone().requires_grad_()  # a plan has no gradient: the values are read
    assert np.array_equal(router.plan(trained, prices).ids, want.ids)
    with pytest.raises((TypeError, ValueError), match="scores: expected"):
        router.plan(torch.empty((6, 16), device="meta"))


def test_what_is_no_such_array_is_named():
    router, scores = thermoe.Router(16, 4), random_scores(4, 16, 9)
    too_long = thermoe.Plan(ids=np.zeros((5, 4), np.int32))
    cases = [
        (TypeError, "scores: expected a dense array.*got list", lambda: router.plan([[0.5] * 16])),
        (TypeError, "scores: expected an array, got None", lambda: router.plan(None)),
        (TypeError, "float32 or bfloat16, got float64", lambda: router.plan(scores.astype(float))),
        (ValueError, "scores: expected 2 dimensions, got 1", lambda: router.plan(scores[0])),
        (ValueError, r"expected the shape \[any, 16\], got \[4, 15\]", lambda: router.plan(scores[:, :15])),
        (ValueError, "side by side", lambda: router.plan(np.asfortranarray(scores))),
        (ValueError, "all rows are one", lambda: router.plan(np.broadcast_to(scores[0], (4, 16)))),
        (ValueError, r"open: expected the shape \[16\]", lambda: router.plan(scores, uniform(15, 0))),
        (TypeError, "open: expected float32", lambda: thermoe.Prices(np.zeros(16))),
        (ValueError, "contiguous", lambda: thermoe.Prices(np.zeros(32, np.float32)[::2])),
        (TypeError, "out: expected a thermoe.Plan", lambda: router.plan(scores, out=scores)),
        (ValueError, "ids: the array is read-only", lambda: thermoe.Plan(ids=np.broadcast_to(np.int32(0), (4, 4)))),
        (ValueError, "out.ids: expected the shape", lambda: router.plan(scores, out=too_long)),
        (ValueError, "gate is 'tanh'", lambda: router.plan(scores, gate="tanh")),
    ]
    for kind, words, call in cases:
        with pytest.raises(kind, match=words):
            call()


# --- errors -------------------------------------------------------------------------------------


def program_words(*arguments):
    done = subprocess.run([PROGRAM, *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    return done.stderr.removeprefix("thermoe: ").rstrip("\n")


def test_errors_have_the_programs_words(tmp_path):
    scores = random_scores(2, 4, 10)
    np.save(tmp_path / "good.npy", scores)
    words = program_words("route", "--scores", tmp_path / "good.npy", "--k", "2", "--policy", "nonsense")
    with pytest.raises(thermoe.InvalidArgument) as raised:
        thermoe.Router(4, 2, policy="nonsense")
    assert str(raised.value) == words and isinstance(raised.value, ValueError)

    missing = str(tmp_path / "no.csv")
    words = program_words("run", "--telemetry", f"replay:{missing}")
    with pytest.raises(thermoe.IoError) as raised:
        thermoe.Monitor(f"replay:{missing}")
    assert str(raised.value) == words and isinstance(raised.value, OSError)

    words = program_words("cost", "--shape", "no-such-model")
    with pytest.raises(thermoe.InvalidArgument) as raised:
        thermoe.CostModel(shape="no-such-model")
    assert str(raised.value) in words


def test_errors_have_kinds():
    scores = random_scores(2, 4, 11)
    scores[1, 3] = np.nan
    with pytest.raises(thermoe.InvalidArgument, match="score of token 1, expert 3 is nan"):
        thermoe.Router(4, 2).plan(scores)
    with pytest.raises(thermoe.InvalidArgument, match="logit of token 1, expert 3 is nan"):
        thermoe.Router(4, 2).plan(scores, gate="softmax")
    with pytest.raises(thermoe.ProfileMiss, match="covered"):
        thermoe.CostModel(dtype="no-such-type")
    with pytest.raises(LookupError):
        thermoe.CostModel(dtype="no-such-type")
    surrogate = thermoe.CostModel().surrogate(16)
    with pytest.raises(thermoe.InvalidArgument, match="power_cap_w is 0; give a positive number"):
        thermoe.Governor(surrogate, power_cap_w=0)
    if not thermoe.has_cuda():
        with pytest.raises(thermoe.NoCuda, match="this build has no CUDA code"):
            thermoe.Router(4, 2).plan(random_scores(2, 4, 12), stream=0)
        with pytest.raises(thermoe.CudaError):
            thermoe.Router(4, 2).workspace_bytes(16)
    for kind in (thermoe.InvalidArgument, thermoe.IoError, thermoe.NoCuda, thermoe.NvmlError, thermoe.ProfileMiss):
        assert issubclass(kind, thermoe.Error)


# --- the loop -----------------------------------------------------------------------------------


def test_a_replay_is_read():
    monitor = thermoe.Monitor(f"replay:{TRACE}", period_s=1.0)
    before = monitor.poll()
    assert before.present and before.temperature_c > 0 and before.sm_clock_mhz > 0
    times = [monitor.poll().time_s for _ in range(5)]
    assert times == sorted(times) and times[-1] > before.time_s
    with monitor:
        with pytest.raises(thermoe.InvalidArgument):
            monitor.poll()
    assert monitor.state().present


def test_a_governor_holds_a_latency_target():
    monitor, costs = thermoe.Monitor("twin"), thermoe.CostModel()
    surrogate = costs.surrogate(16)
    governor = thermoe.Governor(surrogate, layer_latency_target_us=250)
    router, scores, latency = thermoe.Router(128, 8), random_scores(16, 128, 13), None
    for _ in range(60):
        state = monitor.poll()
        governor.update(state, 0.1, latency)
        report = router.plan(scores, governor.prices(128)).report
        layer = costs.layer(16, report.distinct_experts, report.used_pairs, state)
        monitor.advance(layer, 0.1)
        latency = layer.latency_us
    assert latency == pytest.approx(250, rel=0.05)
    assert report.distinct_experts < report.top_k_distinct_experts
    governor.set_limits()
    governor.update(monitor.poll(), 0.1, latency)
    assert not governor.prices(128).open.any()


def test_states_keep_missing_apart_from_zero():
    state = thermoe.HardwareState(power_average_w=0.0)
    assert state.power_average_w == 0 and state.temperature_c is None and state.throttle_reasons is None
    state.temperature_c = 70
    state.throttle_reasons = 4
    assert (state.temperature_c, state.throttle_reasons) == (70, 4)
    state.temperature_c = None
    assert state.temperature_c is None and "power_average_w=0" in repr(state)
    with pytest.raises(TypeError, match="no reading 'colour'"):
        thermoe.HardwareState(colour=1)


def test_experts_are_near_their_weights():
    rng = np.random.default_rng(14)
    gate, up = (rng.standard_normal((4, 48, 64)).astype(np.float32) / 8 for _ in range(2))
    down = rng.standard_normal((4, 64, 48)).astype(np.float32) / 7
    experts = thermoe.QuantizedExperts(gate, up, down, threads=1)
    x = rng.standard_normal((9, 64)).astype(np.float32)
    plan = thermoe.Router(4, 2).plan(random_scores(9, 4, 15))
    want = np.zeros_like(x)
    for t in range(9):
        for expert, weight in zip(plan.ids[t], plan.weights[t]):
            g = gate[expert] @ x[t]
            want[t] += weight * (down[expert] @ (g / (1 + np.exp(-g)) * (up[expert] @ x[t])))

    def error(out):
        return np.linalg.norm(out - want) / np.linalg.norm(want)

    int8 = error(experts.forward(x, plan.ids, plan.weights))
    int4 = error(experts.forward(x, plan.ids, plan.weights, int4=np.ones((9, 2), np.uint8)))
    assert int8 < 0.03 and 2 * int8 < int4 < 0.3
    fine, coarse = experts.error_frac
    assert (fine < coarse).all() and experts.bytes[0] > experts.bytes[1]
    out = x.copy()
    assert experts.forward(out, plan.ids, plan.weights, out=out) is out  # in place
    assert error(out) == int8


def test_threads_take_turns():
    router, prices = thermoe.Router(64, 6), uniform(64, 0.05)
    batches = [random_scores(16, 64, 20 + n) for n in range(4)]
    want = [router.plan(batch, prices).ids for batch in batches]
    wrong = []

    def work(n):
        for _ in range(50):
            if not np.array_equal(router.plan(batches[n], prices).ids, want[n]):
                wrong.append(n)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# --- the package --------------------------------------------------------------------------------


def test_stubs_name_what_the_module_has():
    stub = ast.parse((pathlib.Path(thermoe.__file__).parent / "_core.pyi").read_text())
    classes = {node.name: node for node in stub.body if isinstance(node, ast.ClassDef)}
    functions = {node.name for node in stub.body if isinstance(node, ast.FunctionDef)}
    core = thermoe._core
    for name in (name for name in dir(core) if not name.startswith("_")):
        member = getattr(core, name)
        if not isinstance(member, type):
            assert name in functions, name
            continue
        known = set()
        for node in classes[name].body:
            if isinstance(node, ast.FunctionDef):
                known.add(node.name)
            elif isinstance(node, ast.AnnAssign):
                known.add(node.target.id)
        assert {m for m in vars(member) if not m.startswith("_")} == {k for k in known if not k.startswith("_")}, name


def test_the_example_runs():
    done = subprocess.run([sys.executable, TOP / "examples" / "engine" / "engine.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "experts, not 91; gate mass kept 0.99" in done.stdout


def test_the_command_comes_along():
    command = shutil.which("thermoe", path=str(pathlib.Path(sys.executable).parent))
    if command is None:
        pytest.skip("thermoe is not installed here")
    done = subprocess.run([command, "--version"], capture_output=True, text=True)
    assert done.stdout.strip() == thermoe.__version__
    done = subprocess.run([command, "doctor"], capture_output=True, text=True)
    assert "h100-sxm-power" in done.stdout and "nano" in done.stdout
