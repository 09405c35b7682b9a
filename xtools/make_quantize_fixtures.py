#!/usr/bin/env python3
"""What llama.cpp's encoders lose: crates/sol-weights/src/quantize/tests_llama_cpp.in, the squared error in proportion to the
squares of numbers that the test makes too.

Pinned: gguf 0.19.0, numpy 2.4.6; libggml-base.so of the llama.cpp that llama_cpp_python 0.3.36 brings.
    python xtools/make_quantize_fixtures.py path/to/libggml-base.so
"""

import ctypes
import sys
from pathlib import Path

import gguf
import numpy as np

OUT = Path(__file__).parent.parent / "crates/sol-weights/src/quantize/tests_llama_cpp.in"
TYPES = {"Q8_0": "Q8_0", "Q4_0": "Q4_0", "Q4_1": "Q4_1", "Q5_0": "Q5_0", "Q5_1": "Q5_1", "IQ4_NL": "IQ4NL", "Q2_K": "Q2K",
         "Q3_K": "Q3K", "Q4_K": "Q4K", "Q5_K": "Q5K", "Q6_K": "Q6K", "IQ4_XS": "IQ4XS"}
ROWS, COLUMNS = 128, 256
MASK = (1 << 64) - 1


def numbers(count: int, tails: bool) -> np.ndarray:
    state = 0x9E3779B97F4A7C15
    out = np.empty(count, np.float32)

    def uniform() -> np.float32:
        nonlocal state
        state ^= state << 13 & MASK
        state ^= state >> 7
        state ^= state << 17 & MASK
        return np.float32(state >> 40) / np.float32(1 << 24)

    for i in range(count):
        total = np.float32(0)
        for _ in range(12):
            total += uniform() - np.float32(0.5)
        out[i] = total / (uniform() + np.float32(0.25)) if tails else total
    return out


def main() -> None:
    library = ctypes.CDLL(sys.argv[1])
    encode = library.ggml_quantize_chunk
    encode.restype = ctypes.c_size_t
    encode.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    lines = []
    inputs = [numbers(ROWS * COLUMNS, tails) for tails in (False, True)]
    for name, ours in TYPES.items():
        kind = gguf.GGMLQuantizationType[name]
        length, size = gguf.GGML_QUANT_SIZES[kind]
        errors = []
        for x in inputs:
            out = np.zeros((ROWS, COLUMNS // length * size), np.uint8)
            encode(int(kind), x.ctypes.data, out.ctypes.data, 0, ROWS, COLUMNS, None)
            back = gguf.dequantize(out, kind).reshape(-1)
            errors.append(((back - x).astype(np.float64) ** 2).sum() / (x.astype(np.float64) ** 2).sum())
        lines.append(f"    (DType::{ours}, {errors[0]:.6e}, {errors[1]:.6e}),")
    OUT.write_text("[\n" + "\n".join(lines) + "\n]\n")


if __name__ == "__main__":
    main()
