"""Random texts that are hard on a tokenizer, the same for the same seed."""

import random
import unicodedata

SCRIPTS = [
    (0x0041, 0x007A), (0x00C0, 0x024F), (0x0370, 0x03FF), (0x0400, 0x04FF), (0x0530, 0x058F),
    (0x0590, 0x05FF), (0x0600, 0x06FF), (0x0900, 0x097F), (0x0980, 0x09FF), (0x0B00, 0x0B7F),
    (0x0E00, 0x0E7F), (0x0F00, 0x0FFF), (0x1000, 0x109F), (0x10A0, 0x10FF), (0x1100, 0x11FF),
    (0x1E00, 0x1FFF), (0x3040, 0x30FF), (0x3130, 0x318F), (0x4E00, 0x9FFF), (0xAC00, 0xD7AF),
    (0xF900, 0xFAFF), (0xFB00, 0xFB4F), (0xFF00, 0xFFEF), (0x10330, 0x1034F), (0x11100, 0x1114F),
    (0x16100, 0x1613F), (0x1D400, 0x1D7FF), (0x2F800, 0x2FA1F), (0x31350, 0x323AF),
]
MARKS = [(0x0300, 0x036F), (0x0591, 0x05BD), (0x064B, 0x0655), (0x093C, 0x094D), (0x1AB0, 0x1ACE),
         (0x20D0, 0x20F0), (0x3099, 0x309A), (0xFE00, 0xFE2F), (0x1D165, 0x1D169), (0x0F71, 0x0F84)]
SPACES = " \t\n\r\x0b\x0c\x1c\x1f\x85\u00a0\u1680\u180e\u2000\u2009\u200b\u2028\u2029\u202f\u205f\u3000\ufeff"
NUMBERS = "0123456789\u00b2\u00bd\u0664\u0967\u2160\u2460\u3007\u3021\u4e00\u0bf0\U0001d7ce\U0001fbf0\U0001ccf0"
EMOJI = ["\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466", "\U0001f3f3\ufe0f\u200d\U0001f308",
         "\U0001f44d\U0001f3fd", "\U0001f1e9\U0001f1ea", "1\ufe0f\u20e3", "\u2764\ufe0f", "\U0001f9d1\U0001f3ff\u200d\u2695\ufe0f",
         "\U0001f3f4\U000e0067\U000e0062\U000e007f", "\U0001fae8"]
WORDS = ["the", "The", "don't", "I'LL", "we've", "IT'S", "it'\u017f", "'RE", "hello", "world", "http://a.b/c?d=e&f",
         "x=1;", "def f(a, b):", "\t\treturn", "naïve", "cafe\u0301", "über", "straße", "ﬁne", "\u212b", "\u2126",
         "...", "!!", "\u2014", "\u2581", "\u2581\u2581", "Ġ", "<0x41>", "<0xE2>", "<unk>", "\\n", "''", "``", "#define"]


class Texts:
    """Draws texts; `tokens` (a tokenizer's added tokens and some others) are mixed in."""

    def __init__(self, seed, tokens=()):
        self.random = random.Random(seed)
        self.tokens = list(tokens)

    def _from(self, ranges):
        low, high = self.random.choice(ranges)
        return chr(self.random.randint(low, high))

    def _piece(self):
        r = self.random
        kind = r.randrange(13)
        if kind <= 1:
            return r.choice(WORDS) + r.choice(["", " ", " ", "  "])
        if kind == 2:
            script = [r.choice(SCRIPTS)]
            return "".join(self._from(script) for _ in range(r.randint(1, 8)))
        if kind == 3:
            return self._from(SCRIPTS) + "".join(self._from(MARKS) for _ in range(r.randint(1, 5)))
        if kind == 4:
            return unicodedata.normalize("NFD", "".join(self._from(SCRIPTS) for _ in range(r.randint(1, 5))))
        if kind == 5:
            return "".join(r.choice(SPACES) for _ in range(r.randint(1, 4)))
        if kind == 6:
            return r.choice(" \n\t") * r.randint(1, 30)
        if kind == 7:
            return "".join(r.choice(NUMBERS) for _ in range(r.randint(1, 6)))
        if kind == 8:
            return r.choice(EMOJI)
        if kind == 9:
            return chr(r.choice([r.randrange(0x20), r.randint(0x7F, 0xA0), r.randint(0xE000, 0xE0FF),
                                 r.randint(0xF0000, 0xF00FF), r.randint(0xFFF0, 0xFFFF)]))
        if kind == 10:
            return self._any()
        if kind == 11 and self.tokens:
            return r.choice(["", " ", "a", "\u3000"]) + r.choice(self.tokens) + r.choice(["", "  ", "b", "\n"])
        return "".join(chr(r.randint(0x20, 0x7E)) for _ in range(r.randint(1, 6)))

    def _any(self):
        while True:
            code = self.random.randrange(self.random.choice([0x3000, 0x10000, 0x20000, 0x110000]))
            if not 0xD800 <= code < 0xE000:
                return chr(code)

    def text(self, pieces=12):
        return "".join(self._piece() for _ in range(self.random.randint(0, pieces)))

    def ill_formed(self, pieces=4):
        """Bytes that are UTF-8 but for a few flipped, dropped or inserted ones."""
        data = bytearray(self.text(pieces).encode())
        for _ in range(self.random.randint(1, 4)):
            at = self.random.randint(0, len(data))
            if self.random.random() < 0.5 and at < len(data):
                data[at] = self.random.randrange(256)
            elif self.random.random() < 0.5:
                del data[at:at + 1]
            else:
                data.insert(at, self.random.choice([0x80, 0xBF, 0xC0, 0xE0, 0xED, 0xF0, 0xF4, 0xFF, 0xE2]))
        return bytes(data)


def token_strings(tokenizer):
    added = [t.content for t in tokenizer.get_added_tokens_decoder().values()]
    return added + [t[:-1] for t in added if len(t) > 1] + ["<|endoftext|>", "<s>", "</s>"]
