"""Fixtures of crates/sol-weights/tests/data, made by the independent implementations.

    pip install gguf==0.19.0 safetensors==0.8.0 numpy==2.4.6 torch==2.8.0
    python xtools/make_block_fixtures.py [BLOCKS_PER_TYPE]

blocks.safetensors  random blocks of every type (NAME.bytes) and what gguf.dequantize makes of them (NAME.values);
                    all 256 codes of F8_E4M3 and what PyTorch makes of them
f8.safetensors      F8 matrices with a scale for the whole, for each row, for each block, and the products
metadata.gguf       every metadata type, every tensor rank, an alignment of 64, a type that is listed but not decoded
set-0000N-of-00003.gguf  three files of one checkpoint
"""

import sys
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type, GGUFValueType as Kind
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

DATA = Path(__file__).parent.parent / "crates/sol-weights/tests/data"
BLOCKS = int(sys.argv[1]) if len(sys.argv) > 1 else 8

# Where the f16 scales of a block lie.
SCALES = {
    Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q5_1: [0, 2], Type.Q8_0: [0],
    Type.Q2_K: [80, 82], Type.Q3_K: [108], Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208],
    Type.IQ4_NL: [0], Type.IQ4_XS: [0],
}


def random_blocks(rng, kind, count):
    _, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (count, size), dtype=np.uint8)
    for at in SCALES[kind]:
        scales = rng.normal(0, 0.02, count).astype(np.float16)
        # A normal scale mostly; also zero, the smallest, the largest, infinity, and in the last block whatever bits.
        scales[1:5] = np.array([0, 6e-8, 65504, -np.inf], np.float16)
        blocks[:-1, at : at + 2] = scales.view(np.uint8).reshape(-1, 2)[:-1]
    return blocks


def blocks_file():
    rng = np.random.default_rng(20)
    out = {}
    for kind in SCALES:
        blocks = random_blocks(rng, kind, BLOCKS)
        with np.errstate(all="ignore"):
            values = gguf.dequantize(blocks.reshape(1, -1), kind)
        out[f"{kind.name}.bytes"] = blocks.reshape(-1)
        out[f"{kind.name}.values"] = values.reshape(-1)
    for kind, word in [(Type.F32, np.uint32), (Type.F16, np.uint16), (Type.BF16, np.uint16)]:
        bits = rng.integers(0, np.iinfo(word).max, BLOCKS * 32, dtype=word, endpoint=True)
        bits = bits.view(np.uint8)
        out[f"{kind.name}.bytes"] = bits
        out[f"{kind.name}.values"] = gguf.dequantize(bits.reshape(1, -1), kind).reshape(-1)
    codes = torch.arange(256, dtype=torch.uint8)
    out["F8_E4M3.bytes"] = codes.numpy()
    out["F8_E4M3.values"] = codes.view(torch.float8_e4m3fn).float().numpy()
    save_file(out, DATA / "blocks.safetensors")


def f8_file():
    torch.manual_seed(20)
    out = {}
    for name, shape, scale, repeats in [
        ("whole", (3, 5), (), (1, 1)),
        ("rows", (3, 5), (3, 1), (1, 1)),
        ("blocks_inv", (130, 131), (2, 2), (128, 128)),
    ]:
        weight = torch.randn(shape).to(torch.float8_e4m3fn)
        factors = torch.rand(scale)
        out[f"{name}.weight"] = weight
        out[f"{name}.weight_scale" + ("_inv" if name == "blocks_inv" else "")] = factors
        if repeats != (1, 1):
            factors = factors.repeat_interleave(repeats[0], 0).repeat_interleave(repeats[1], 1)[: shape[0], : shape[1]]
        out[f"{name}.expected"] = weight.float() * factors
    out["wrong.weight"] = torch.zeros((3, 5)).to(torch.float8_e4m3fn)
    out["wrong.weight_scale"] = torch.zeros(7)
    save_torch(out, DATA / "f8.safetensors")


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def metadata_file():
    w = gguf.GGUFWriter(DATA / "metadata.gguf", "test")
    w.add_custom_alignment(64)
    w.add_uint8("t.u8", 255)
    w.add_int8("t.i8", -128)
    w.add_uint16("t.u16", 65535)
    w.add_int16("t.i16", -32768)
    w.add_uint32("t.u32", 2**32 - 1)
    w.add_int32("t.i32", -(2**31))
    w.add_uint64("t.u64", 2**64 - 1)
    w.add_int64("t.i64", -(2**63))
    w.add_float32("t.f32", 0.1)
    w.add_float64("t.f64", 0.1)
    w.add_bool("t.true", True)
    w.add_bool("t.false", False)
    w.add_string("t.string", "Solar \u2600 \U0001f31e")
    array = lambda key, values, kind: w.add_key_value(key, values, Kind.ARRAY, sub_type=kind)
    array("t.array.u8", [0, 255], Kind.UINT8)
    array("t.array.i8", [-128, 127], Kind.INT8)
    array("t.array.u16", [65535], Kind.UINT16)
    array("t.array.i16", [-32768], Kind.INT16)
    array("t.array.u32", [2**32 - 1], Kind.UINT32)
    array("t.array.i32", [-1, 0, 1], Kind.INT32)
    array("t.array.u64", [2**64 - 1], Kind.UINT64)
    array("t.array.i64", [-(2**63)], Kind.INT64)
    array("t.array.f32", [0.5, -0.25], Kind.FLOAT32)
    array("t.array.f64", [1e300], Kind.FLOAT64)
    array("t.array.bool", [True, False], Kind.BOOL)
    array("t.array.string", ["", "a", "\u00e9"], Kind.STRING)
    array("t.array.nested", [[1, 2], [3], ["x", "y"], [[1.5]]], Kind.ARRAY)
    w.add_tensor("vector", np.arange(3, dtype=np.float32))
    w.add_tensor("matrix", np.arange(6, dtype=np.float16).reshape(2, 3))
    w.add_tensor("cube", np.arange(24, dtype=np.int32).reshape(2, 3, 4))
    w.add_tensor("four", np.arange(4, dtype=np.float64).reshape(2, 1, 2, 1))
    q8 = gguf.quantize(np.linspace(-1, 1, 128, dtype=np.float32).reshape(2, 64), Type.Q8_0)
    w.add_tensor("quantised", q8, raw_dtype=Type.Q8_0)
    w.add_tensor("listed", np.zeros((1, 66), np.uint8), raw_dtype=Type.IQ2_XXS)
    finish(w)


def split_set():
    w = gguf.GGUFWriter(DATA / "set.gguf", "test", split_max_tensors=2)
    w.add_string("general.name", "three files")
    for i in range(5):
        w.add_tensor(f"t{i}", np.full((2, 4), i, np.float32))
    finish(w)


blocks_file()
f8_file()
metadata_file()
split_set()
