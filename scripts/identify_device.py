#!/usr/bin/env python3
"""Identifies a GPU's power and thermal parameters from a recorded trace. Deterministic; by hand.

    scripts/identify_device.py --telemetry data/telemetry --out data/profiles

Reads h100-sxm-700w.csv and works.json, writes <device>-power.json, and prints the residuals and the
cross-validation that docs/device-model.md reports. Needs numpy and scipy.
"""
import argparse
import csv
import json
import pathlib

import numpy as np
from scipy.optimize import least_squares
from scipy.signal import lfilter

TRACE = "h100-sxm-700w.csv"
# Assumptions that the trace can't identify (docs/device-model.md).
CLOCK_MAX, CLOCK_MIN, CLOCK_KNEE, VOLTAGE_FLOOR = 1980.0, 345.0, 1050.0, 0.72
GEMM_TFLOPS = 673.0  # measured beside the trace, 8192^3 bf16 at the cap
UNKNOWN_SHARE = 0.5  # the memory's, of the power above idle, where nothing tells
LEAKAGE_REFERENCE_C = 44.0
GRID_S = 0.05  # of the thermal simulation; rows come every 25 ms
# What the shipped thermal parameters were fitted to, in seconds of the trace. Held out: the copy's
# second half and the cooling after it, and the layers with 32 and with 128 experts.
FITTED = [(0.0, 61.0), (76.2, 90.67), (96.77, 102.87)]
FOLDS = [(3.0, 43.02), (43.02, 51.02), (51.02, 71.03), (71.03, 84.62), (84.62, 96.77),
         (96.77, 110.0)]
HORIZON_S, HISTORY_S = 30.0, 5.0


def read_trace(path):
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    columns = {c: np.array([float(r[c]) for r in rows]) for c in rows[0] if c != "phase"}
    return columns, np.array([r["phase"] for r in rows])


def phase_means(trace, phases, name, skip_s):
    """Mean power by the energy counter, temperature and clock of a phase after its first skip_s."""
    index = np.flatnonzero(phases == name)
    index = index[trace["time_s"][index] >= trace["time_s"][index[0]] + skip_s]
    changes = index[1:][np.diff(trace["energy_mj"][index]) > 0]
    first, last = changes[0], changes[-1]
    power = (trace["energy_mj"][last] - trace["energy_mj"][first]) / 1e3 / (
        trace["time_s"][last] - trace["time_s"][first])
    return power, trace["temp_c"][index].mean(), trace["sm_clock_mhz"][index].mean()


def voltage_frac(clock):
    x = np.clip((clock - CLOCK_KNEE) / (CLOCK_MAX - CLOCK_KNEE), 0, 1)
    return VOLTAGE_FLOOR + (1 - VOLTAGE_FLOOR) * x


# --- Power ---------------------------------------------------------------------------------------


def power_points(trace, phases, works):
    """(phase, power, temperature, [SM activity, TB/s, TFLOP/s]), the rates at that clock's V^2."""
    work = {w["prefix"]: w for w in works["works"]}
    points = []
    moe = work["moe_B"]
    params = 3 * moe["hidden_size"] * moe["expert_inter_size"]
    for distinct, latency in zip(moe["distinct_experts"], moe["latency_us"]):
        name = f"moe_B16_d{distinct}"
        power, temp, clock = phase_means(trace, phases, name, 1.5)
        rate, v2 = distinct / latency * 1e-6, voltage_frac(clock) ** 2  # experts a second, 1e-12
        points.append((name, power, temp, [clock / CLOCK_MAX * v2, rate * params * 2,
                                           rate * moe["tile_rows"] * 2 * params * v2]))
    power, temp, _ = phase_means(trace, phases, "copy_2GiB", 2)
    points.append(("copy_2GiB", power, temp, [0.0, work["copy_"]["bytes_per_s"] * 1e-12, 0.0]))
    power, temp, clock = phase_means(trace, phases, "gemm_bf16_8192", 5)
    v2 = voltage_frac(clock) ** 2
    traffic = GEMM_TFLOPS / (2 * 8192**3) * 8192**2 * 2 * 3  # operands and result once
    points.append(("gemm_bf16_8192", power, temp,
                   [clock / CLOCK_MAX * v2, traffic, GEMM_TFLOPS * v2]))
    return points


