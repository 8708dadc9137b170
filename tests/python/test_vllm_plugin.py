"""The vLLM plug-in, in the real package: at zero prices vLLM's own answers, with prices the plan's; ranks that agree.

Needs thermoe on the path (as test_package.py) and vLLM's build for the CPU (tests/requirements-vllm.txt).
"""

import json
import os
import pathlib
import subprocess
import sys
import tomllib

import numpy as np
import pytest
import thermoe

torch = pytest.importorskip("torch")
pytest.importorskip("vllm", reason="vLLM is not installed: pip install --no-deps -r tests/requirements-vllm.txt")
from thermoe.serving.price_loop import Current, Tick  # noqa: E402
from thermoe.serving.statistics import Statistics, Tally  # noqa: E402
from thermoe.vllm import agreement, plugin, settings  # noqa: E402
from thermoe.vllm.metrics import Metrics  # noqa: E402
from thermoe.vllm.rank import Rank  # noqa: E402
from thermoe.vllm.settings import Settings, from_environment  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
TOP = HERE.parents[1]

# --- settings -----------------------------------------------------------------------------------


def test_without_a_variable_nothing_is_wanted():
    assert from_environment({"VLLM_USE_V1": "1", "PATH": "/bin"}) is None


def test_variables_go_before_the_file(tmp_path):
    file = tmp_path / "thermoe.yaml"
    file.write_text("power_cap_w: 500\nmax_open_price: 0.1\nmonitor: twin\nagree_steps: 4\n")
    read = from_environment({"THERMOE_VLLM_CONFIG": str(file), "THERMOE_VLLM_POWER_CAP_W": "450"})
    assert read == Settings(power_cap_w=450.0, max_open_price=0.1, monitor="twin", agree_steps=4)
    assert read.governed and not read.fixed


@pytest.mark.parametrize("given, named", [
    ({"POWER_CAPW": "1"}, "power_capw is no setting: known are power_cap_w"),
    ({"POWER_CAP_W": "much"}, "power_cap_w is 'much': a number was expected"),
    ({"POWER_CAP_W": "-3"}, "power_cap_w is -3.0"),
    ({"POWER_CAP_W": "nan"}, "power_cap_w is nan"),
    ({"OPEN_PRICE": "inf"}, "open_price is inf"),
    ({"AGREE_STEPS": "0"}, "agree_steps is 0"),
    ({"AGREE_STEPS": "1.5"}, "a whole number was expected"),
    ({"LARGE_BATCHES": "all"}, "known are prices, top-k"),
    ({"POWER_CAP_W": "400", "OPEN_PRICE": "0.1"}, "not both"),
    ({"CONFIG": "/nowhere.yaml"}, "/nowhere.yaml: No such file"),
])
def test_what_is_no_setting_is_named(given, named):
    with pytest.raises(thermoe.InvalidArgument, match=named):
        from_environment({"THERMOE_VLLM_" + name: value for name, value in given.items()})


@pytest.mark.parametrize("text, named", [
    ("[1, 2]", "a mapping of settings was expected"), ("power_cap_w: [1]", "a number was expected"),
    ("power: 3", "power is no setting"), ("a: [", "is no YAML"), ("monitor: true", "text was expected")])
def test_what_is_no_file_of_settings_is_named(tmp_path, text, named):
    file = tmp_path / "thermoe.yaml"
    file.write_text(text)
    with pytest.raises(thermoe.InvalidArgument, match=named):
        from_environment({"THERMOE_VLLM_CONFIG": str(file)})


@pytest.mark.parametrize("version", ["0.23.0", "0.25.0", "0.33.0", "1.0", "dev"])
def test_another_vllm_is_refused(version):
    with pytest.raises(thermoe.InvalidArgument, match="needs >= 0.24.0, < 0.25; install vllm==0.24.0"):
        plugin.check_version(version)


def test_this_vllm_is_served():
    import vllm

    plugin.check_version(vllm.__version__)


# --- one layer ----------------------------------------------------------------------------------

