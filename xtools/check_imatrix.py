#!/usr/bin/env python3
"""Compares `sol imatrix` with llama-imatrix on the same model, text and chunks.

    pip install gguf==0.19.0 numpy==2.4.6
    python xtools/check_imatrix.py --sol SOL --llama DIR-OF-LLAMA-IMATRIX -m MODEL.gguf [--text FILE] [--chunks 4]

Both must have the same matrices, shapes and counts. The mean squares of inputs differ as the programs' arithmetic does: what is
printed is the difference over a matrix in proportion (norm of the difference to the norm), of the mean and the worst matrix, and
the largest difference of one column to its own value. A float32 model shows the programs, a quantised one their roundings too.
Then `sol quantize` makes the same file of llama-imatrix's GGUF and of its older `.dat`. Exits with 1 where matrices differ by
more than 1 %.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np

import check_accuracy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--sol", default=check_accuracy.ROOT / "target/release/sol")
    add("--llama", type=Path, required=True, help="the folder of llama-imatrix")
    add("-m", "--model", type=Path, required=True)
    add("--text", type=Path, default=Path("/usr/share/common-licenses/GPL-2"))
    add("--chunks", type=int, default=4)
    add("--threads", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        ours, theirs, older = (Path(work) / name for name in ("sol.gguf", "llama.gguf", "llama.dat"))
        same = ["-m", options.model, "-f", options.text, "--chunks", options.chunks, "-t", options.threads]
        call(options.sol, "imatrix", "-q", *same, "-o", ours)
        call(options.llama / "llama-imatrix", *same, "-o", theirs, "--output-format", "gguf")
        call(options.llama / "llama-imatrix", "-m", options.model, "--in-file", theirs, "-o", older, "--output-format", "dat")
        good = compare(*({t.name: t.data for t in gguf.GGUFReader(path).tensors} for path in (ours, theirs)))
        files = []
        for matrix in (theirs, older):
            files.append(matrix.with_suffix(".out"))
            call(options.sol, "quantize", "-q", "-m", options.model, "-o", files[-1], "q4_k_m", "--imatrix", matrix)
        a, b = ([t.data for t in gguf.GGUFReader(path).tensors] for path in files)
        alike = np.mean([np.mean(x == y) for x, y in zip(a, b, strict=True)])
        print(f"q4_k_m by the GGUF and by the .dat: {100 * alike:.3f} % of bytes are the same")
        sys.exit(0 if good and alike > 0.999 else 1)


def compare(ours: dict, theirs: dict) -> bool:
    if ours.keys() != theirs.keys():
        raise SystemExit(f"only in one: {sorted(ours.keys() ^ theirs.keys())}")
    whole, column = {}, {}
    for name, a in ours.items():
        a, b = a.reshape(-1), theirs[name].reshape(-1)
        if a.shape != b.shape or name.endswith(".counts") and not np.array_equal(a, b):
            raise SystemExit(f"{name}: {a.shape} {a.flat[0]} in ours, {b.shape} {b.flat[0]} in llama.cpp's")
        if name.endswith(".in_sum2"):
            whole[name] = np.linalg.norm(a - b) / np.linalg.norm(b)
            column[name] = np.max(np.abs(a - b) / np.maximum(b, 1e-30))
    worst, single = max(whole, key=whole.get), max(column, key=column.get)
    print(f"{len(whole)} matrices; difference {np.mean(list(whole.values())):.2e}, at most {whole[worst]:.2e} ({worst}); "
          f"of a column {column[single]:.2e} ({single})")
    return whole[worst] < 0.01


def call(*command) -> None:
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}:\n{result.stderr[-3000:]}")


if __name__ == "__main__":
    main()
