#!/usr/bin/env python3
"""Makes the tokenizers in tests/golden/tokenizers and what Hugging Face's library does with them.

make_tokenizers.py            writes them (needs: tokenizers 0.23.3)
make_tokenizers.py --check [DIR]  writes them to DIR and fails if they differ from the committed ones

<name>/tokenizer.json, trained on generated text, in the forms that published models have:
  qwen      Qwen3-MoE: NFC, Split by a regex, ByteLevel; special and other added tokens
  neox      OLMoE (GPT-NeoX): ByteLevel with its own regex, runs of spaces as normalised added
            tokens, merges as "a b" strings
  mixtral_old  Mixtral: byte fallback; Prepend and Replace as normaliser, no pre-tokeniser
  mixtral_new  the same with a Metaspace pre-tokeniser
<name>/cases.json: [text, ids, decoded, decoded with special tokens]; a text is a string, or for
ill-formed UTF-8 {"hex": ...}.
texts.json: for nano's tokenizer and the texts in data/text the number of ids and the FNV-1a 64
hash of their int32 little-endian bytes.
"""

import argparse
import filecmp
import json
import pathlib
import random
import sys
import tempfile

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import ByteLevel as ByteLevelProcessor
from tokenizers.processors import TemplateProcessing

from tokenizer_texts import SCRIPTS, Texts, token_strings

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "tokenizers"
QWEN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+")


def corpus():
    """Words with a natural distribution of lengths and counts, from several scripts."""
    r = random.Random(7)
    ranges = [(0x61, 0x7A)] * 6 + SCRIPTS[1:4] + [(0x4E00, 0x4E40), (0x3041, 0x3060)]
    words = []
    for _ in range(800):
        low, high = r.choice(ranges)
        letters = [chr(r.randint(low, high)) for _ in range(5)]
        words.append("".join(r.choice(letters) for _ in range(r.randint(1, 9))))
    lines = []
    for _ in range(1500):
        line = " ".join(r.choice(words[:int(800 ** r.random())]) for _ in range(r.randint(3, 14)))
        lines.append(line + r.choice([".", "\n", " 12", "  x = 3;", "!?", " don't we'll"]))
    return lines


def train(tokenizer, **options):
    tokenizer.train_from_iterator(corpus(), trainers.BpeTrainer(show_progress=False, **options))
    return tokenizer


def qwen():
    t = Tokenizer(models.BPE(byte_fallback=False))
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    t.post_processor = ByteLevelProcessor(trim_offsets=False)
    train(t, vocab_size=900, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    t.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    t.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False),
                  AddedToken("caf\u00e9", normalized=True), AddedToken("word", single_word=True, normalized=False),
                  AddedToken("<l>", lstrip=True, normalized=False), AddedToken("<r>", rstrip=True, normalized=False),
                  AddedToken("<lr>", lstrip=True, rstrip=True, special=True, normalized=False)])
    return json.loads(t.to_str())


def neox():
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True)
    t.decoder = decoders.ByteLevel(add_prefix_space=False, trim_offsets=True)
    train(t, vocab_size=700, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
          special_tokens=["<|endoftext|>", "<|padding|>"])
    t.add_tokens([AddedToken(" " * n, normalized=True) for n in range(12, 1, -1)])
    t.add_tokens([AddedToken("|||EMAIL_ADDRESS|||", normalized=False)])
    out = json.loads(t.to_str())
    out["model"]["merges"] = [" ".join(pair) for pair in out["model"]["merges"]]  # the older spelling
    del out["model"]["ignore_merges"]
    return out


def mixtral(old):
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    # Trained on words, as sentencepiece does, whatever the form then is.
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    special = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    train(t, vocab_size=900, special_tokens=special, limit_alphabet=220)
    out = json.loads(t.to_str())
    out["added_tokens"] = [a for a in out["added_tokens"] if a["id"] < 3]
    t = Tokenizer.from_str(json.dumps(out))
    if old:
        t.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
        t.pre_tokenizer = None
    else:
        t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    t.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(),
                                   decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    t.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return json.loads(t.to_str())


def cases(tokenizer, seed, count):
    source = Texts(seed, token_strings(tokenizer))
    texts = ["", " ", "a", "Hello world", " Hello  world ", "\u2581a", "don't DON'T", "a\u0301\u0323", "\r\n\r\n x"]
    texts += [source.ill_formed() if i % 8 == 7 else source.text(8) for i in range(count)]
    out = []
    for text in texts:
        data = text if isinstance(text, bytes) else text.encode()
        string = data.decode(errors="replace")
        ids = tokenizer.encode(string, add_special_tokens=False).ids
        stored = string if string.encode() == data else {"hex": data.hex()}
        out.append([stored, ids, tokenizer.decode(ids, skip_special_tokens=True),
                    tokenizer.decode(ids, skip_special_tokens=False)])
    # Any ids decode, not only what encode gives.
    r = random.Random(seed)
    for _ in range(count // 4):
        ids = [r.randrange(tokenizer.get_vocab_size()) for _ in range(r.randint(1, 10))]
        out.append([None, ids, tokenizer.decode(ids, skip_special_tokens=True),
                    tokenizer.decode(ids, skip_special_tokens=False)])
    return out


def fnv1a64(ids):
    value = 0xCBF29CE484222325
    for id in ids:
        for byte in id.to_bytes(4, "little"):
            value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


def text_hashes():
    tokenizer = Tokenizer.from_file(str(ROOT / "models" / "nano" / "tokenizer.json"))
    out = {}
    for path in sorted((ROOT / "data" / "text").glob("*.txt")):
        ids = tokenizer.encode(path.read_bytes().decode(), add_special_tokens=False).ids
        out[path.name] = {"tokens": len(ids), "fnv1a64": f"{fnv1a64(ids):016x}"}
    return out


def write(directory):
    made = {"qwen": qwen(), "neox": neox(), "mixtral_old": mixtral(True), "mixtral_new": mixtral(False)}
    for seed, (name, content) in enumerate(made.items(), start=1):
        folder = directory / name
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
        (folder / "tokenizer.json").write_text(text + "\n", encoding="utf-8")
        rows = [json.dumps(case, separators=(",", ":")) for case in cases(Tokenizer.from_str(text), seed, 240)]
        (folder / "cases.json").write_text("[\n" + ",\n".join(rows) + "\n]\n", encoding="utf-8")
    (directory / "texts.json").write_text(json.dumps(text_hashes(), indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--check", type=pathlib.Path, nargs="?", const=pathlib.Path(), metavar="DIR")
    args = parser.parse_args()
    if args.check is None:
        write(GOLDEN)
        return
    with tempfile.TemporaryDirectory() as scratch:
        directory = scratch if args.check == pathlib.Path() else args.check
        write(pathlib.Path(directory))
        names = sorted(str(p.relative_to(GOLDEN)) for p in GOLDEN.rglob("*.json"))
        _, differ, missing = filecmp.cmpfiles(GOLDEN, directory, names, shallow=False)
    if differ or missing:
        sys.exit(f"differ from {GOLDEN}: {differ + missing}")
    print(f"{len(names)} files as committed")


if __name__ == "__main__":
    main()
