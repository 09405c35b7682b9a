#!/usr/bin/env python3
"""Holds `sol convert` against programs that were not written with it, on the tiny checkpoints.

    python xtools/check_convert.py --sol target/debug/sol [--data crates/sol-model/tests/data/models ...]

Whatever of these packages is installed is asked: gguf 0.19.0 (reads every file), transformers 4.56.2 with torch 2.8.0 (loads
every directory, its logits and token ids), peft 0.21.2 (a merged adapter), llama-cpp-python 0.3.36 (llama.cpp's logits of every
file whose architecture it has). Prints one line for each check and exits with 1 if one fails.
"""

import argparse
import ctypes
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "crates/sol-model/tests/data"
FAILED = []


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--sol", type=Path, default=ROOT / "target/debug/sol")
    arguments.add_argument("--data", type=Path, nargs="+", default=[DATA / "models"], help="directories of checkpoints")
    options = arguments.parse_args()
    have = {name: importlib.util.find_spec(name) is not None for name in ("gguf", "transformers", "peft", "llama_cpp")}
    print("asked:", ", ".join(name for name, there in have.items() if there) or "nobody")
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        sources = [d for data in options.data for d in sorted(data.iterdir()) if (d / "config.json").exists()]
        for number, source in enumerate(sources):
            file, back = scratch / f"{number}-{source.name}.gguf", scratch / f"{number}-{source.name}"
            convert(options.sol, source, file)
            convert(options.sol, file, back)
            check_sol(options.sol, source, file, back)
            if have["gguf"]:
                check_gguf(source, file)
            if have["transformers"]:
                check_transformers(source, back)
            if have["llama_cpp"]:
                check_llama(options.sol, source, file)
        for name in ("chat-tiny", "solar-tiny"):
            file, back = scratch / f"{name}.gguf", scratch / name
            convert(options.sol, DATA / name, file)
            convert(options.sol, file, back)
            if have["transformers"]:
                check_tokenizer(DATA / name, back)
            if have["llama_cpp"]:
                check_llama_tokens(options.sol, DATA / name, scratch)
        if have["peft"]:
            for name, dora in [(name, dora) for name in ("llama", "phi3", "gemma2") for dora in (False, True)]:
                check_peft(options.sol, DATA / "models" / name, scratch / f"peft-{name}-{dora}", dora)
    sys.exit(bool(FAILED))


def convert(sol: Path, source: Path, out: Path, *more: str) -> None:
    subprocess.run([sol, "convert", "-q", "-m", source, "-o", out, *more], check=True, stdout=subprocess.DEVNULL)


def report(who: str, source: Path, what: str, good: bool) -> None:
    print(f"{'ok  ' if good else 'FAIL'} {who:12} {source.parent.name}/{source.name}: {what}", flush=True)
    if not good:
        FAILED.append((who, source))


