"""The models that test_transformers_attach.py attaches to, and what it runs them on."""

import pathlib

import torch
import transformers

NANO = str(pathlib.Path(__file__).resolve().parents[2] / "models" / "nano")

SMALL = {"vocab_size": 300, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 256, "pad_token_id": 0, "bos_token_id": 1,
         "eos_token_id": None, "num_experts_per_tok": 3}


def config_of(family):
    if family == "qwen3_moe":
        return transformers.Qwen3MoeConfig(**SMALL, num_experts=16, moe_intermediate_size=32, intermediate_size=96,
                                           norm_topk_prob=True, head_dim=16, mlp_only_layers=[])
    if family == "qwen3_moe-raw":  # weights that do not sum to 1, and a dense layer
        return transformers.Qwen3MoeConfig(**SMALL | {"num_hidden_layers": 3}, num_experts=16, moe_intermediate_size=32,
                                           intermediate_size=96, norm_topk_prob=False, head_dim=16, mlp_only_layers=[1])
    if family == "olmoe":
        return transformers.OlmoeConfig(**SMALL, num_experts=16, intermediate_size=32)
    return transformers.MixtralConfig(**SMALL, num_local_experts=8, intermediate_size=32)


def model_of(family, dtype=torch.bfloat16):
    """A family's random model, nano, or a checkpoint by its path."""
    if family == "nano" or "/" in family:
        path = NANO if family == "nano" else family
        return transformers.AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval()
    torch.manual_seed(3)
    config = config_of(family)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    return lively(model)


@torch.no_grad()
def lively(model):
    """Fresh routers hardly prefer an expert, and fresh experts hardly move a logit."""
    for name, weight in model.named_parameters():
        if name.endswith(("mlp.gate.weight", "router.weight")):
            weight.copy_(torch.randn_like(weight) / 4)
        elif name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            weight.copy_(torch.randn_like(weight) / 4)
    return model


FAMILIES = ["nano", "qwen3_moe", "qwen3_moe-raw", "olmoe", "mixtral"]


def prompts():
    """Three prompts of different lengths, padded on the left."""
    ids = torch.randint(3, 299, (3, 9), generator=torch.Generator().manual_seed(5))
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    mask[2, :1] = 0
    return ids * mask, mask


def generated(model, tokens=10, **options):
    ids, mask = (tensor.to(model.device) for tensor in prompts())
    options = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False, "pad_token_id": 0} | options
    return model.generate(ids, attention_mask=mask, **options)


@torch.no_grad()
def logits_of(model):
    ids, mask = (tensor.to(model.device) for tensor in prompts())
    return model(ids, attention_mask=mask).logits


def plans_of(handle):
    """Lets every layer of an attachment note what it returns, (weights, ids, the router's own ids)."""
    seen = []
    for layer in handle.layers:
        hooks = layer.site.router._forward_hooks
        ours = next(key for key, hook in hooks.items() if "router_hook" in hook.__qualname__)

        def noted(module, args, output, inner=hooks[ours], number=layer.number):
            result = inner(module, args, output)
            seen.append((number, result[1].clone(), result[2].clone(), output[2].clone()))
            return result

        hooks[ours] = noted
    return seen