def fit_dynamic(points, quiescent_w):
    a = np.array([p[3] for p in points])
    y = np.array([p[1] for p in points]) - quiescent_w(np.array([p[2] for p in points]))
    return least_squares(lambda x: (a @ x - y) / y, [100, 100, 1], bounds=(0, np.inf)).x


def fit_power(trace, phases, works):
    idle = (phases == "idle") & (trace["time_s"] > 1.5)
    cool = (phases == "cool") & (trace["time_s"] > 44.5) & (trace["time_s"] < 51)
    quiet = idle | cool
    leakage, at_zero = np.polyfit(trace["temp_c"][quiet], trace["power_instant_w"][quiet], 1)
    idle_w = at_zero + leakage * LEAKAGE_REFERENCE_C

    def quiescent_w(temp):
        return at_zero + leakage * temp

    points = power_points(trace, phases, works)
    sm, byte, flop = (float(x) for x in fit_dynamic(points, quiescent_w))
    print(f"idle {idle_w:.1f} W at {LEAKAGE_REFERENCE_C:.0f} C, leakage {leakage:.3f} W/C; "
          f"SMs {sm:.1f} W, {byte:.1f} pJ/B, {flop:.3f} pJ/FLOP")
    residuals = {}
    for i, (name, power, temp, rates) in enumerate(points):
        fitted = quiescent_w(temp) + np.dot(rates, [sm, byte, flop])
        others = fit_dynamic(points[:i] + points[i + 1:], quiescent_w)
        left_out = quiescent_w(temp) + np.dot(rates, others)
        residuals[name] = round(float(fitted / power - 1), 4)
        print(f"  {name:16s} {power:6.1f} W recorded, {fitted:6.1f} fitted, {left_out:6.1f} fitted "
              "without it")
    shares = {name: byte * rates[1] / (power - idle_w) for name, power, _, rates in points}
    return {"idle_w": idle_w, "leakage_w_per_c": leakage,
            "leakage_reference_c": LEAKAGE_REFERENCE_C, "sm_active_w": sm,
            "energy_per_byte_pj": byte, "energy_per_flop_pj": flop}, residuals, shares


# --- Heat ----------------------------------------------------------------------------------------


class ThermalData:
    """The trace on a regular grid: power from the energy counter, and the memory's share of it."""

    def __init__(self, trace, phases, idle_w, shares):
        time, energy = trace["time_s"], trace["energy_mj"] / 1e3
        self.time = np.arange(0, time[-1], GRID_S)
        change = np.r_[0, np.flatnonzero(np.diff(energy)) + 1]
        power = np.diff(np.interp(self.time, time[change], energy[change])) / GRID_S
        self.power = np.r_[power[0], power]
        row = np.searchsorted(time, self.time, side="right") - 1
        self.temp, self.phase = trace["temp_c"][row], phases[row]
        self.hbm_temp = trace["mem_temp_c"][row]
        share = np.array([shares.get(p, UNKNOWN_SHARE) for p in self.phase])
        self.above_idle = np.clip(self.power - idle_w, 0, None)
        self.memory = share * self.above_idle

    def inside(self, spans):
        return np.any([(self.time >= a) & (self.time < b) for a, b in spans], axis=0)


def low_pass(values, tau, start):
    decay = np.exp(-GRID_S / tau)
    return lfilter([1 - decay], [1, -decay], values, zi=[decay * start])[0]


