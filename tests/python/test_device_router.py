"""Plans on a GPU from Python: what goes in and what is taken over, with a stand-in for the launch; and, where there is a
GPU, the launch itself: the CPU's plans, in a graph that sees new prices, at a few microseconds of the host."""

import contextlib
import time
import types

import numpy as np
import pytest
import thermoe

torch = pytest.importorskip("torch")
from thermoe.serving.device_router import DevicePrices, DeviceRouter, opening_share  # noqa: E402
from thermoe.serving.layer_router import LayerRouter  # noqa: E402

GPU = torch.cuda.is_available() and thermoe.has_cuda()
EXPERTS, TOP_K = 64, 6


class Launches:
    """In place of a Router that launches: plans on the CPU what lies there, and writes all of `out`."""

    def __init__(self, router):
        self._router, self.scores, self.prices = router, [], []

    def workspace_bytes(self, tokens):
        return 16 * tokens

    def plan(self, scores, prices, *, out, gate, workspace, stream):
        assert stream == 7 and workspace.shape == (16 * len(scores),)
        self.scores.append(scores.clone())
        self.prices.append(prices)
        assert len(scores) <= 256 or prices.open is None  # of which the launch reads none
        read = thermoe.Prices(None if prices.open is None else prices.open.numpy(), prices.slope.numpy())
        plan = self._router.plan(scores.float().numpy(), read, gate=gate)
        for name in ("ids", "instances", "weights", "changed", "offsets", "packed"):
            getattr(out, name).copy_(torch.from_numpy(np.asarray(getattr(plan, name))))


@pytest.fixture
def launched(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: types.SimpleNamespace(cuda_stream=7))
    layer = LayerRouter(0, EXPERTS, TOP_K, True)
    layer.router = Launches(thermoe.Router(EXPERTS, TOP_K))
    return DeviceRouter(layer), layer.router


def batch(tokens, dtype=torch.float32, device="cpu", seed=3):
    logits = torch.randn(tokens, EXPERTS, generator=torch.Generator().manual_seed(seed)).to(dtype).to(device)
    weights, ids = torch.topk(torch.softmax(logits.float(), -1), TOP_K)
    return logits, weights / weights.sum(-1, keepdim=True), ids


def prices_of(open, slope=0.0, device="cpu"):
    prices = DevicePrices(EXPERTS, device)
    prices.set(thermoe.Prices(np.full(EXPERTS, open, np.float32), np.full(EXPERTS, slope, np.float32)))
    return prices


def test_what_the_plan_changes_is_taken_over_and_nothing_else(launched):
    router, _ = launched
    logits, weights, ids = batch(24)
    new_weights, new_ids = router.plan(prices_of(0.1), logits, weights, ids)
    plan = thermoe.Router(EXPERTS, TOP_K).plan(logits.numpy(), thermoe.Prices(np.full(EXPERTS, 0.1, np.float32)),
                                               gate="softmax")
    changed = np.asarray(plan.changed) != 0
    assert 0 < changed.sum() < 24 and new_ids.dtype == ids.dtype
    assert np.array_equal(new_ids[changed], plan.ids[changed]) and np.array_equal(new_weights[changed],
                                                                                  plan.weights[changed])
    assert torch.equal(new_ids[~changed], ids[~changed]) and torch.equal(new_weights[~changed], weights[~changed])


def test_at_zero_prices_all_is_kept(launched):
    router, _ = launched
    logits, weights, ids = batch(24, torch.bfloat16)
    prices = prices_of(0.3)
    prices.set(None)
    new_weights, new_ids = router.plan(prices, logits, weights.bfloat16(), ids)
    assert torch.equal(new_ids, ids) and torch.equal(new_weights, weights.bfloat16())


def test_new_prices_take_the_place_of_old_ones():
    prices = DevicePrices(EXPERTS, "cpu")
    random = np.random.default_rng(1)
    for n in range(40):
        given = None if n % 5 == 0 else thermoe.Prices(random.random(EXPERTS, np.float32),
                                                       None if n % 3 else random.random(EXPERTS, np.float32))
        for _ in range(1 + n % 2):  # the same again
            prices.set(given)
            for seen, name in ((prices.open, "open"), (prices.slope, "slope")):
                want = None if given is None else getattr(given, name)
                assert np.array_equal(seen, np.zeros(EXPERTS) if want is None else want)


