#!/usr/bin/env python3
"""Compares `sol quantize` with llama.cpp's quantiser: types of all tensors, squared errors, speed and perplexity.

    pip install gguf==0.19.0 numpy==2.4.6 typing_extensions==4.16.0
    python xtools/check_quantize.py --sol SOL --bindings SITE-PACKAGES/llama_cpp [--types q4_0,q4_k_m] [--text FILE] [--help]

The default model's weights are taken to 32 bits, scaled by columns, and its dimensions reordered and their signs changed so that the
function stays the same, lest some formats' levels be theirs (its embedding table is not scaled: look at the names' usual meaning,
where that has 6 or 8 bits). K types and IQ4_XS have blocks of 256 columns, which few of its matrices fill: for them it is made wider with zeros
(as in check_accuracy.py). Both quantisers then write the file in every type; the gguf package decodes it. MSE is the mean over
tensors of llama.cpp's squared error over ours: above 1, ours is the smaller; the worst tensor is given too. Times are the
user's and the system's seconds (a busy machine says little by the clock) of the fastest of --runs. Perplexity is measured by
`sol perplexity` for both, with the same text.

That of few bits is much a matter of chance: --seeds N takes the geometric mean of N random scalings of the source (of its ratios,
that is). Exits with 1 where ours loses: more than 1 % more squared error in any tensor, 1 % more perplexity, or more seconds.

With --imatrix FILE (of `sol imatrix`) both quantise with it, errors are weighted by its columns, and nothing is reordered.
"""

import argparse
import ctypes
import importlib.metadata
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path

import gguf
import numpy as np

import check_accuracy

PURE = "q8_0 q4_0 q4_1 q5_0 q5_1 iq4_nl q2_k q3_k_s q4_k_s q5_k_s q6_k iq4_xs".split()
MIXED = "q2_k q3_k_s q3_k_m q3_k_l q4_k_s q4_k_m q5_k_s q5_k_m q6_k iq4_nl iq4_xs q4_0 q4_1 q5_0 q5_1 q8_0".split()
NARROW = "q8_0 q4_0 q4_1 q5_0 q5_1 iq4_nl".split()


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        llama(*json.loads(sys.argv[2]))
        return
    for package, version in check_accuracy.PINNED.items():
        if importlib.metadata.version(package) != version:
            raise SystemExit(f"figures are quoted for {package} {version}")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--types", default="", help="each alone in the file (llama-quantize --pure)")
    add("--mixes", default="all", help="as the names mean; `all` for all")
    add("--sol", default=check_accuracy.ROOT / "target/release/sol")
    add("--bindings", type=Path, required=True, help="the folder llama_cpp of llama-cpp-python")
    add("--model", help="a GGUF of architecture llama with tied embeddings; default: the default model")
    add("--text", type=Path, default=Path("/usr/share/common-licenses/GPL-3"))
    add("--chunks", type=int, default=16, help="of 512 tokens; 0: no perplexity")
    add("--threads", type=int, default=os.cpu_count())
    add("--runs", type=int, default=3)
    add("--seeds", type=int, default=1)
    add("--imatrix", type=Path)
    add("--work", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.work) as work:
        run(options, Path(work))


