"""Reads the experts of a checkpoint that thermoe quantize wrote, as include/thermoe/nested_view.h describes them:
written from that description alone, so that it checks the packing and not only repeats it."""

import json
import pathlib

import numpy as np
from safetensors import safe_open

BLOCK = 32


def unpack_plane(plane: np.ndarray) -> np.ndarray:
    """uint8 [row blocks, column blocks, 512] -> int8 [rows, columns] in [-8, 7], padding included."""
    row_blocks, col_blocks, _ = plane.shape
    # Byte 16 (4 g + t) + 4 word + byte, word = m + 2 k; nibbles 2 byte (low) and 2 byte + 1 (high).
    parts = plane.reshape(row_blocks, col_blocks, 8, 4, 2, 2, 4)  # g, t, k, m, byte
    nibbles = np.stack([parts & 15, parts >> 4], axis=-1).astype(np.int8) - 8  # [..., high]
    out = np.empty((row_blocks, col_blocks, BLOCK, BLOCK), np.int8)
    for g in range(8):
        for t in range(4):
            for byte in range(4):
                column = 2 * t + [0, 8, 1, 9][byte]
                for high in range(2):
                    for m in range(2):
                        for k in range(2):
                            out[:, :, 16 * m + g + 8 * high, 16 * k + column] = nibbles[:, :, g, t, k, m, byte, high]
    return out.transpose(0, 2, 1, 3).reshape(row_blocks * BLOCK, col_blocks * BLOCK)


def unpack_scales(codes: np.ndarray) -> np.ndarray:
    """uint8 [row blocks, column blocks, 32] -> float32 [rows, column blocks]."""
    exponent, mantissa = (codes >> 4) & 7, (codes & 15) / 16.0
    value = np.where(exponent > 0, (1 + mantissa) * 2.0 ** (exponent.astype(float) - 3), mantissa * 2.0**-2)
    value = np.where(codes & 128, -value, value).astype(np.float32)
    words = value.reshape(*codes.shape[:2], 8, 4)
    out = np.empty((*codes.shape[:2], BLOCK), np.float32)
    for g in range(8):
        for i, row in enumerate((g, g + 16, g + 8, g + 24)):
            out[:, :, row] = words[:, :, g, i]
    return out.transpose(0, 2, 1).reshape(-1, codes.shape[1])


class Planes:
    """The nested planes of a checkpoint directory."""

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        self.config = json.loads((self.directory / "config.json").read_text())
        self.ratio = self.config["quantization_config"]["plane_ratio"]
        index = json.loads((self.directory / "model.safetensors.index.json").read_text())
        self.shard_of = index["weight_map"]

    def tensor(self, name):
        with safe_open(self.directory / self.shard_of[name], framework="np") as file:
            return file.get_tensor(name)

    def dense(self, name, precision):
        """The matrix `name` in f32, padding included; precision: "int8" or "int4"."""
        whole = self.ratio * unpack_plane(self.tensor(name + ".hi")).astype(np.float32)
        if precision == "int8":
            whole = whole + unpack_plane(self.tensor(name + ".lo"))
        scales = unpack_scales(self.tensor(name + ".scales")).repeat(BLOCK, axis=1)
        return whole * scales * self.tensor(name + ".base")

    def expert(self, prefix, hidden, inter, precision):
        """gate [inter, hidden], up [inter, hidden], down [hidden, inter] of one expert."""
        joined = self.dense(prefix + "gate_up", precision)[:, :hidden].reshape(-1, 2, 8, hidden)
        gate, up = (joined[:, i].reshape(-1, hidden)[:inter] for i in range(2))
        return gate, up, self.dense(prefix + "down", precision)[:hidden, :inter]
