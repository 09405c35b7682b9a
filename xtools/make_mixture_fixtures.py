#!/usr/bin/env python3
"""Asks llama.cpp's quantiser which type each matrix of a model gets: crates/sol-forge/tests/data/mixtures.json.

Pinned: gguf 0.19.0, numpy 2.4.6, typing_extensions 4.16.0; llama_cpp_python 0.3.36, whose bindings ask what llama-quantize
--dry-run does.
    python xtools/make_mixture_fixtures.py SITE-PACKAGES/llama_cpp
The models are headers before holes: files of the published shapes whose weights take no room.
"""

import ctypes
import json
import re
import sys
import tempfile
import types
from pathlib import Path

import gguf
import numpy as np

OUT = Path(__file__).parent.parent / "crates/sol-forge/tests/data/mixtures.json"
MIXTURES = "q2_k q3_k_s q3_k_m q3_k_l q4_k_s q4_k_m q5_k_s q5_k_m q6_k q4_0 q4_1 q5_0 q5_1 q8_0 iq4_nl iq4_xs".split()
# name: architecture, layers, hidden, heads, kv heads, head_dim, ffn, vocabulary, tied
MODELS = {
    "solar-pro": ("llama", 64, 5120, 40, 10, 128, 17920, 32128, False),
    "llama-3.1-8b": ("llama", 32, 4096, 32, 8, 128, 14336, 128256, False),
    "llama-3.1-70b": ("llama", 80, 8192, 64, 8, 128, 28672, 128256, False),
    "phi-3-medium": ("phi3", 40, 5120, 40, 10, 128, 17920, 32064, False),
    "gemma-2-27b": ("gemma2", 46, 4608, 32, 16, 128, 36864, 256000, True),
    "smollm2": ("llama", 30, 576, 9, 3, 64, 1536, 49152, True),
}


def matrices(architecture, layers, hidden, heads, kv_heads, head_dim, ffn, vocab, tied):
    q, kv = heads * head_dim, kv_heads * head_dim
    yield "token_embd", (vocab, hidden)
    for i in range(layers):
        if architecture == "phi3":
            shapes = {"attn_qkv": (q + 2 * kv, hidden), "ffn_up": (2 * ffn, hidden)}
        else:
            shapes = {"attn_q": (q, hidden), "attn_k": (kv, hidden), "attn_v": (kv, hidden), "ffn_gate": (ffn, hidden)}
            shapes["ffn_up"] = (ffn, hidden)
        shapes |= {"attn_output": (hidden, q), "ffn_down": (hidden, ffn)}
        yield from ((f"blk.{i}.{name}", shape) for name, shape in shapes.items())
    if not tied:
        yield "output", (vocab, hidden)


def write_holes(path, model):
    architecture, layers, hidden, heads, kv_heads, head_dim, ffn, vocab, tied = model
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(layers)
    writer.add_context_length(4096)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(ffn)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(head_dim)
    writer.add_vocab_size(vocab)
    size = 0
    for name, shape in matrices(*model):
        nbytes = 2 * shape[0] * shape[1]
        writer.add_tensor_info(f"{name}.weight", shape, np.dtype("float16"), nbytes)
        size += (nbytes + 31) // 32 * 32
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size + 64 + size)


def bindings(place):
    """The module of llama.cpp's functions in a folder llama_cpp, without its __init__, which wants more packages."""
    package = types.ModuleType("llama_cpp")
    package.__path__ = [place]
    sys.modules["llama_cpp"] = package
    import llama_cpp.llama_cpp as api

    return api


def dry_run(api, path, mixture):
    """What llama.cpp's quantiser says that it would do."""
    log = []
    listen = api.llama_log_callback(lambda level, text, data: log.append(text.decode(errors="replace")))
    api.llama_log_set(listen, None)
    params = api.llama_model_quantize_default_params()
    params.ftype, params.nthread, params.dry_run = getattr(api, f"LLAMA_FTYPE_MOSTLY_{mixture.upper()}"), 2, True
    if api.llama_model_quantize(str(path).encode(), b"/dev/null", ctypes.byref(params)):
        raise SystemExit("llama_model_quantize failed:\n" + "".join(log))
    return "".join(log)


def main():
    result = {}
    api = bindings(sys.argv[1])
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "holes.gguf"
        for name, model in MODELS.items():
            write_holes(path, model)
            result[name] = {}
            for mixture in MIXTURES:
                log = dry_run(api, path, mixture)
                lines = re.findall(r"\] (\S+)\.weight .*-> .*\((\w+)\)", log)
                found = {tensor: kind.upper() for tensor, kind in lines}
                assert found.keys() == {tensor for tensor, _ in matrices(*model)}, (name, mixture, len(found))
                result[name][mixture] = compact(found)
            path.unlink()
    lines = [
        f'  "{model}": {{\n' + ",\n".join(f'    "{m}": {json.dumps(of)}' for m, of in mixtures.items()) + "\n  }"
        for model, mixtures in result.items()
    ]
    OUT.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def compact(found):
    """For each kind of matrix its types, each with the layers that have it; matrices outside of layers are in layer 0."""
    kinds = {}
    for tensor, kind in found.items():
        layer, name = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)", tensor).groups()
        kinds.setdefault(name, {}).setdefault(kind, []).append(int(layer or 0))
    return {name: {kind: runs(layers) for kind, layers in of.items()} for name, of in kinds.items()}


def runs(layers):
    """0 1 2 5 as 0-2 5."""
    found = []
    for layer in layers:
        if found and found[-1][1] == layer - 1:
            found[-1][1] = layer
        else:
            found.append([layer, layer])
    return " ".join(f"{a}-{b}" if b > a else f"{a}" for a, b in found)


if __name__ == "__main__":
    main()