# The cases of vLLM's own tests of its routers: tests/kernels/moe/test_routing.py, test_fused_topk.py.
CASES = [(tokens, experts, k, renormalize, score, dtype)
         for tokens, experts, ks in ((32, 8, (2, 4, 6)), (64, 16, (2, 4, 6)), (64, 64, (2, 4, 6)), (1, 6, (3, 4)),
                                     (33, 6, (3,)), (56, 16, (3, 4)), (300, 64, (6,)))
         for k in ks for renormalize in (False, True) for score in ("softmax", "sigmoid")
         for dtype in (torch.float32, torch.bfloat16, torch.float16)]


def of_torch(logits, k, renormalize, score):
    """Top-k of the scores, as vLLM's tests have it."""
    scores = torch.softmax(logits.float(), -1) if score == "softmax" else torch.sigmoid(logits.float())
    weights, ids = torch.topk(scores, k, -1)
    return (weights / weights.sum(-1, keepdim=True) if renormalize else weights), ids.to(torch.int32)


@pytest.fixture
def factory(monkeypatch):
    """vLLM's factory of routers, whose kernel (which needs a GPU) is PyTorch's top-k."""
    from vllm.model_executor.layers.fused_moe.router import fused_topk_router, router_factory

    def fused_topk(hidden_states, gating_output, topk, renormalize, indices_type=None, scoring_func="softmax"):
        weights, ids = of_torch(gating_output, topk, renormalize, scoring_func)
        return weights, ids if indices_type is None else ids.to(indices_type), None

    monkeypatch.setattr(fused_topk_router, "fused_topk", fused_topk)
    return router_factory.create_fused_moe_router


def rank_of(create, experts, k, *, price=0.0, slope=0.0, large_batches="prices", tokens=None, **kwargs):
    """A rank of one layer whose pass has so many real tokens, and the layer's router."""
    rank = Rank()
    rank.configure(Settings(open_price=price, slope_price=slope, large_batches=large_batches))
    router = rank.router(create(top_k=k, global_num_experts=experts, **kwargs))
    router.place(0, experts)
    rank.layers, rank.statistics = [router.layer], Statistics(1)
    rank.current = Current(thermoe.Prices(np.full(experts, price, np.float32), np.full(experts, slope, np.float32)))
    rank.phase, rank.tokens = "decode", 10**6 if tokens is None else tokens
    return rank, router


def batch(tokens, experts, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(tokens, 16, generator=generator).to(dtype),
            torch.randn(tokens, experts, generator=generator).to(dtype))


@pytest.mark.parametrize("tokens, experts, k, renormalize, score, dtype", CASES)
def test_at_zero_prices_the_answer_is_vllms(factory, tokens, experts, k, renormalize, score, dtype):
    rank, router = rank_of(factory, experts, k, renormalize=renormalize, scoring_func=score)
    hidden, logits = batch(tokens, experts, dtype)
    weights, ids = router.select_experts(hidden, logits, topk_indices_dtype=torch.int64)
    want, chosen = of_torch(logits, k, renormalize, score)
    assert torch.equal(ids, chosen.long()) and torch.equal(weights, want) and ids.dtype == torch.int64
    # and so is the plan, where one is made: the same experts, but for ties of half precisions
    zero = thermoe.Prices(np.zeros(experts, np.float32), np.zeros(experts, np.float32))
    new_ids, new_weights, _, _ = router.layer.planned(Tally(), logits.float().numpy(), [None], zero)
    scores = torch.softmax(logits.float(), -1) if score == "softmax" else torch.sigmoid(logits.float())
    picked = scores.gather(1, torch.from_numpy(new_ids).long())
    assert torch.allclose(picked, scores.gather(1, chosen.long()), atol=1e-6)
    assert np.allclose(new_weights, want, atol=1e-5)


@pytest.mark.parametrize("renormalize", [False, True])
@pytest.mark.parametrize("tokens, experts, k", [(1, 8, 2), (33, 16, 4), (300, 64, 6)])
def test_on_the_cpu_the_answer_is_vllms_own_functions(factory, tokens, experts, k, renormalize):
    from vllm.model_executor.layers.fused_moe.cpu_fused_moe import select_experts

    _, router = rank_of(factory, experts, k, renormalize=renormalize)
    hidden, logits = batch(tokens, experts)
    weights, ids = router.route_on_cpu(hidden, logits, k, renormalize)
    want, chosen = select_experts(hidden, logits, k, False, renormalize)
    assert torch.equal(ids, chosen) and torch.equal(weights, want)


