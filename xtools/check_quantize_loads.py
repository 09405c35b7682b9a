#!/usr/bin/env python3
"""Has llama.cpp load and run what `sol quantize` wrote, in every type, and compares its logits with those of `sol`.

    pip install gguf==0.19.0 numpy==2.4.6 typing_extensions==4.16.0
    python xtools/check_quantize_loads.py --sol SOL --bindings SITE-PACKAGES/llama_cpp [--types q4_0,q4_k_m] [--imatrix FILE]

For each type: the mean KL divergence of llama.cpp's logits from `sol`'s on the same file, over windows of 512 tokens, and how
often their top tokens differ; then the same between `sol` on the file and `sol` on the source, which is what quantising cost. The
programs agree where the first is no more than what roundings of activations do (0.02), or than half of the second.
Exits with 1 where llama.cpp does not load a file or where they do not agree.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import check_accuracy
import check_quantize

# What 8-bit activations that are rounded in other places come to, about.
NOISE = 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--types", default=",".join(check_quantize.MIXED))
    add("--sol", default=check_accuracy.ROOT / "target/release/sol")
    add("--bindings", type=Path, required=True, help="the folder llama_cpp of llama-cpp-python")
    add("--model", help="a GGUF of architecture llama with tied embeddings; default: the default model")
    add("--text", type=Path, default=Path("/usr/share/common-licenses/GPL-3"))
    add("--windows", type=int, default=2)
    add("--threads", type=int, default=2)
    add("--imatrix", type=Path)
    add("--work", type=Path)
    options = parser.parse_args()
    options.prefix, options.modes = "", 1
    failed = []
    with tempfile.TemporaryDirectory(dir=options.work) as work:
        check = check_accuracy.Check(options, Path(work))
        model = options.model or check.call(options.sol, "pull", "smollm2").split("\n")[-1]
        check.write_ids()
        print("| type | KL of llama.cpp from sol | other top token, % | KL of the file from its source |\n|---|---|---|---|")
        for name in options.types.split(","):
            wide = name not in check_quantize.NARROW
            source, base = (check.work / f"{'wide' if wide else 'narrow'}.{end}" for end in ("gguf", "safetensors"))
            if not source.exists():
                check_quantize.make_source(model, source, wide)
                check.logits(source, "f32", base)
            file, out = check.work / "sol.gguf", check.work / "sol.safetensors"
            weights = ["--imatrix", options.imatrix] if options.imatrix else []
            check.call(options.sol, "quantize", "-q", "-m", source, "-o", file, name, "--force", *weights)
            check.logits(file, "f16", out)
            cost = check.child("compare", base, out)[0].mean()
            lib = options.bindings / "lib"
            try:
                kl, top = check.child("llama", file, check.ids, out, True, True, options.threads, lib, options.bindings)
            except SystemExit as error:
                failed.append(name)
                print(f"| {name} | {str(error).splitlines()[-1]} | | |", flush=True)
                continue
            if not kl.mean() < max(NOISE, cost / 2):
                failed.append(name)
            print(f"| {name} | {kl.mean():.2e} | {100 * top.mean():.2f} | {cost:.2e} |", flush=True)
    sys.exit(f"not alike: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
