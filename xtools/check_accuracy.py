#!/usr/bin/env python3
"""Compares what `sol` and llama.cpp lose by their arithmetic: KL divergence of the logits of a quantised file to those of a
float32 run of the very same, dequantised weights.

    pip install gguf==0.19.0 numpy==2.4.6 typing_extensions==4.16.0
    benches/build-llama.sh llama-quantize llama-completion; cargo build --release -p sol
    python xtools/check_accuracy.py [--types q8_0,q4_k_s] [--text FILE] [--exact q4_0] [--help]

For each type: `llama-quantize --pure` makes a file of the default model's weights; the gguf package dequantises it into an F32
file; `sol logits` with f32 keys and values makes the base from that. Both programs then read the quantised file, with the
same token ids (`sol tokenize`), in windows of 512, each on its own. llama.cpp's logits come through the Python bindings of the
pinned llama-cpp-python, out of the libraries in --llama, with flash attention on and off; with --modes 4 also without repacking
the weights. Every position counts. (llama-perplexity's --kl-divergence is not used: its base holds log-probabilities in steps
of about 2e-4, too coarse for files of 16 bits, and it scores half of the positions.)

Keys and values are f16 in both programs; with --f32-keys `sol` is also run with f32. A difference is significant where it is
a few of its standard errors (paired by position; neighbours are taken as independent, so the true errors may be larger).

K types and IQ4_XS have blocks of 256 columns, and of SmolLM2-135M's matrices only ffn_down has a multiple of those:
llama-quantize gives the others another type. So for these types the model is made wider with zeros (hidden size 576 to 768, 3
to 4 groups of heads; norms are scaled so that the function is the same) and every matrix has the type. --plain leaves the
model as it is.

--exact TYPE also computes a float64 run in numpy, as a base that is neither program's.
--prefix CMD is put before every command that computes (nice, taskset, a lock).
"""

import argparse
import importlib.metadata
import json
import math
import os
import shlex
import subprocess
import sys
import tempfile
import types
from collections import Counter
from pathlib import Path

import gguf
import numpy as np

PINNED = {"gguf": "0.19.0", "numpy": "2.4.6"}
ROOT = Path(__file__).resolve().parent.parent
TYPES = "q8_0 q4_0 q4_1 q5_0 q5_1 iq4_nl q2_k q3_k_s q4_k_s q5_k_s q6_k iq4_xs f16 bf16".split()
WIDE = "q2_k q3_k_s q4_k_s q5_k_s q6_k iq4_xs".split()
WINDOW = 512

