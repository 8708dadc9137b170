#!/usr/bin/env python3
"""Compares thermoe's tokenizer with Hugging Face's tokenizers.

compare_tokenizers.py [--tool PROGRAM] [--seed N] [--fuzz 20000] [--every-code-point]
                      [--text FILE...] [--tokenizer FILE_OR_FOLDER...]

By default the built model_tokenize_tool (in $THERMOE_BUILD_DIR or build), the tokenizers of the
repository and the texts in data/text.

For each tokenizer: ids and decoded texts of random Unicode and of the files (.txt: whole;
.jsonl.gz: every string in every line) must be the same. Exits 1 at a difference.
"""

import argparse
import gzip
import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile

import tokenizers

from tokenizer_texts import Texts, token_strings

ROOT = pathlib.Path(__file__).resolve().parents[2]


def every_code_point():
    """Each code point between letters, numbers, spaces and combining marks, 32 to a text."""
    points = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    forms = "a{0}b 1{0} '{0}{0}\u0323{0}\u0301\u0334{0}\u0345{0}"
    for start in range(0, len(points), 32):
        yield "".join(forms.format(c) for c in points[start:start + 32]).encode()


def strings_of(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings_of(item)


def texts_of(path):
    if path.name.endswith(".jsonl.gz"):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            return [text.encode() for line in lines for text in strings_of(json.loads(line))]
    return [path.read_bytes()]


def run_tool(tool, tokenizer, texts):
    with tempfile.TemporaryFile() as stdin:
        for text in texts:
            stdin.write(struct.pack("=I", len(text)) + text)
        stdin.seek(0)
        out = subprocess.run([tool, tokenizer], stdin=stdin, stdout=subprocess.PIPE, check=True).stdout
    at = 0

    def take(form):
        nonlocal at
        values = struct.unpack_from("=" + form, out, at)
        at += struct.calcsize("=" + form)
        return values

    for _ in texts:
        (count,) = take("I")
        ids, ends = list(take(f"{count}i")), list(take(f"{count}q"))
        decoded = []
        for _ in range(2):
            (length,) = take("I")
            decoded.append(out[at:at + length].decode())
            at += length
        yield ids, ends, decoded
    assert at == len(out), "the tool answered more than was asked"


def compare(tool, path, texts, label):
    reference = tokenizers.Tokenizer.from_file(str(path))
    different = tokens = 0
    for text, (ids, ends, decoded) in zip(texts, run_tool(tool, path, texts), strict=True):
        string = text.decode(errors="replace")
        want = reference.encode(string, add_special_tokens=False).ids
        problem = None
        if ids != want:
            problem = f"ids {ids[:60]}\n  want {want[:60]}"
        elif decoded != [reference.decode(ids, skip_special_tokens=skip) for skip in (True, False)]:
            problem = f"decoded {decoded}\n  want {reference.decode(ids, skip_special_tokens=False)!r}"
        elif ids and (ends[-1] != len(text) or ends != sorted(ends) or ends[0] < 0):
            problem = f"end bytes {ends} of {len(text)}"
        if problem:
            different += 1
            if different <= 5:
                print(f"{path}: {text[:200]!r}\n  {problem}", file=sys.stderr)
        tokens += len(ids)
    print(f"{path}: {label}: {len(texts)} texts, {tokens} tokens, {different} differ")
    return different


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    build = pathlib.Path(os.environ.get("THERMOE_BUILD_DIR", ROOT / "build"))
    parser.add_argument("--tool", default=build / "tests" / "model" / "model_tokenize_tool")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fuzz", type=int, default=20000)
    parser.add_argument("--every-code-point", action="store_true")
    parser.add_argument("--text", type=pathlib.Path, nargs="*",
                        default=sorted((ROOT / "data" / "text").glob("*.txt")))
    parser.add_argument("--tokenizer", type=pathlib.Path, nargs="+",
                        default=sorted([*(ROOT / "tests" / "golden" / "tokenizers").glob("*/tokenizer.json"),
                                        *(ROOT / "models").glob("*/tokenizer.json")]))
    args = parser.parse_args()
    different = 0
    for path in args.tokenizer:
        path = path / "tokenizer.json" if path.is_dir() else path
        source = Texts(args.seed, token_strings(tokenizers.Tokenizer.from_file(str(path))))
        fuzz = [source.ill_formed() if i % 10 == 9 else source.text().encode() for i in range(args.fuzz)]
        different += compare(args.tool, path, fuzz, f"random texts, seed {args.seed}")
        if args.every_code_point:
            different += compare(args.tool, path, list(every_code_point()), "every code point")
        for file in args.text:
            different += compare(args.tool, path, texts_of(file), file.name)
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