def test_with_prices_the_answer_is_the_plans(factory):
    rank, router = rank_of(factory, 64, 6, price=0.2, slope=0.01)
    hidden, logits = batch(24, 64)
    weights, ids = router.select_experts(hidden, logits)
    plan = thermoe.Router(64, 6).plan(logits.numpy(), rank.current.prices, gate="softmax")
    want, chosen = of_torch(logits, 6, True, "softmax")
    changed = torch.from_numpy(plan.ids.copy()).sort(1).values != chosen.sort(1).values
    assert 0 < changed.any(1).sum() < 24 or changed.any(1).all()
    for t in range(24):
        if changed[t].any():
            assert ids[t].tolist() == plan.ids[t].tolist() and np.array_equal(weights[t], plan.weights[t])
        else:
            assert torch.equal(ids[t], chosen[t]) and torch.equal(weights[t], want[t])
    tally = rank.statistics.layers[0]["decode"]
    assert tally.distinct == plan.report.distinct_experts < tally.top_k_distinct
    assert tally.changed == plan.report.changed_tokens and tally.tokens == 24


def test_what_pads_a_batch_keeps_vllms_answer_and_counts_for_nobody(factory):
    hidden, logits = batch(24, 64)
    alone, router = rank_of(factory, 64, 6, price=0.2)
    want = router.select_experts(hidden[:20], logits[:20])
    padded, router = rank_of(factory, 64, 6, price=0.2, tokens=20)
    logits[20:] = float("nan")  # as a graph's padding may be
    logits[20:, :6] = 1.0
    weights, ids = router.select_experts(hidden, torch.nan_to_num(logits, nan=0.0))
    assert torch.equal(ids[:20], want[1]) and torch.equal(weights[:20], want[0])
    assert ids[20:].sort(1).values.tolist() == [list(range(6))] * 4
    assert padded.statistics.layers[0]["decode"].tokens == alone.statistics.layers[0]["decode"].tokens == 20


def test_a_pass_that_vllm_makes_up_is_left_alone(factory):
    rank, router = rank_of(factory, 64, 6, price=0.2)
    rank.phase = None
    hidden, logits = batch(24, 64)
    assert torch.equal(router.select_experts(hidden, logits)[1], of_torch(logits, 6, True, "softmax")[1])
    assert rank.statistics.layers[0]["decode"].plans == 0


def test_logits_that_are_no_numbers_stay_vllms(factory, caplog):
    """One request's poison must not end an engine that serves others."""
    rank, router = rank_of(factory, 64, 6, price=0.2)
    hidden, logits = batch(24, 64)
    logits[3, 5] = float("nan")
    weights, ids = router.select_experts(hidden, logits)
    assert torch.equal(ids, of_torch(logits, 6, True, "softmax")[1])
    assert rank.refused == 1 and rank.statistics.layers[0]["decode"].plans == 0
    router.select_experts(hidden, torch.nan_to_num(logits))
    assert rank.refused == 1 and rank.statistics.layers[0]["decode"].plans == 1


def test_large_batches_pay_their_tokens_share_of_an_opening(factory):
    hidden, logits = batch(512, 64)
    _, router = rank_of(factory, 64, 6, price=3.0, slope=0.0)
    ids = router.select_experts(hidden, logits)[1]
    assert torch.equal(ids, of_torch(logits, 6, True, "softmax")[1])  # the same share for every expert: no change
    rank, router = rank_of(factory, 64, 6)
    dear = np.zeros(64, np.float32)
    dear[:8] = 3.0  # another rank's experts
    rank.current = Current(thermoe.Prices(dear, np.zeros(64, np.float32)))
    priced = router.select_experts(hidden, logits)[1]
    share = np.float32(3.0 * 64 / (512 * 6))
    alone = thermoe.Router(64, 6).plan(logits.numpy(), thermoe.Prices(slope=np.where(dear > 0, share, 0).astype(
        np.float32)), gate="softmax")
    assert np.array_equal(np.sort(priced.numpy(), 1), np.sort(alone.ids, 1)) and (priced < 8).sum() < (ids < 8).sum()
    _, router = rank_of(factory, 64, 6, price=3.0, large_batches="top-k")
    assert torch.equal(router.select_experts(hidden, logits)[1], ids)