# llama.cpp's modes, (repack, flash attention); the first is its default.
MODES = {"flash": (True, True), "no flash": (True, False), "flash, not repacked": (False, True), "neither": (False, False)}


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        CHILDREN[sys.argv[2]](*json.loads(sys.argv[3]))
        return
    for package, version in PINNED.items():
        have = importlib.metadata.version(package)
        if have != version:
            raise SystemExit(f"{package} is {have}; figures are quoted for {version}")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--types", default=",".join(TYPES))
    add("--sol", default=ROOT / "target/release/sol")
    add("--llama", type=Path, default=ROOT / "target/llama/build/bin", help="llama-quantize and the libraries")
    add("--bindings", type=Path, default=ROOT / "target/llama/llama_cpp_python-0.3.36/llama_cpp",
        help="the Python package of the same version")
    add("--model", help="a GGUF of architecture llama with tied embeddings; default: the default model")
    add("--text", type=Path, default=Path("/usr/share/common-licenses/GPL-3"))
    add("--windows", type=int, default=8)
    add("--threads", type=int, default=os.cpu_count())
    add("--plain", action="store_true")
    add("--modes", type=int, default=2, choices=range(1, 5), help="so many of llama.cpp's modes")
    add("--f32-keys", action="store_true")
    add("--exact", default="", metavar="TYPES")
    add("--prefix", default="", metavar="CMD")
    add("--work", type=Path, help="where large files lie for a while (about 4 GB); default: a new temporary directory")
    add("--json", type=Path, help="write all figures there")
    options = parser.parse_args()
    unknown = set(f"{options.types},{options.exact}".strip(",").split(",")) - set(TYPES)
    if unknown:
        raise SystemExit(f"no such type: {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory(dir=options.work) as work:
        Check(options, Path(work)).run()


class Check:
    def __init__(self, options, work: Path):
        self.options, self.work = options, work
        self.prefix = shlex.split(options.prefix)
        self.modes = dict(list(MODES.items())[: options.modes])
        self.env = dict(os.environ, OPENBLAS_NUM_THREADS=str(options.threads))

    def run(self) -> None:
        options = self.options
        model = options.model or self.call(options.sol, "pull", "smollm2").split("\n")[-1]
        self.write_ids()
        report = {}
        print("| type | mean KL: sol | llama.cpp, default | llama.cpp, best mode | sol / best | best - sol, std. errors "
              "| max KL: sol, best | other top token, %: sol, best |")
        print("|---|---|---|---|---|---|---|---|")
        notes = []
        for name in options.types.split(","):
            wide = name in WIDE and not options.plain
            source = self.work / ("wide.gguf" if wide else "source.gguf")
            if not source.exists():
                self.child("dequantise", model, source, wide)
            found, tensors = self.measure(name, source)
            best = min(self.modes, key=lambda mode: found[mode][0].mean())
            sol, default, least = found["sol"], found["flash"], found[best]
            gain = least[0] - sol[0]
            error = gain.std() / math.sqrt(len(gain))
            means = [kl.mean() for kl in (sol[0], default[0], least[0])]
            print(
                f"| {name} | {means[0]:.3e} | {means[1]:.3e} | {means[2]:.3e} | {means[0] / means[2]:.3f} "
                f"| {gain.mean() / error if error else 0:+.1f} | {sol[0].max():.1e}, {least[0].max():.1e} "
                f"| {100 * sol[1].mean():.2f}, {100 * least[1].mean():.2f} |",
                flush=True,
            )
            means = ", ".join(f"{run} {figures[0].mean():.4e}" for run, figures in found.items())
            notes.append(f"{name}: {tensors}. {means}")
            report[name] = {"tensors": tensors, "mean": {k: float(v[0].mean()) for k, v in found.items()},
                            "max": {k: float(v[0].max()) for k, v in found.items()},
                            "top": {k: float(v[1].mean()) for k, v in found.items()},
                            "error": {k: float(v[0].std() / math.sqrt(len(v[0]))) for k, v in found.items()}}
            if options.json:
                options.json.write_text(json.dumps(report, indent=1))
        print("\n" + "\n".join(notes))

    def measure(self, name: str, source: Path) -> tuple[dict, str]:
        """Each run's (KL, whether the top token differs) by position; and which tensors have which type."""
        options, work = self.options, self.work
        quantised, plain, base = work / f"{name}.gguf", work / f"{name}-f32.gguf", work / "base.safetensors"
        self.call(options.llama / "llama-quantize", "--pure", source, quantised, name.upper(), options.threads)
        self.child("dequantise", quantised, plain, False)
        self.logits(plain, "f32", base)
        found = {}
        for run, kv in {"sol": "f16", "sol, f32 keys": "f32"}.items():
            if kv == "f16" or options.f32_keys:
                out = work / "logits.safetensors"
                self.logits(quantised, kv, out)
                found[run] = self.child("compare", base, out)
                out.unlink()
        for mode in self.modes:
            found[mode] = self.llama(quantised, base, mode)
        if name in options.exact.split(","):
            self.exact(name, plain, quantised, base, found)
        matrices = [(t.name.split(".")[-2], t.tensor_type.name) for t in gguf.GGUFReader(quantised).tensors if len(t.shape) > 1]
        count = Counter(kind for _, kind in matrices)
        other = sorted({matrix for matrix, kind in matrices if kind != count.most_common()[0][0]})
        text = ", ".join(f"{n} matrices {kind}" for kind, n in count.most_common())
        for path in (quantised, plain, base):
            path.unlink()
        return found, text + (f" (not of the most frequent type: {', '.join(other)})" if other else "")

    def exact(self, name: str, plain: Path, quantised: Path, base: Path, found: dict) -> None:
        """The same against a float64 run; one window at a time, because of its memory."""
        exact, out = self.work / "exact.safetensors", self.work / "logits.safetensors"
        parts = [self.work / f"exact.{w}.npy" for w in range(self.options.windows)]
        for w, part in enumerate(parts):
            self.child("float64", plain, self.ids, w, part)
        with SafeTensor.create(exact, (len(parts), WINDOW, len(np.load(parts[0], mmap_mode="r")[0]))) as file:
            for part in parts:
                file.write(np.load(part).tobytes())
                part.unlink()
        print(f"\n{name} to a float64 run: base {self.child('compare', exact, base)[0].mean():.3e}", end="")
        self.logits(quantised, "f16", out)
        print(f", sol {self.child('compare', exact, out)[0].mean():.3e}", end="")
        out.unlink()
        for mode in self.modes:
            print(f", {mode} {self.llama(quantised, exact, mode)[0].mean():.3e}", end="")
        print("\n")
        exact.unlink()

    def write_ids(self) -> None:
        text = self.options.text.read_bytes()
        command = [self.options.sol, "tokenize", *(["-m", self.options.model] if self.options.model else [])]
        tokens = json.loads(subprocess.run(command, input=text, check=True, capture_output=True).stdout)
        need = self.options.windows * WINDOW
        if len(tokens) < need:
            raise SystemExit(f"{self.options.text}: {len(tokens)} tokens; {need} are needed")
        self.ids = self.work / "ids.safetensors"
        with SafeTensor.create(self.ids, (self.options.windows, WINDOW), "input_ids", "I64") as file:
            file.write(np.array(tokens[:need], np.int64).tobytes())

    def logits(self, model: Path, kv: str, out: Path) -> None:
        threads = self.options.threads
        self.call(self.options.sol, "logits", "-q", "-m", model, "--kv", kv, "-t", threads, "--ids", self.ids, "--out", out)

    def llama(self, model: Path, base: Path, mode: str):
        options = self.options
        return self.child("llama", model, self.ids, base, *self.modes[mode], options.threads, options.llama, options.bindings)

    def child(self, name: str, *args):
        """Runs a function of this file as a process of its own, so that --prefix holds for it; its result is a file."""
        out = self.work / "result.npy"
        args = [str(a) if isinstance(a, Path) else a for a in (*args, out)]
        self.call(sys.executable, __file__, "--child", name, json.dumps(args))
        if out.exists():
            result = np.load(out)
            out.unlink()
            return result

    def call(self, *command) -> str:
        result = subprocess.run([*self.prefix, *map(str, command)], env=self.env, capture_output=True, text=True)
        if result.returncode:
            raise SystemExit(f"{shlex.join(map(str, command))}:\n{result.stdout[-2000:]}{result.stderr[-4000:]}")
        return result.stdout.strip()


class SafeTensor:
    """A file of one tensor."""

    @staticmethod
    def create(path: Path, shape: tuple, name: str = "logits", dtype: str = "F32"):
        size = math.prod(shape) * {"F32": 4, "I64": 8}[dtype]
        header = json.dumps({name: {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}).encode()
        header += b" " * (-len(header) % 8)
        file = open(path, "wb")
        file.write(len(header).to_bytes(8, "little") + header)
        return file

    @staticmethod
    def read(path: str) -> np.ndarray:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        (tensor,) = (value for key, value in header.items() if key != "__metadata__")
        kind = {"F32": np.float32, "I64": np.int64}[tensor["dtype"]]
        return np.memmap(path, kind, "r", 8 + length + tensor["data_offsets"][0], tuple(tensor["shape"]))


def dequantise(path: str, out: str, wide: bool, _) -> None:
    reader = gguf.GGUFReader(path)
    value = lambda key: reader.fields[key].contents()  # noqa: E731
    writer = gguf.GGUFWriter(out, value("general.architecture"))
    hidden, heads, groups = (value(f"llama.{k}") for k in ("embedding_length", "attention.head_count", "attention.head_count_kv"))
    changed = {"general.file_type": int(gguf.LlamaFileType.ALL_F32)}
    if wide:
        head = hidden // heads
        new_groups = next(n for n in range(groups, 9999) if n * head * heads // groups % 256 == 0)
        new_heads = new_groups * heads // groups
        new_hidden = new_heads * head
        shrink = hidden / new_hidden
        epsilon = "llama.attention.layer_norm_rms_epsilon"
        changed |= {"llama.embedding_length": new_hidden, "llama.attention.head_count": new_heads,
                    "llama.attention.head_count_kv": new_groups, epsilon: value(epsilon) * shrink}
        sizes = {hidden: new_hidden, groups * head: new_groups * head}
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "general.quantization_version"):
            continue
        kind = field.types[0]
        sub = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, changed.get(field.name, field.contents()), kind, sub)
    for tensor in reader.tensors:
        x = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if wide:
            if x.ndim == 1:
                x = x * np.float32(math.sqrt(shrink))
            x = np.pad(x, [(0, sizes.get(n, n) - n) for n in x.shape])
        writer.add_tensor(tensor.name, np.ascontiguousarray(x))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def divergence(base: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """[KL(base || logits), whether the top token differs] of each row."""
    result = np.empty((2, len(base)))
    for start in range(0, len(base), 32):
        a, b = base[start : start + 32], logits[start : start + 32]
        top = a.argmax(1)
        p = np.exp(a - a[np.arange(len(a)), top][:, None])
        total = p.sum(1, dtype=np.float64)
        d = b - a
        d -= ((p * d).sum(1, dtype=np.float64) / total).astype(np.float32)[:, None]
        # With E[d] = 0, KL = log E[exp(d)] = log(1 + E[exp(d) - 1 - d]): no difference of large numbers.
        excess = np.expm1(d)
        excess -= d
        excess *= p
        result[0, start : start + 32] = np.log1p(excess.sum(1, dtype=np.float64) / total)
        result[1, start : start + 32] = b.argmax(1) != top
    return result


def compare(base: str, other: str, out: str) -> None:
    base, other = SafeTensor.read(base), SafeTensor.read(other)
    np.save(out, np.concatenate([divergence(a, b) for a, b in zip(base, other)], axis=1))


def llama(model: str, ids: str, base: str, repack: bool, flash: bool, threads: int, lib: str, bindings: str, out: str) -> None:
    os.environ["LLAMA_CPP_LIB_PATH"] = lib
    package = types.ModuleType("llama_cpp")  # Without its __init__, which wants more packages.
    package.__path__ = [bindings]
    sys.modules["llama_cpp"] = package
    import llama_cpp.llama_cpp as api

    api.llama_backend_init()
    params = api.llama_model_default_params()
    params.use_extra_bufts = repack
    handle = api.llama_model_load_from_file(model.encode(), params)
    params = api.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = WINDOW
    params.n_threads = params.n_threads_batch = threads
    params.flash_attn_type = int(flash)
    params.type_k = params.type_v = 1  # F16
    context = api.llama_init_from_model(handle, params)
    if not handle or not context:
        raise SystemExit("llama.cpp can not load it")
    vocab = api.llama_vocab_n_tokens(api.llama_model_get_vocab(handle))
    batch = api.llama_batch_init(WINDOW, 0, 1)
    results = []
    for tokens, wanted in zip(SafeTensor.read(ids), SafeTensor.read(base)):
        api.llama_memory_clear(api.llama_get_memory(context), True)
        batch.n_tokens = WINDOW
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = int(token), i, 1, 0, 1
        if api.llama_decode(context, batch):
            raise SystemExit("llama_decode failed")
        results.append(divergence(wanted, np.ctypeslib.as_array(api.llama_get_logits(context), (WINDOW, vocab))))
    np.save(out, np.concatenate(results, axis=1))


def float64(path: str, ids: str, window: int, part: str, _) -> None:
    """Logits of one window, of a model of architecture llama with tied embeddings."""
    reader = gguf.GGUFReader(path)
    value = lambda key: reader.fields[f"llama.{key}"].contents()  # noqa: E731
    weights = {t.name.removesuffix(".weight"): t.data for t in reader.tensors}
    heads, groups = value("attention.head_count"), value("attention.head_count_kv")
    epsilon = value("attention.layer_norm_rms_epsilon")

    def norm(x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon) * weights[name]

    def times(x, name):
        return x @ weights[name].astype(np.float64).T

    def rotate(x):  # Pairs of neighbours, as GGUF files of this architecture have them; [heads, T, head].
        angles = np.arange(x.shape[1])[:, None] * value("rope.freq_base") ** (-np.arange(0, x.shape[2], 2) / x.shape[2])
        z = (x[..., ::2] + 1j * x[..., 1::2]) * np.exp(1j * angles)
        return np.stack([z.real, z.imag], -1).reshape(x.shape)

    x = weights["token_embd"][SafeTensor.read(ids)[window]].astype(np.float64)
    n = len(x)
    for layer in range(value("block_count")):
        at = f"blk.{layer}."
        h = norm(x, at + "attn_norm")
        parts = ("q", heads), ("k", groups), ("v", groups)
        q, k, v = (times(h, f"{at}attn_{m}").reshape(n, count, -1).transpose(1, 0, 2) for m, count in parts)
        q, k, v = rotate(q), np.repeat(rotate(k), heads // groups, 0), np.repeat(v, heads // groups, 0)
        scores = q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[2])
        scores = np.where(np.tri(n, dtype=bool), scores, -np.inf)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = scores / scores.sum(-1, keepdims=True) @ v
        x = x + times(mixed.transpose(1, 0, 2).reshape(n, -1), at + "attn_output")
        h = norm(x, at + "ffn_norm")
        gate = times(h, at + "ffn_gate")
        x = x + times(gate / (1 + np.exp(-gate)) * times(h, at + "ffn_up"), at + "ffn_down")
    np.save(part, times(norm(x, "output_norm"), "token_embd").astype(np.float32))


CHILDREN = {"dequantise": dequantise, "compare": compare, "llama": llama, "float64": float64}

if __name__ == "__main__":
    main()