class ThermalFit:
    """`poles` poles; `split`: the first pole doesn't see a fraction of the memory's power."""

    def __init__(self, data, rows, poles, split):
        self.data, self.poles, self.split = data, poles, split
        n = poles
        taus = {2: [0.25, 18], 3: [0.2, 3.5, 60]}[n]
        start = np.r_[35, np.full(n, 0.05 / n), np.log(taus), np.full(n, 0.7), 0.4]
        low = np.r_[15, np.zeros(n), np.full(n, np.log(0.05)), np.full(n, -1), -1e-9]
        high = np.r_[50, np.full(n, 0.1), np.full(n, np.log(80)), np.full(n, 5),
                     1 if split else 1e-9]
        start = np.clip(start, low + 1e-10, high - 1e-10)
        fit = least_squares(lambda x: self.distance(self.simulate(x)[rows] - data.temp[rows]),
                            start, bounds=(low, high), loss="soft_l1", f_scale=0.5, max_nfev=300)
        x = fit.x
        order = np.argsort(x[1 + n:1 + 2 * n])
        self.inlet, self.bypass = x[0], x[-1] if split else 0.0
        self.resistance, self.tau = x[1:1 + n][order], np.exp(x[1 + n:1 + 2 * n])[order]
        self.error = self.simulate(x) - data.temp

    @staticmethod
    def distance(error):
        """From the interval that a whole degree stands for; its middle is preferred a little."""
        return np.sign(error) * np.maximum(np.abs(error) - 0.5, 0) + 0.1 * error

    def heat(self, pole, bypass):
        return self.data.power - (bypass * self.data.memory if pole == 0 else 0)

    def simulate(self, x):
        n = self.poles
        out = np.full_like(self.data.power, x[0])
        for i in range(n):  # rises at the start as multiples of those at 700 W
            out += x[1 + i] * low_pass(self.heat(i, x[-1]), np.exp(x[1 + n + i]),
                                       700 * x[1 + 2 * n + i])
        return out

    def forecast(self):
        """The observer's forecasts HORIZON_S ahead (src/cost/thermal_observer.cpp), from every row
        after HISTORY_S."""
        n, steps = self.poles, round(HORIZON_S / GRID_S)
        heat = np.array([r * self.heat(i, self.bypass) for i, r in enumerate(self.resistance)]).T
        decay = np.r_[np.exp(-GRID_S / self.tau), 1.0]
        state = np.r_[heat[0], self.inlet]
        cov = np.diag(np.r_[np.full(n, 100.0), 25.0])
        walk = np.r_[np.full(n, 0.07**2), 0.1**2] * GRID_S
        states = np.empty((len(heat), n + 1))
        for k, temp in enumerate(self.data.temp):
            if k:
                state = decay * state
                state[:n] += (1 - decay[:n]) * heat[k]
                cov = decay[:, None] * cov * decay + np.diag(walk)
            column = cov.sum(0)
            gain = column / (column.sum() + 1 / 12 / GRID_S)
            state = state + gain * (temp - state.sum())
            cov = cov - np.outer(gain, column)
            states[k] = state
        out = states[:-steps, n].copy()
        for i in range(n):
            response = low_pass(heat[:, i], self.tau[i], 0.0)
            left = np.exp(-HORIZON_S / self.tau[i])
            out += states[:-steps, i] * left + response[steps:] - left * response[:-steps]
        error = np.full(len(heat), np.nan)
        error[steps:] = out - self.data.temp[steps:]
        error[self.data.time < HISTORY_S + HORIZON_S] = np.nan
        return error

    def text(self):
        return (f"inlet {self.inlet:.1f} C, R {self.resistance.round(4)} C/W, tau "
                f"{self.tau.round(2)} s, bypass {self.bypass:.2f}")


def mae(error, rows=slice(None)):
    return float(np.nanmean(np.abs(error[rows])))


