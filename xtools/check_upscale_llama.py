#!/usr/bin/env python3
"""Runs what `sol upscale` makes of SmolLM2 by llama.cpp, recipe for recipe, and compares perplexities with ours.

    pip install llama-cpp-python==0.3.36 numpy==2.4.6
    cargo build --release -p sol
    python xtools/check_upscale_llama.py --model SMOLLM2.gguf --text TEXT [--sol target/release/sol] [--tokens 256]

The base is a GGUF of SmolLM2-135M; every recipe that makes a Llama is written as F16. Both programs read the same ids (llama.cpp's
own of the text) and the mean log-likelihood of each next one is compared: at most 0.2 % apart. `identity` must be the base. Of the
recipe with skip connections, which llama.cpp does not have, ours is shown alone.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from check_convert import ROOT, Llama, tensors

RECIPES = {
    # Its own layers, as F16 like the others.
    "base": ["base.toml"],
    "identity": ["identity", "--layers", "48"],
    "interleave": ["interleave", "--layers", "48"],
    "dus m = 6": ["dus", "--drop", "6"],
    "stack": ["stack"],
    "solar-pro tv 1": ["solar-pro", "--tv", "1"],
    "solar-pro": ["solar-pro"],
}


def nll(logits: np.ndarray, ids: list[int]) -> float:
    rows = logits[:-1].astype(np.float64)
    peak = rows.max(-1, keepdims=True)
    total = np.log(np.exp(rows - peak).sum(-1)) + peak[:, 0]
    return float((total - rows[np.arange(len(ids) - 1), ids[1:]]).mean())


def write_ids(path: Path, ids: list[int]) -> None:
    data = np.array([ids], np.int64).tobytes()
    header = json.dumps({"input_ids": {"dtype": "I64", "shape": [1, len(ids)], "data_offsets": [0, len(data)]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--sol", type=Path, default=ROOT / "target/release/sol")
    arguments.add_argument("--model", type=Path, required=True)
    arguments.add_argument("--text", type=Path, required=True)
    arguments.add_argument("--tokens", type=int, default=256)
    options = arguments.parse_args()
    options.sol, options.model = options.sol.resolve(), options.model.resolve()
    bad = False
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        ids = Llama(options.model, vocab_only=True).tokens(options.text.read_text())[: options.tokens]
        write_ids(scratch / "ids.safetensors", ids)
        (scratch / "base.toml").write_text("slices = [{ layers = [0, 30] }]\n")
        first = None
        for name, recipe in RECIPES.items():
            model = scratch / "model.gguf"
            command = [options.sol, "upscale", "-q", "--force", "-m", options.model, "-o", model, "--type", "f16", "-r", *recipe]
            subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL, cwd=scratch)
            out = scratch / "logits.safetensors"
            out.unlink(missing_ok=True)
            command = [options.sol, "logits", "-q", "-m", model, "--ids", scratch / "ids.safetensors", "--out", out]
            subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
            ours = nll(tensors(out)["logits"][0], ids)
            first = ours if first is None else first
            theirs = None if name.startswith("solar") else nll(Llama(model, context=max(512, len(ids))).logits(ids), ids)
            good = theirs is None or abs(ours - theirs) < 2e-3 * ours
            good &= name not in ("identity", "solar-pro tv 1") or abs(ours - first) < 1e-3
            bad |= not good
            other = "not an architecture of llama.cpp's" if theirs is None else f"llama.cpp {math.exp(theirs):10.3f}"
            print(f"{'ok  ' if good else 'FAIL'} {name:15} PPL: sol {math.exp(ours):10.3f}, {other}", flush=True)
    sys.exit(bad)


if __name__ == "__main__":
    main()
