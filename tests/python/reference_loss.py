"""Cross-entropy of a checkpoint under transformers, on the windows that `thermoe eval` uses.

    reference_loss.py --model DIR --text FILE... [--context 512] [--max-windows N] [--batch 16]
                      [--dtype bfloat16|float32]

Prints JSON: tokens, cross_entropy_nats. Contiguous windows that do not overlap, input
window[0:context], targets shifted by one; a last partial batch is dropped.
"""

import argparse
import json

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM


def windows_of(tokenizer, files, context):
    """[count, context + 1] token ids: a window and the target after it."""
    windows = []
    for file in files:
        with open(file, encoding="utf-8", newline="") as text:
            ids = torch.tensor(tokenizer.encode(text.read(), add_special_tokens=False).ids)
        windows += [ids[i * context : (i + 1) * context + 1] for i in range((len(ids) - 1) // context)]
    return torch.stack(windows)


@torch.no_grad()
def reference_loss(model_dir, files, context=512, max_windows=0, batch=16, dtype="bfloat16", prepare=None):
    """(tokens, mean negative log-likelihood in nats), logits in f32 as transformers gives them.

    `prepare` (if not None) is called with the model before it runs."""
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=getattr(torch, dtype)).eval()
    if prepare is not None:
        prepare(model)
    windows = windows_of(Tokenizer.from_file(f"{model_dir}/tokenizer.json"), files, context)
    if max_windows:
        windows = windows[:max_windows]
    windows = windows[: len(windows) // batch * batch]
    total = 0.0
    for part in windows.split(8):
        logits = model(part[:, :-1], use_cache=False).logits.float()
        total += torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), part[:, 1:].flatten(), reduction="sum"
        ).item()
    tokens = windows.shape[0] * context
    return tokens, total / tokens


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", required=True, nargs="+")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--max-windows", type=int, default=0)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--dtype", default="bfloat16")
    args = parser.parse_args()
    tokens, loss = reference_loss(
        args.model, args.text, args.context, args.max_windows, args.batch, args.dtype
    )
    print(json.dumps({"tokens": tokens, "cross_entropy_nats": loss}))


if __name__ == "__main__":
    main()