def test_padding_is_worth_no_price(launched):
    """Rows of garbage beside real ones: these are planned as if alone, those keep what they have."""
    router, launches = launched
    logits, weights, ids = batch(40)
    logits[30:] = float("nan")
    real = torch.arange(40) < 30
    new_weights, new_ids = router.plan(prices_of(0.1), logits, weights, ids, mask=real)
    alone = router.plan(prices_of(0.1), logits[:30], weights[:30], ids[:30])
    assert torch.equal(new_ids[:30], alone[1]) and torch.equal(new_weights[:30], alone[0])
    assert torch.equal(new_ids[30:], ids[30:]) and torch.equal(new_weights[30:], weights[30:])
    assert torch.isfinite(launches.scores[0]).all() and not launches.scores[0][30:].any()


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("open_price", [0.02, 0.1, 0.5])
def test_padding_never_moves_a_plan(launched, seed, open_price):
    router, _ = launched
    logits, weights, ids = batch(32, seed=seed)
    count = 1 + seed
    padded = router.plan(prices_of(open_price, 0.01), logits, weights, ids, count=torch.tensor(count, dtype=torch.int32))
    alone = router.plan(prices_of(open_price, 0.01), logits[:count], weights[:count], ids[:count])
    assert torch.equal(padded[1][:count], alone[1])


def test_large_batches_pay_a_share_of_the_opening(launched):
    router, launches = launched
    logits, weights, ids = batch(300)
    router.plan(prices_of(0.6, 0.01), logits, weights, ids)
    want = np.float32(0.01) + np.float32(0.6) * opening_share(300, EXPERTS, TOP_K)
    assert np.allclose(launches.prices[0].slope.numpy(), want, rtol=1e-6)


def test_logits_with_a_gradient_are_read(launched):
    router, launches = launched
    logits, weights, ids = batch(8)
    router.plan(prices_of(0.1), logits.requires_grad_(), weights, ids)
    assert not launches.scores[0].requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("id_type", [torch.int32, torch.int64])
def test_half_precision_and_both_types_of_ids_are_taken(launched, dtype, id_type):
    router, launches = launched
    logits, weights, ids = batch(8, dtype)
    new_weights, new_ids = router.plan(prices_of(0.1), logits, weights.to(dtype), ids.to(id_type))
    assert launches.scores[0].dtype == torch.float32 and torch.equal(launches.scores[0], logits.float())
    assert new_weights.dtype == dtype and new_ids.dtype == id_type
    plan = thermoe.Router(EXPERTS, TOP_K).plan(logits.float().numpy(), thermoe.Prices(np.full(EXPERTS, 0.1, np.float32)),
                                               gate="softmax")
    changed = torch.from_numpy(np.asarray(plan.changed)) != 0
    assert changed.any() and torch.equal(new_weights[changed], torch.from_numpy(plan.weights.copy()).to(dtype)[changed])


def test_a_row_that_is_no_number_keeps_what_it_has(launched):
    router, launches = launched
    logits, weights, ids = batch(12)
    logits[4, 7], logits[9, 0] = float("nan"), float("-inf")
    new_weights, new_ids = router.plan(prices_of(0.3), logits, weights, ids)
    for row in (4, 9):
        assert torch.equal(new_ids[row], ids[row]) and torch.equal(new_weights[row], weights[row])
        assert not launches.scores[0][row].any()
    assert not torch.equal(new_ids, ids)


def test_rows_apart_are_read_where_they_are(launched):
    router, _ = launched
    logits, weights, ids = batch(24)
    apart = router.plan(prices_of(0.1), logits[1::3], weights[1::3], ids[1::3])
    alone = router.plan(prices_of(0.1), logits[1::3].clone(), weights[1::3].clone(), ids[1::3].clone())
    assert torch.equal(apart[0], alone[0]) and torch.equal(apart[1], alone[1])


