"""What an attachment did, as a dict and as a table."""

from ..serving import report
from ..serving.report import mean
from ..serving.statistics import PHASES


class Report(report.Report):
    """A dict of plain values (units in the keys), printed as a table. None: not known."""

    def __str__(self):
        lines = [f"{self['model']}: {self['layers']} MoE layers of {self['experts']} experts, top {self['top_k']}, "
                 f"{self['variants']}"]
        for phase in PHASES:
            part = self[phase]
            if part["passes"]:
                lines.append(
                    f"  {phase:8}{part['passes']:6} passes {part['tokens']:8} tokens  "
                    f"{_number(part['distinct_experts'], '.1f')} of {_number(part['top_k_distinct_experts'], '.1f')} "
                    f"experts  gate mass {_number(part['gate_mass_frac'], '.4f')}  "
                    f"changed {_number(part['changed_tokens_frac'], '.3f')}")
        now, mean, most = (_number(self["open_price" + end], ".4f") for end in ("", "_mean", "_max"))
        lines.append(f"  price   opening {now} now, {mean} mean, {most} most, of {self['ticks']} ticks")
        lines.append(f"  power   {_number(self['power_w'], '.0f')} W mean, {_number(self['energy_j'], '.1f')} J, "
                     f"{_number(self['temperature_c'], '.0f')} C, from {self['source']}")
        lines.append(f"  step    {_number(self['step_latency_us'], '.0f')} us mean of a decode step")
        if self["quantized_bytes"]:
            lines.append(f"  experts {self['quantized_bytes'] / 1e6:.1f} MB quantised in {self['quantize_s']:.1f} s, "
                         f"int4 {_number(self['decode']['int4_frac'], '.3f')} of decoding")
        if self["error"]:
            lines.append(f"  the price loop ended: {self['error']}")
        return "\n".join(lines)


def _number(value, form):
    return "-" if value is None else format(value, form)


def _phase(attachment, phase):
    total, quantized = attachment.statistics.total(phase), attachment.quantized
    int4_frac = None
    if quantized and total.pairs:
        int4_frac = 1.0 if quantized.variants == ("int4",) else total.int4_pairs / total.pairs
    return report.phase_report(attachment.statistics, phase) | {"int4_frac": int4_frac}


def make_report(attachment):
    history, statistics = list(attachment.history), attachment.statistics
    energies = [tick.energy_mj for tick in history if tick.energy_mj is not None]
    energy_j = (energies[-1] - energies[0]) / 1e3 if len(energies) > 1 and energies[-1] >= energies[0] else None
    open_prices = [tick.open_price for tick in history]
    now = attachment.current.highest()
    site, loop, quantized = attachment.layers[0].site, attachment.loop, attachment.quantized
    layers = len(attachment.layers)
    return Report(
        model=attachment.model_name,
        layers=layers,
        experts=site.count,
        top_k=site.top_k,
        variants=",".join(quantized.variants) if quantized else "the experts as stored",
        **{phase: _phase(attachment, phase) for phase in PHASES},
        distinct_experts_by_layer=[
            layer["decode"].distinct / layer["decode"].plans if layer["decode"].plans else None
            for layer in statistics.layers],
        open_price=now,
        open_price_mean=mean(open_prices) if history else now,
        open_price_max=max([now, *open_prices]),
        ticks=len(history),
        **report.loop_report(history, loop),
        energy_j=energy_j,
        source=attachment.source,
        step_latency_us=mean([tick.step_latency_us for tick in history]) if history else _paced(statistics),
        quantized_bytes=quantized.bytes if quantized else 0,
        quantize_s=quantized.seconds if quantized else 0.0,
    )


def _paced(statistics):
    seconds, steps = statistics.pace()
    return seconds / steps * 1e6 if steps else None