def run(options, work: Path) -> None:
    model = options.model or subprocess.run([options.sol, "pull", "smollm2"], check=True, capture_output=True, text=True).stdout.split("\n")[-2]
    mixes = MIXED if options.mixes == "all" else options.mixes.split(",") if options.mixes else []
    jobs = [(name, True) for name in options.types.split(",") if name] + [(name, False) for name in mixes]
    print("| type | error %: sol | llama.cpp | MSE, llama.cpp / sol | worst tensor | seconds: sol | llama.cpp | PPL: sol | llama.cpp |")
    print("|---|---|---|---|---|---|---|---|---|")
    lost = []
    for name, pure in jobs:
        wide = name not in NARROW
        logs = []
        for seed in range(options.seeds if options.chunks else 1):
            source = work / f"{'wide' if wide else 'narrow'}.{seed}.gguf"
            if not source.exists():
                make_source(model, source, wide, seed, reorder=not options.imatrix)
                if options.chunks:
                    print(f"| {source.stem} source, f32 | | | | | | | {perplexity(options, source):.4f} | |", flush=True)
            ours, theirs = work / "sol.gguf", work / "llama.gguf"
            weights = ["--imatrix", options.imatrix] if options.imatrix else []
            command = [options.sol, "quantize", "-q", "-m", source, "-o", ours, name.removesuffix("_s") if pure else name,
                       "--force", "-t", options.threads, *weights, *(["--pure"] if pure else [])]
            child = [str(options.bindings), str(source), str(theirs), name, pure, options.threads, str(options.imatrix or "")]
            each = [command, [sys.executable, __file__, "--child", json.dumps(child)]]
            used = fastest(options.runs if seed == 0 else 1, each)
            if seed == 0:
                seconds, (found, worst) = used, compare(source, ours, theirs, options.imatrix)
            if options.chunks:
                logs.append([math.log(perplexity(options, path)) for path in (ours, theirs)])
        ppl = np.exp(np.mean(logs, 0)) if logs else [1, 1]
        losses = {"error": worst < 1 / 1.01, "perplexity": ppl[0] > 1.01 * ppl[1], "seconds": seconds[0] > seconds[1]}
        title = f"{name}, alone" if pure else name
        lost += [f"{title}: {what}" for what, is_lost in losses.items() if is_lost]
        print(f"| {title} | {found} | {seconds[0]:.2f} | {seconds[1]:.2f} | {ppl[0]:.4f} | {ppl[1]:.4f} |", flush=True)
    sys.exit("\n".join(["ours loses:", *lost]) if lost else 0)


