#!/usr/bin/env python3
"""Compares the types that `sol quantize` and llama.cpp's quantiser give the tensors of small models of several shapes, for every
name that both know: all must be equal, and `general.file_type` too.

    pip install gguf==0.19.0 numpy==2.4.6 typing_extensions==4.16.0
    python xtools/check_quantize_types.py SOL SITE-PACKAGES/llama_cpp
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf

import check_quantize
import make_mixture_fixtures

# Architecture, layers, hidden, heads, kv heads, head_dim, ffn, vocabulary, tied.
MODELS = {
    "four heads share values": ("llama", 32, 256, 4, 1, 64, 512, 512, False),
    "two heads, tied": ("llama", 18, 256, 4, 2, 64, 512, 512, True),
    "fused": ("phi3", 20, 256, 4, 1, 64, 512, 512, False),
    "no blocks of 256": ("llama", 8, 320, 5, 1, 64, 544, 512, False),
}


def described(path: Path) -> dict:
    reader = gguf.GGUFReader(path)
    return {t.name: t.tensor_type.name for t in reader.tensors} | {"file type": reader.fields["general.file_type"].contents()}


def main() -> None:
    sol, bindings = sys.argv[1:]
    names = sorted({*check_quantize.MIXED, *check_quantize.PURE})
    with tempfile.TemporaryDirectory() as work:
        source, ours, theirs = (Path(work) / f"{name}.gguf" for name in ("source", "sol", "llama"))
        for title, model in MODELS.items():
            make_mixture_fixtures.write_holes(source, model)
            for name in names:
                child = json.dumps([bindings, str(source), str(theirs), name, False, 1, ""])
                subprocess.run([sys.executable, check_quantize.__file__, "--child", child], check=True, capture_output=True)
                subprocess.run([sol, "quantize", "-q", "-m", source, "-o", ours, name, "--force"], check=True, capture_output=True)
                a, b = described(ours), described(theirs)
                if different := {key: (a[key], b[key]) for key in b if a[key] != b[key]}:
                    raise SystemExit(f"{title}, {name}: {different}")
    print(f"{len(MODELS) * len(names)} files, all types are the same")


if __name__ == "__main__":
    main()