def test_an_inductor_graph_carries_the_plan(factory):
    rank, router = rank_of(factory, 64, 6, price=0.2)
    hidden, logits = batch(24, 64)
    want = router.planned(logits, *of_torch(logits, 6, True, "softmax"))
    compiled = torch.compile(router.planned, backend="aot_eager", fullgraph=True)
    got = compiled(logits, *of_torch(logits, 6, True, "softmax"))
    assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])
    rank.current = Current()  # new prices need no new graph
    assert torch.equal(compiled(logits, *of_torch(logits, 6, True, "softmax"))[1],
                       of_torch(logits, 6, True, "softmax")[1])


@pytest.mark.parametrize("arguments", [
    {"use_grouped_topk": True, "num_expert_group": 8, "topk_group": 4},
    {"e_score_correction_bias": torch.zeros(128), "scoring_func": "sigmoid"},
    {"custom_routing_function": lambda **_: None},
])
def test_routers_that_no_plan_can_stand_for_are_refused(factory, arguments):
    with pytest.raises(thermoe.InvalidArgument, match="serves models whose router takes the top-k"):
        Rank().router(factory(top_k=4, global_num_experts=128, **arguments))


# --- agreement, metrics -------------------------------------------------------------------------


def test_one_rank_agrees_with_itself():
    agree = agreement.Agreement(None, np.ones(4, bool))
    open, slope = agree(np.float32([1, 2, 3, 4]), np.float32([0, 0, 0, 1]))
    assert open.tolist() == [1, 2, 3, 4] and slope.tolist() == [0, 0, 0, 1]


def _one_of_two(rank, path, results):
    torch.distributed.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    mine = np.zeros(6, bool)
    mine[[0, 1] if rank == 0 else [2, 3]] = True  # 4 and 5 are held by another group
    agree = agreement.Agreement(torch.distributed.group.WORLD, mine)
    for own in ((1.0, 0.1), (5.0, 0.0)) if rank == 0 else ((2.0, 0.3), (0.0, 0.2)):
        results.put((rank, [a.tolist() for a in agree(np.full(6, own[0], np.float32), np.full(6, own[1], np.float32))]))
    everywhere = agreement.Agreement(torch.distributed.group.WORLD, np.ones(6, bool))
    results.put((rank, [a.tolist() for a in everywhere(np.full(6, 1.0 + rank, np.float32), np.zeros(6, np.float32))]))


def test_two_ranks_price_each_their_own_experts(tmp_path):
    results = torch.multiprocessing.get_context("spawn").SimpleQueue()
    torch.multiprocessing.spawn(_one_of_two, (str(tmp_path / "meet"), results), nprocs=2)
    got = {0: [], 1: []}
    for _ in range(6):
        rank, prices = results.get()
        got[rank].append(prices)
    assert got[0] == got[1]
    first, second, everywhere = got[0]
    assert first[0] == [1, 1, 2, 2, 2, 2] and np.allclose(first[1], [0.1, 0.1, 0.3, 0.3, 0.3, 0.3])
    assert second[0] == [5, 5, 0, 0, 5, 5] and np.allclose(second[1], [0, 0, 0.2, 0.2, 0.2, 0.2])
    assert everywhere[0] == [2] * 6