def make_source(model: str, out: Path, wide: bool, seed: int = 0, reorder: bool = True) -> None:
    """The same function with other numbers: norms are folded into the matrices behind them, and what goes from values to the
    output projection, from up to down and from queries to keys is scaled at random, dimension by dimension; the dimensions of
    the residual stream and of the feed-forward networks are reordered, the former change signs."""
    plain = out.with_suffix(".plain")
    check_accuracy.dequantise(model, str(plain), wide, None)
    reader = gguf.GGUFReader(plain)
    places = {t.name.removesuffix(".weight"): t.data_offset for t in reader.tensors}
    weights = {t.name.removesuffix(".weight"): np.array(t.data) for t in reader.tensors}
    number = lambda key: int(reader.fields[f"llama.{key}"].contents())  # noqa: E731
    heads, groups = number("attention.head_count"), number("attention.head_count_kv")
    rng = np.random.default_rng(seed)
    random = lambda n: np.exp(rng.uniform(-0.35, 0.35, n)).astype(np.float32)  # noqa: E731
    for layer in range(number("block_count")):
        part = lambda name: weights[f"blk.{layer}.{name}"]  # noqa: B023, E731
        for norm, matrices in {"attn_norm": ("attn_q", "attn_k", "attn_v"), "ffn_norm": ("ffn_gate", "ffn_up")}.items():
            for matrix in matrices:
                part(matrix)[:] *= part(norm)
            part(norm)[:] = 1
        for before, after, copies in ("attn_v", "attn_output", heads // groups), ("ffn_up", "ffn_down", 1):
            scales = random(len(part(before)))
            part(before)[:] *= scales[:, None]
            per_head = scales.reshape(groups, -1) if copies > 1 else scales[None]
            part(after)[:] /= np.repeat(per_head, copies, 0).reshape(-1)
        # The two rows that are rotated together.
        scales = np.repeat(random(len(part("attn_k")) // 2), 2)
        part("attn_k")[:] *= scales[:, None]
        part("attn_q")[:] /= np.repeat(scales.reshape(groups, -1), heads // groups, 0).reshape(-1, 1)
    if reorder:
        shuffle(weights, number("block_count"), rng)
    with open(plain, "r+b") as file:
        for name, place in places.items():
            file.seek(place)
            file.write(weights[name].tobytes())
    plain.rename(out)


def shuffle(weights: dict, layers: int, rng) -> None:
    """What rows scaled alike would leave as it was: which numbers share a block, and their signs."""
    width = weights["token_embd"].shape[1]
    used = np.flatnonzero(np.abs(weights["token_embd"]).any(0))
    order, signs = np.arange(width), np.ones(width, np.float32)
    order[used], signs[used] = rng.permutation(used), rng.choice(np.float32([-1, 1]), len(used))
    for name, weight in weights.items():
        kind = name.split(".")[-1]
        if weight.ndim == 1:
            weight[:] = weight[order] if kind.endswith("norm") else weight
        elif kind in ("attn_output", "ffn_down"):
            weight[:] = (weight * signs[:, None])[order]
        else:
            weight[:] = (weight * signs)[:, order]
    for layer in range(layers):
        order = rng.permutation(len(weights[f"blk.{layer}.ffn_up"]))
        for name in "ffn_gate", "ffn_up":
            weights[f"blk.{layer}.{name}"][:] = weights[f"blk.{layer}.{name}"][order]
        weights[f"blk.{layer}.ffn_down"][:] = weights[f"blk.{layer}.ffn_down"][:, order]


def fastest(runs: int, commands: list) -> list[float]:
    """Of each, in turn."""
    best = [float("inf")] * len(commands)
    for _ in range(runs):
        for i, command in enumerate(commands):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
            if result.returncode:
                raise SystemExit(result.stderr[-4000:])
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            # What Python and its libraries take to begin is not llama.cpp's.
            best[i] = min(best[i], used - json.loads(result.stdout)["startup"] if "startup" in result.stdout else used)
    return best


def compare(source: Path, ours: Path, theirs: Path, imatrix: Path | None) -> tuple[str, float]:
    files = [{t.name: t for t in gguf.GGUFReader(path).tensors} for path in (source, ours, theirs)]
    sums = {t.name: t.data for t in gguf.GGUFReader(imatrix).tensors} if imatrix else {}
    ratios, errors = {}, np.zeros(3)
    for name, tensor in files[0].items():
        kinds = [f[name].tensor_type for f in files[1:]]
        if kinds[0] != kinds[1]:
            raise SystemExit(f"{name} is {kinds[0].name} in ours and {kinds[1].name} in llama.cpp's")
        if kinds[0] == tensor.tensor_type:
            continue
        x = np.asarray(tensor.data, np.float32)
        weight = sums.get(f"{name}.in_sum2", np.ones(1, np.float32)).astype(np.float64).reshape(-1)
        square = (x.astype(np.float64) ** 2 * weight).sum()
        each = [((gguf.dequantize(f[name].data, k) - x).astype(np.float64) ** 2 * weight).sum() for f, k in zip(files[1:], kinds)]
        errors += np.array([*each, square]) / (square or 1)
        if each[0]:
            ratios[name] = each[1] / each[0]
    worst = min(ratios, key=ratios.get)
    percent = 100 * np.sqrt(errors[:2] / errors[2])
    mean = np.mean(list(ratios.values()))
    text = f"{percent[0]:.3f} | {percent[1]:.3f} | {mean:.3f} | {ratios[worst]:.3f} {worst.removesuffix('.weight')}"
    return text, ratios[worst]


def perplexity(options, model: Path) -> float:
    command = [options.sol, "perplexity", "-q", "--json", "-m", model, "-f", options.text, "--chunks", options.chunks, "-t", options.threads]
    return json.loads(subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout)["perplexity"]


def llama(bindings: str, source: str, out: str, name: str, pure: bool, threads: int, imatrix: str) -> None:
    package = types.ModuleType("llama_cpp")  # Without its __init__, which wants more packages.
    package.__path__ = [bindings]
    sys.modules["llama_cpp"] = package
    import llama_cpp.llama_cpp as api

    params = api.llama_model_quantize_default_params()
    params.ftype = getattr(api, f"LLAMA_FTYPE_MOSTLY_{name.upper()}")
    params.nthread, params.pure = threads, pure
    keep = []
    if imatrix:
        tensors = {t.name: t.data for t in gguf.GGUFReader(imatrix).tensors}
        names = [n.removesuffix(".in_sum2") for n in tensors if n.endswith(".in_sum2")]
        entries = (api.llama_model_imatrix_data * (len(names) + 1))()
        for entry, tensor in zip(entries, names):
            data = np.ascontiguousarray(tensors[f"{tensor}.in_sum2"] / tensors[f"{tensor}.counts"].reshape(-1, 1), np.float32)
            keep += [data, tensor.encode()]
            entry.name, entry.size = keep[-1], data.size
            entry.data = data.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        params.imatrix = entries
    quiet = api.llama_log_callback(lambda level, text, data: None)
    api.llama_log_set(quiet, None)
    startup = time.process_time()
    if api.llama_model_quantize(source.encode(), out.encode(), ctypes.byref(params)):
        raise SystemExit("llama_model_quantize failed")
    print(json.dumps({"startup": startup}))


if __name__ == "__main__":
    main()