def tensors(path: Path) -> dict[str, np.ndarray]:
    """A safetensors file of plain types, bfloat16 as its bits."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    kinds = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "I64": np.int64}
    found = {}
    for name, entry in header.items():
        if name != "__metadata__":
            start, end = (8 + length + offset for offset in entry["data_offsets"])
            found[name] = np.frombuffer(raw[start:end], kinds[entry["dtype"]]).reshape(entry["shape"])
    return found


def check_sol(sol: Path, source: Path, file: Path, back: Path) -> None:
    """Our engine: the same bits from the file as from the directory; where GGUF has the halves of heads interleaved, sums of
    products in another order."""
    outputs = []
    for model in (source, file, back):
        out = file.with_suffix(f".{len(outputs)}.logits")
        command = [sol, "logits", "-m", model, "--ids", source / "expected.safetensors", "--out", out]
        subprocess.run(command, check=True, capture_output=True)
        outputs.append(tensors(out)["logits"])
    differences = [float(np.abs(o - outputs[0]).max()) for o in outputs[1:]]
    kind = json.loads((source / "config.json").read_text())["model_type"]
    limit = 1e-4 if kind in ("llama", "solar") else 0
    good = differences[0] <= limit and (differences[1] == 0 or kind == "llama" and differences[1] <= limit)
    report("sol", source, f"file {differences[0]:g}, back {differences[1]:g}", good)


def check_gguf(source: Path, file: Path) -> None:
    from gguf import GGUFReader

    reader = GGUFReader(file)
    original = tensors(source / "model.safetensors")
    count = sum(t.n_elements for t in reader.tensors if not t.name.startswith(("rope_", "bskcn_tv")))
    expected = sum(t.size for t in original.values())
    report("gguf", source, f"{len(reader.tensors)} tensors, {len(reader.fields)} fields", count == expected)


def check_transformers(source: Path, back: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = json.loads((back / "config.json").read_text())
    if config["model_type"] == "solar":
        names = set(tensors(source / "model.safetensors"))
        report("names", source, "as the source's", names == set(tensors(back / "model.safetensors")))
        return
    AutoConfig.from_pretrained(back)
    model, info = AutoModelForCausalLM.from_pretrained(
        back, torch_dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    expected = tensors(source / "expected.safetensors")
    with torch.no_grad():
        logits = model(torch.tensor(expected["input_ids"]), use_cache=False).logits.numpy()
    worst = float(np.abs(logits - expected["logits"]).max())
    whole = not (info["missing_keys"] or info["unexpected_keys"] or info["mismatched_keys"])
    report("transformers", source, f"{type(model).__name__}, logits within {worst:.1e}", whole and worst < 1e-3)


class Llama:
    """llama.cpp with everything in float32."""

    def __init__(self, file: Path, context: int = 0, vocab_only: bool = False):
        import llama_cpp as lib

        self.lib = lib
        silent = lib.llama_log_callback(lambda *_: None)
        lib.llama_log_set(silent, ctypes.c_void_p(0))
        self.silent = silent
        parameters = lib.llama_model_default_params()
        parameters.vocab_only = vocab_only
        self.model = lib.llama_model_load_from_file(str(file).encode(), parameters)
        if not self.model:
            raise RuntimeError(f"llama.cpp does not load {file}")
        self.vocab = lib.llama_model_get_vocab(self.model)
        if not vocab_only:
            parameters = lib.llama_context_default_params()
            parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = context
            parameters.type_k = parameters.type_v = 0
            parameters.flash_attn_type = 0
            parameters.n_threads = parameters.n_threads_batch = 1
            self.context = lib.llama_init_from_model(self.model, parameters)

    def logits(self, ids: list[int]) -> np.ndarray:
        lib = self.lib
        batch = lib.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = token, i, 1, 0, 1
        if lib.llama_decode(self.context, batch):
            raise RuntimeError("llama_decode failed")
        vocab = lib.llama_vocab_n_tokens(self.vocab)
        rows = [np.ctypeslib.as_array(lib.llama_get_logits_ith(self.context, i), (vocab,)).copy() for i in range(len(ids))]
        return np.stack(rows)

    def tokens(self, text: str) -> list[int]:
        raw = text.encode()
        room = (self.lib.llama_token * (len(raw) + 16))()
        n = self.lib.llama_tokenize(self.vocab, raw, len(raw), room, len(room), True, True)
        return list(room[:n])


def variant(source: Path, place: Path, **changes: object) -> Path:
    """The same checkpoint with another config."""
    shutil.copytree(source, place, ignore=shutil.ignore_patterns("bf16"))
    config = json.loads((source / "config.json").read_text()) | changes
    (place / "config.json").chmod(0o644)
    (place / "config.json").write_text(json.dumps(config))
    return place


def check_llama(sol: Path, source: Path, file: Path) -> None:
    config = json.loads((source / "config.json").read_text())
    expected = tensors(source / "expected.safetensors")
    ids = expected["input_ids"][0].tolist()
    kind = config["model_type"]
    if kind == "solar":
        return  # an architecture that llama.cpp does not have
    # It drops Phi-3's window; the fixtures know what comes of that.
    logits = expected["logits.no_window" if "logits.no_window" in expected else "logits"]
    limit = 1e-3
    if kind == "gemma2":
        # Its score scale is that of head_dim whatever the file says, and gelu goes through a table of 16 bits. Ours, held against
        # PyTorch elsewhere, says what that model gives.
        other = variant(source, file.with_suffix(".scale"), query_pre_attn_scalar=config["head_dim"])
        file, out, limit = file.with_suffix(".scale.gguf"), file.with_suffix(".scale.logits"), 0.1
        convert(sol, other, file)
        subprocess.run(
            [sol, "logits", "-m", other, "--ids", source / "expected.safetensors", "--out", out], check=True, capture_output=True
        )
        logits = tensors(out)["logits"]
    found = Llama(file, context=512).logits(ids)
    worst = float(np.abs(found - logits[0]).max())
    if kind == "phimoe":
        report("llama.cpp", source, f"loads; another function by design ({worst:.1e})", bool(np.isfinite(found).all()))
        return
    report("llama.cpp", source, f"logits within {worst:.1e}", worst < limit)


def check_peft(sol: Path, source: Path, scratch: Path, dora: bool) -> None:
    """An adapter as PEFT saves it, merged by PEFT and by us. DoRA's is not for embedding tables."""
    import torch
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    fused = json.loads((source / "config.json").read_text())["model_type"] == "phi3"
    targets = ["qkv_proj", "down_proj"] if fused else ["q_proj", "v_proj", "up_proj"] + ["embed_tokens"] * (not dora)
    model = AutoModelForCausalLM.from_pretrained(source, torch_dtype=torch.float32)
    settings = LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=targets,
        use_rslora=not fused,
        use_dora=dora,
        alpha_pattern={targets[0]: 3},
        init_lora_weights=False,
    )
    model = get_peft_model(model, settings)
    for name, weight in model.named_parameters():
        if "lora_magnitude_vector" in name:
            weight.data *= torch.rand_like(weight) + 0.5
    model.save_pretrained(scratch / "adapter")
    convert(sol, source, scratch / "merged", "--lora", scratch / "adapter")
    merged = model.merge_and_unload().state_dict()
    ours = load_file(scratch / "merged/model.safetensors")
    plain = load_file(source / "model.safetensors")
    worst = max(float((merged[name] - tensor).abs().max()) for name, tensor in ours.items())
    changed = sum(not torch.equal(plain[name], tensor) for name, tensor in ours.items())
    report("peft", source, f"{'DoRA' if dora else 'LoRA'}: {changed} of {len(ours)} tensors changed, all within {worst:.1e}", worst < 1e-5 and changed > 0)


def check_tokenizer(source: Path, back: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(back)
    cases = json.loads((source / "chat.json").read_text())
    texts = all(tokenizer(text["text"])["input_ids"] == text["ids"] for text in cases["texts"])
    chats = all(
        tokenizer.apply_chat_template(case["messages"], add_generation_prompt=True) == case["prompt_ids"]
        for case in cases["cases"]
    )
    report("transformers", source, f"{type(tokenizer).__name__}: texts {texts}, conversations {chats}", texts and chats)


def check_llama_tokens(sol: Path, source: Path, scratch: Path) -> None:
    # As a Llama, which llama.cpp loads; the tokenizer is the same.
    changes = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    file = scratch / f"{source.name}-llama.gguf"
    convert(sol, variant(source, scratch / f"{source.name}-llama", **changes), file)
    llama = Llama(file, context=512)
    texts = json.loads((source / "chat.json").read_text())["texts"]
    same = sum(llama.tokens(text["text"]) == text["ids"] for text in texts)
    report("llama.cpp", source, f"{same} of {len(texts)} texts have the same ids", same == len(texts))


if __name__ == "__main__":
    main()