def test_metrics_stand_beside_vllms():
    import prometheus_client

    registry = prometheus_client.CollectorRegistry()
    metrics, total = Metrics(3, registry), Tally()
    total.add(tokens=10, pairs=80, distinct=30, top_k_distinct=40, changed=4)
    metrics.update(Tick(1.0, 450.0, None, None, 2000.0, 0.05), {"decode": total.copy()})
    total.add(tokens=10, pairs=80, distinct=31, top_k_distinct=40, changed=2)
    metrics.update(None, {"decode": total.copy()})
    labels = {"rank": "3", "phase": "decode"}
    assert registry.get_sample_value("thermoe:distinct_experts_total", labels) == 61
    assert registry.get_sample_value("thermoe:changed_tokens_total", labels) == 6
    assert registry.get_sample_value("thermoe:power_watts", {"rank": "3"}) == 450
    assert registry.get_sample_value("thermoe:step_latency_seconds", {"rank": "3"}) == 0.002
    assert registry.get_sample_value("thermoe:open_price", {"rank": "3"}) == 0.05


# --- the engine ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """Runs vllm_nano.py with thermoe installed as pip would: the package's entry points beside it on the path."""
    folder = tmp_path_factory.mktemp("vllm")
    info = folder / f"thermoe-{thermoe.__version__}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: thermoe\nVersion: {thermoe.__version__}\n")
    points = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["entry-points"]
    (info / "entry_points.txt").write_text("".join(
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in named.items())
        for group, named in points.items()))

    def run(*arguments, check=True, **variables):
        own = str(pathlib.Path(thermoe.__file__).parents[1])
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([own, str(folder), os.environ.get("PYTHONPATH", "")]),
            "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind", "TORCHDYNAMO_DISABLE": "1", "VLLM_LOGGING_LEVEL": "WARNING", "VLLM_CACHE_ROOT": str(folder / "cache"),
            "VLLM_CONFIG_ROOT": str(folder / "config")}
        environment |= {settings.PREFIX + name: str(value) for name, value in variables.items()}
        done = subprocess.run([sys.executable, str(HERE / "vllm_nano.py"), *map(str, arguments)], env=environment,
                              capture_output=True, text=True, timeout=600)
        if not check:
            return done
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
        return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("[[[")))  # vLLM logs there

    return run


@pytest.fixture(scope="module")
def plain(engine):
    return engine(1)[0]


def test_an_engine_at_zero_prices_says_what_vllm_says(engine, plain, tmp_path):
    report = tmp_path / "rank-{rank}.json"
    at_zero, priced, again = engine(1, 0.15, 0.0, OPEN_PRICE=0, REPORT=report, AGREE_STEPS=1)
    assert at_zero == plain and again == plain and priced != plain
    told = json.loads((tmp_path / "rank-0.json").read_text())
    assert told["layers"] == 6 and told["experts"] == 32 and told["top_k"] == 4 and told["error"] is None
    decode, prefill = told["decode"], told["prefill"]
    assert decode["passes"] >= 3 * 23 and decode["tokens"] >= 3 * 23 * 7 and prefill["tokens"] > 0
    assert decode["distinct_experts"] < decode["top_k_distinct_experts"]
    assert 0.9 < decode["gate_mass_frac"] < 1 and 0 < decode["changed_tokens_frac"] < 1


def test_two_ranks_make_one_plan_under_a_simulated_cap(engine, plain, tmp_path):
    """Tensor parallelism: each rank has its own twin and governor, and both route every token."""
    generated = engine(2, STEP_LATENCY_TARGET_US=5, MONITOR="twin", INTERVAL_S=0.01, AGREE_STEPS=2, MAX_OPEN_PRICE=0.2,
                       REPORT=tmp_path / "rank-{rank}.json")[0]
    told = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
    assert told[0]["decode"] == told[1]["decode"] and told[0]["prefill"] == told[1]["prefill"]
    assert told[0]["open_price"] == told[1]["open_price"] > 0
    assert told[0]["decode"]["distinct_experts"] < told[0]["decode"]["top_k_distinct_experts"]
    assert all(t["error"] is None and t["source"].startswith("twin") and t["power_w"] > 0 for t in told)
    assert [len(tokens) for tokens, _ in generated] == [24] * len(plain)


def test_settings_that_are_none_end_the_start(engine):
    done = engine(1, check=False, POWER_CAP="500")
    assert done.returncode != 0 and "power_cap is no setting: known are power_cap_w" in done.stderr + done.stdout
