"""Telemetry, costs, prices and a plan, in Python."""

import numpy as np
import thermoe

TOKENS, EXPERTS, SLOTS = 16, 128, 8

monitor = thermoe.Monitor("twin")  # a simulated GPU; "nvml:0" is a real one
costs = thermoe.CostModel(shape="qwen3-30b-a3b")
governor = thermoe.Governor(costs.surrogate(TOKENS), layer_latency_target_us=250)
router = thermoe.Router(EXPERTS, SLOTS)

t, e = np.mgrid[:TOKENS, :EXPERTS]
logits = (2 * np.sin((7 * t + 3) * (5 * e + 2))).astype(np.float32)
latency_us = None
for _ in range(20):
    state = monitor.poll()
    governor.update(state, 0.1, latency_us)
    plan = router.plan(logits, governor.prices(EXPERTS), gate="softmax")
    layer = costs.layer(TOKENS, plan.report.distinct_experts, plan.report.used_pairs, state)
    monitor.advance(layer, 0.1)
    latency_us = layer.latency_us
report = plan.report
print(f"thermoe {thermoe.__version__}, {monitor.source}: {report.distinct_experts} experts, not "
      f"{report.top_k_distinct_experts}; gate mass kept {report.gate_mass_frac:.4f}; gap {report.gap_frac:g}; "
      f"{latency_us:.1f} us a layer")