def cross_validate(data):
    """Each fold's temperatures forecast by a model fitted to the rows of the others."""
    for poles, split in ((2, False), (3, False), (2, True), (3, True)):
        errors = np.full(len(data.time), np.nan)
        for fold in FOLDS:
            rows = data.inside([fold])
            fit = ThermalFit(data, ~rows, poles, split)
            errors[rows] = fit.forecast()[rows]
            if poles == 3 and split:
                print(f"    without {fold[0]:.0f} to {fold[1]:.0f} s: {fit.text()}")
        phases = [f"{p} {mae(errors, data.phase == p):.2f}" for p in dict.fromkeys(data.phase)
                  if not np.all(np.isnan(errors[data.phase == p]))]
        print(f"  {poles} poles, memory's power {'apart' if split else 'alike'}: {mae(errors):.2f} C "
              f"({', '.join(phases)})")


def fit_share_sensor(data, shares):
    """The memory's share from how much hotter its sensor is than the die's, per watt."""
    x, y = [], []
    for phase, share in shares.items():
        rows = np.flatnonzero((data.phase == phase) & data.inside(FITTED))
        if len(rows) == 0:
            continue
        rows = rows[len(rows) // 2:]
        x.append(np.mean(data.hbm_temp[rows] - data.temp[rows]) / np.mean(data.above_idle[rows]))
        y.append(share)
    slope, offset = np.polyfit(x, y, 1)
    print(f"share of the memory: {offset:.3f} + {slope:.2f} W/C (T_memory - T_die) / P above idle; "
          f"largest error {np.abs(np.polyval([slope, offset], x) - y).max():.3f}")
    return {"share_sensor_offset": float(offset), "share_sensor_w_per_c": float(slope)}


def fit_thermal(trace, phases, idle_w, shares):
    data = ThermalData(trace, phases, idle_w, shares)
    print(f"{HORIZON_S:.0f} s ahead, leaving a block of the trace out of the fit, mean absolute error:")
    cross_validate(data)
    fitted = data.inside(FITTED)
    fit = ThermalFit(data, fitted, 3, True)
    ahead = fit.forecast()
    print(f"shipped: {fit.text()}\n  open loop over the trace {mae(fit.error):.2f} C; "
          f"{HORIZON_S:.0f} s ahead {mae(ahead, fitted):.2f} C on fitted rows, "
          f"{mae(ahead, ~fitted):.2f} C on held-out rows")
    thermal = {"inlet_c": rounded(fit.inlet), "memory_bypass_frac": rounded(fit.bypass),
               "thermal_poles": [{"resistance_c_per_w": rounded(r), "time_constant_s": rounded(t)}
                                 for r, t in zip(fit.resistance, fit.tau)],
               **{k: rounded(v) for k, v in fit_share_sensor(data, shares).items()}}
    return thermal, {"fitted_rows_c": round(mae(ahead, fitted), 3),
                     "held_out_rows_c": round(mae(ahead, ~fitted), 3)}


# --- Files ---------------------------------------------------------------------------------------


def rounded(value):
    return float(f"{value:.5g}")


def profile(device, provenance, parameters, **more):
    return {"schema": "thermoe-power-profile", "version": 1, "device": device,
            "provenance": provenance, **more, "parameters": parameters}


def transferred(h100, *, limit_w, clock_max, clock_min, memory, tensor, thresholds):
    """The H100's parameters for a board of another size: watts in proportion to the power limits,
    thermal resistances against it (cooling is made for the limit), energies unchanged."""
    scale = limit_w / h100["power_limit_w"]
    out = {k: v for k, v in h100.items() if not k.endswith(("slowdown_c", "margin_c"))
           and k != "margin_zero_c"}
    out.update(thresholds, power_limit_w=limit_w, clock_max_mhz=clock_max, clock_min_mhz=clock_min,
               clock_knee_mhz=rounded(CLOCK_KNEE * clock_max / CLOCK_MAX),
               memory_bytes_per_s=memory, tensor_flops_per_s=tensor)
    for key in ("idle_w", "sm_active_w", "leakage_w_per_c", "share_sensor_w_per_c"):
        out[key] = rounded(h100[key] * scale)
    out["thermal_poles"] = [{**p, "resistance_c_per_w": rounded(p["resistance_c_per_w"] / scale)}
                            for p in h100["thermal_poles"]]
    return out


def power_profiles(folder):
    trace, phases = read_trace(folder / TRACE)
    works = json.loads((folder / "works.json").read_text())
    gemm_clock = phase_means(trace, phases, "gemm_bf16_8192", 5)[2]
    power, residuals, shares = fit_power(trace, phases, works)
    thermal, ahead = fit_thermal(trace, phases, power["idle_w"], shares)
    # As margins: the driver reports the distance to the limit, 0 at 87 C (50 was read at 37 C).
    margins = {"margin_zero_c": 87.0, "slowdown_margin_c": 0.0, "hardware_slowdown_margin_c": -2.0}
    h100 = {"clock_max_mhz": CLOCK_MAX, "clock_min_mhz": CLOCK_MIN, "clock_knee_mhz": CLOCK_KNEE,
            "voltage_floor_frac": VOLTAGE_FLOOR, "power_limit_w": 700.0, **margins,
            "memory_bytes_per_s": 3.35e12,  # peak (data sheet), for rooflines
            # The measured GEMM's rate, scaled from its clock to the maximum.
            "tensor_flops_per_s": round(GEMM_TFLOPS * CLOCK_MAX / gemm_clock) * 1e12,
            **{k: rounded(v) for k, v in power.items()}, **thermal}
    scaled = "transferred from the H100's profile, watts scaled by the power limit"
    return {
        "h100-sxm-power.json": profile(
            "NVIDIA H100 80GB HBM3",
            {"origin": f"data/telemetry/{TRACE}, recorded for this project",
             "identified": sorted([*power, *thermal]),
             "assumed": ["clock_knee_mhz", "voltage_floor_frac"],
             "thermal_fit": {"trace": TRACE, "rows_s": [list(span) for span in FITTED]}},
            h100, residuals_frac=residuals, temperature_30s_ahead_mean_absolute_error=ahead),
        "h200-sxm-power.json": profile(
            "NVIDIA H200",
            {"origin": "transferred from the H100's profile: the same processor die",
             "identified": [], "datasheet": ["power_limit_w", "memory_bytes_per_s"],
             "assumed": "all others"},
            {**h100, "memory_bytes_per_s": 4.8e12}),
        "a100-sxm-power.json": profile(
            "NVIDIA A100-SXM4-80GB",
            {"origin": scaled, "identified": [],
             "datasheet": ["power_limit_w", "memory_bytes_per_s", "tensor_flops_per_s"],
             "driver": ["clock_max_mhz", "clock_min_mhz", "slowdown_c", "hardware_slowdown_c"],
             "assumed": "all others"},
            transferred(h100, limit_w=400.0, clock_max=1410.0, clock_min=210.0, memory=2.039e12,
                        tensor=312e12, thresholds={"slowdown_c": 85.0, "hardware_slowdown_c": 89.0})),
        "b200-sxm-power.json": profile(
            "NVIDIA B200",
            {"origin": scaled, "identified": [],
             "datasheet": ["power_limit_w", "memory_bytes_per_s", "tensor_flops_per_s"],
             "driver": ["clock_max_mhz"], "assumed": "all others"},
            transferred(h100, limit_w=1000.0, clock_max=1965.0, clock_min=345.0, memory=8e12,
                        tensor=2250e12, thresholds=margins)),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--telemetry", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    for name, content in power_profiles(args.telemetry).items():
        (args.out / name).write_text(json.dumps(content, indent=1) + "\n")
        print(args.out / name)


if __name__ == "__main__":
    main()
