"""Generates greedily with nano in vLLM, as a server's process would: vllm_nano.py RANKS [PRICE...]

Prints a JSON list, of the start's own prices and then of each opening price given: for every prompt its tokens and
their log-probabilities. One rank runs in this process; PRICE needs that.
"""

import json
import os
import pathlib
import sys
import time

NANO = pathlib.Path(__file__).resolve().parents[2] / "models" / "nano"
PROMPTS = ["Once upon a time", "The little dog", "In a house", "The sun", "A small boat", "One day she", "He was"]


def generate(llm):
    from vllm import SamplingParams

    wanted = SamplingParams(temperature=0, max_tokens=24, logprobs=0, ignore_eos=True)
    results = (request.outputs[0] for request in llm.generate(PROMPTS, wanted, use_tqdm=False))
    return [[list(r.token_ids), [next(iter(step.values())).logprob for step in r.logprobs]] for r in results]


def main(ranks, prices):
    if ranks == 1:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from vllm import LLM

    llm = LLM(str(NANO), dtype="float32", enforce_eager=True, max_model_len=256, tensor_parallel_size=ranks)
    generated = [generate(llm)]
    for price in prices:
        from thermoe.vllm.rank import RANK

        RANK.propose(price, 0.0)
        generated.append(generate(llm))
    if ranks > 1:
        time.sleep(2.5)  # workers write their last report, whichever way they end
    print("\n" + json.dumps(generated))


if __name__ == "__main__":
    main(int(sys.argv[1]), [float(price) for price in sys.argv[2:]])