def test_more_tokens_than_a_launch_takes_are_cut(launched, monkeypatch):
    from thermoe.serving import device_router

    router, launches = launched
    logits, weights, ids = batch(700)
    whole = router.plan(prices_of(0.6, 0.05), logits, weights, ids)
    monkeypatch.setattr(device_router, "_MOST_TOKENS", 300)
    cut = router.plan(prices_of(0.6, 0.05), logits, weights, ids)
    assert [len(scores) for scores in launches.scores] == [700, 300, 300, 100]
    assert torch.equal(cut[0], whole[0]) and torch.equal(cut[1], whole[1])


def test_at_zero_prices_only_captures_and_first_batches_are_planned(launched, monkeypatch):
    router, _ = launched
    capturing = False
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
    assert router.needed(8, False) and not router.needed(8, False) and router.needed(8, True)
    assert router.needed(16, False) and not router.needed(16, False) and not router.needed(0, True)
    capturing = True
    assert router.needed(8, False)


# --- on a GPU -----------------------------------------------------------------------------------

on_gpu = pytest.mark.skipif(not GPU, reason="no GPU, or a build without CUDA")


@on_gpu
@pytest.mark.parametrize("tokens", [1, 2, 16, 64, 200, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_launch_plans_as_the_cpu(tokens, dtype):
    logits, weights, ids = batch(tokens, dtype, "cuda")
    layer = LayerRouter(0, EXPERTS, TOP_K, True)
    _, new_ids = DeviceRouter(layer).plan(prices_of(0.1, 0.01, "cuda"), logits, weights, ids)
    price = np.full(EXPERTS, 0.1, np.float32)
    plan = layer.router.plan(logits.float().cpu().numpy(), thermoe.Prices(price, price * np.float32(0.1)),
                             gate="softmax")
    # exponentials differ in the last bit: at a close call a token may differ
    same = (np.sort(new_ids.cpu().numpy(), 1) == np.sort(plan.ids, 1)).all(1)
    assert same.mean() > 0.97


@on_gpu
def test_a_captured_graph_sees_new_prices_and_tokens():
    logits, weights, ids = batch(32, device="cuda")
    router, prices = DeviceRouter(LayerRouter(0, EXPERTS, TOP_K, True)), prices_of(0.0, device="cuda")
    count = torch.full((), 32, dtype=torch.int32, device="cuda")

    def step():
        return router.plan(prices, logits, weights, ids, count=count)

    step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = step()
    for open_price, tokens in ((0.0, 32), (0.1, 32), (0.1, 20), (0.0, 20)):
        prices.set(thermoe.Prices(np.full(EXPERTS, open_price, np.float32)))
        count.fill_(tokens)
        graph.replay()
        want = step()
        torch.cuda.synchronize()
        assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])
        assert torch.equal(got[1][tokens:], ids[tokens:]) and (open_price > 0 or torch.equal(got[1], ids))


@on_gpu
@pytest.mark.parametrize("tokens", [1, 16, 64])
def test_a_plan_costs_the_host_microseconds(tokens):
    """Router.plan alone, into arrays that are kept: no synchronisation, 10 us at most."""
    logits, _, _ = batch(tokens, torch.bfloat16, "cuda")
    router, prices = thermoe.Router(EXPERTS, TOP_K), prices_of(0.05, device="cuda")
    out = DeviceRouter(LayerRouter(0, EXPERTS, TOP_K, True))._out(tokens, logits.device)
    given = thermoe.Prices(prices.open, prices.slope)
    workspace = torch.empty(router.workspace_bytes(tokens), dtype=torch.uint8, device="cuda")
    stream = torch.cuda.current_stream().cuda_stream
    samples = []
    for _ in range(300):
        start = time.perf_counter()
        router.plan(logits, given, out=out, gate="softmax", stream=stream, workspace=workspace)
        samples.append(time.perf_counter() - start)
        torch.cuda.synchronize()
    median_us = sorted(samples)[150] * 1e6
    print(f"{tokens} tokens: {median_us:.1f} us of the host")
    assert median_us < 10
