"""Generates under a power cap with transformers, and plots power, price and loss over time.

    attach.py [--model DIR] [--monitor twin|replay:FILE|nvml:0] [--power-cap-w 520] [--rounds 12] [--plot attach.svg]

A third of the rounds runs free, a third under the cap, a third free again. After each the loss on held-out text is
taken at the prices in force, position by position over 16 windows, as they would decode together; what is plotted is
its increase over the model's own top-k (of 2,048 tokens: below some thousandths of a nat it is noise).
"""

import argparse
import json

import numpy as np
import thermoe
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

BATCH, PROMPT, NEW_TOKENS = 16, 16, 32


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", default=str(thermoe.shipped("models/nano")), help="of Hugging Face; default: nano")
    parser.add_argument("--text", default=str(thermoe.shipped("data/text/wiki.txt")), help="prompts, and the loss")
    parser.add_argument("--monitor", default="twin", help="twin, replay:FILE or nvml:N")
    parser.add_argument("--power-cap-w", type=float, default=520)
    parser.add_argument("--free-cap-w", type=float, default=700, help="of the other rounds: the board's own")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--context", type=int, default=128, help="of the windows whose loss is taken")
    parser.add_argument("--plot", default="attach.svg", help="the picture, by its ending; '' for none")
    parser.add_argument("--json", default="", help="the report and the curves, for programs")
    return parser.parse_args()


def windows_of(options, count):
    """[count, context + 1] tokens of the text."""
    width = options.context + 1
    with open(options.text, encoding="utf-8") as file:
        text = file.read(20 * count * width)  # characters, more than enough
    ids = Tokenizer.from_file(f"{options.model}/tokenizer.json").encode(text, add_special_tokens=False).ids
    return torch.tensor(ids[: count * width]).reshape(count, width)


@torch.no_grad()
def loss_of(model, windows):
    logits = model(windows[:, :-1], use_cache=False).logits.float()
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten()).item()


def run(options):
    """(report, ticks, [(seconds of the ticks' clock, loss in nats over top-k's)])."""
    device = "cuda" if torch.cuda.is_available() and options.monitor.startswith("nvml") else "cpu"
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.bfloat16).to(device).eval()
    held_out, prompts = windows_of(options, 2 * BATCH).to(device).split(BATCH)
    prompts = prompts[:, :PROMPT]
    config, plain, losses = model.config, loss_of(model, held_out), []
    # A small model's experts count as such of Qwen3-30B-A3B: in a GPU's terms its own would cost nothing.
    costs = thermoe.CostModel(hidden_size=2048, expert_inter_size=768, experts=config.num_experts,
                              top_k=config.num_experts_per_tok, layers=config.num_hidden_layers)
    with thermoe.attach(model, power_cap_w=options.free_cap_w, monitor=options.monitor, costs=costs,
                        prefill="positions") as thermo:
        for number in range(options.rounds):
            capped = 1 <= number * 3 // options.rounds < 2
            thermo.set_limits(power_cap_w=options.power_cap_w if capped else options.free_cap_w)
            model.generate(prompts, attention_mask=torch.ones_like(prompts), do_sample=False, pad_token_id=0,
                           min_new_tokens=NEW_TOKENS, max_new_tokens=NEW_TOKENS)
            seconds = thermo.history[-1].time_s if thermo.history else 0.0
            losses.append((seconds, loss_of(model, held_out) - plain))
        report = thermo.report()
    assert loss_of(model, held_out) == plain  # detached: the model is as it was
    return report, list(thermo.history), losses


def plot(path, cap_w, ticks, losses):
    try:
        import matplotlib
    except ImportError:
        print(f"{path} is not written: that takes matplotlib (pip install matplotlib)")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(3, 1, sharex=True, figsize=(7, 6), constrained_layout=True)
    seconds = [tick.time_s for tick in ticks]
    axes[0].plot(seconds, [np.nan if tick.power_w is None else tick.power_w for tick in ticks])
    axes[0].axhline(cap_w, color="grey", linestyle=":")
    axes[1].plot(seconds, [tick.open_price for tick in ticks])
    axes[2].plot(*zip(*losses), marker="o")
    for axis, label in zip(axes, ("board power, W\n(dotted: the cap)", "price of opening\nan expert",
                                  "loss over top-k's,\nnats a token")):
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    axes[2].set_xlabel("seconds")
    figure.savefig(path)
    print(f"wrote {path}")


def main():
    options = parse()
    report, ticks, losses = run(options)
    print(report)
    print("  loss    " + " ".join(f"{loss:+.4f}" for _, loss in losses) + " nats over top-k's, by round")
    if options.plot:
        plot(options.plot, options.power_cap_w, ticks, losses)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"report": report, "ticks": [vars(tick) for tick in ticks], "losses_nats": losses}, file)


if __name__ == "__main__":
    main()
