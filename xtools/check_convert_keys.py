#!/usr/bin/env python3
"""Holds the files of `sol convert` against those of llama.cpp's own converter: every key and every tensor.

    pip download --no-deps --no-binary :all: llama-cpp-python==0.3.36   # and unpack it: the converter is in vendor/llama.cpp
    pip install torch==2.8.0 transformers==4.56.2 safetensors==0.8.0 numpy==2.4.6 sentencepiece==0.2.3
    python xtools/check_convert_keys.py LLAMA_CPP [--sol target/debug/sol] [--model SMOLLM2.gguf]

Both convert the tiny checkpoints (without tokenizers: the converter knows those of published models only), each under names of
published models and with a model card and generation defaults. With --model, a GGUF of SmolLM2 is made a directory and converted
back by both, tokenizer and all. Keys that differ on purpose are listed in this file with the reason.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "crates/sol-model/tests/data/models"
FAILED = []

CONVERTER = """
import sys
from pathlib import Path
root, source, out, vocab = sys.argv[1:]
sys.path[:0] = [root, root + "/gguf-py"]
import torch, gguf
from conversion import ModelBase, ModelType, get_model_architecture, get_model_class
with torch.inference_mode():
    hparams = ModelBase.load_hparams(Path(source), False)
    kind = get_model_class(get_model_architecture(hparams, ModelType.TEXT))
    if vocab == "no":
        kind.set_vocab = lambda self: None
    kind(Path(source), gguf.LlamaFileType.ALL_F32, Path(out)).write()
"""

# What ours has more than the converter's, or otherwise, and why.
OURS_ONLY = {
    "tokenizer.ggml.model": "says that there is no tokenizer",
    "gemma2.attention.scale": "readers of GGUF take it from the number of layers",
    "gemma2.rope.freq_base": "where it is not the default",
    "phimoe.router_jitter_noise": "where it is not the default",
    "phi3.vocab_size": "without a tokenizer nothing else says it",
    "phimoe.vocab_size": "the same",
    "gemma2.vocab_size": "the same",
    "rope.scaling.short_mscale": "the file can not say it otherwise",
    "rope.scaling.long_mscale": "the same",
    "attention.key_length": "head_dim is not hidden_size / heads",
    "attention.value_length": "the same",
    "general.sampling.penalty_repeat": "transformers calls it repetition_penalty, which the converter does not look for",
}

CARD = """---
license: other
license_name: upstage-ai
license_link: https://example.org/license
language:
- en
- no
tags:
- depth-up-scaling
pipeline_tag: text-generation
base_model:
- microsoft/Phi-3-medium-4k-instruct
- https://huggingface.co/meta-llama/Llama-3.1-8B-Instruct
datasets: Open-Orca/OpenOrca
---
# A model
"""

NAMES = [
    "solar-pro-preview-instruct",
    "Phi-3-medium-4k-instruct",
    "SOLAR-10.7B-Instruct-v1.0",
    "gemma-2-27b-it",
    "Llama-3.1-8B-Instruct",
    "Phi-3.5-MoE-instruct",
    "SmolLM2-135M-Instruct",
    "bloom-7b1",
    "Mixtral-8x7B-v0.1",
    "tiny 43K model",
    "x-q4_0-7b_chat-43k",
    "Model-2",
]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("llama_cpp", type=Path, help="llama.cpp's source tree")
    arguments.add_argument("--sol", type=Path, default=ROOT / "target/debug/sol")
    arguments.add_argument("--model", type=Path, help="a GGUF of SmolLM2")
    options = arguments.parse_args()
    sys.path.insert(0, str(options.llama_cpp / "gguf-py"))
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        for at, source in enumerate(sorted(MODELS.iterdir())):
            kind = json.loads((source / "config.json").read_text())["model_type"]
            if kind == "solar":
                continue  # an architecture that the converter does not have
            name = NAMES[at % len(NAMES)]
            copy = place(source, scratch / source.name / name, card=at % 2 == 0)
            compare(options, copy, scratch / source.name, vocab=False)
        for name in NAMES:
            copy = place(MODELS / "llama", scratch / "names" / name, card=False)
            compare(options, copy, scratch / "names", vocab=False)
        config = {"_name_or_path": "upstage/SOLAR-10.7B-v1.0"}
        compare(options, place(MODELS / "llama", scratch / "path/here", card=True, **config), scratch / "path", vocab=False)
        if options.model:
            copy = scratch / "smol/SmolLM2-135M-Instruct"
            command = [options.sol, "convert", "-q", "-m", options.model, "-o", copy, "--type", "f32"]
            copy.parent.mkdir()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            (copy / "README.md").write_text(CARD)
            compare(options, copy, scratch / "smol", vocab=True)
    sys.exit(bool(FAILED))


def place(source: Path, copy: Path, card: bool, **config: object) -> Path:
    """The checkpoint under another name."""
    copy.mkdir(parents=True)
    shutil.copy(source / "model.safetensors", copy)
    made = json.loads((source / "config.json").read_text()) | config
    (copy / "config.json").write_text(json.dumps(made))
    if card:
        (copy / "README.md").write_text(CARD)
        generation = {"temperature": 0.7, "top_k": 50, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.1, "do_sample": True}
        (copy / "generation_config.json").write_text(json.dumps(generation))
    return copy


def read(path: Path):
    from gguf import GGUFReader

    reader = GGUFReader(path)
    own = ("GGUF.version", "GGUF.tensor_count", "GGUF.kv_count")
    keys = {field.name: field.contents() for field in reader.fields.values() if field.name not in own}
    return keys, {t.name: (t.tensor_type, t.data) for t in reader.tensors}


def compare(options: argparse.Namespace, source: Path, scratch: Path, vocab: bool) -> None:
    ours, theirs = scratch / "ours.gguf", scratch / "theirs.gguf"
    run = [options.sol, "convert", "-q", "--force", "-m", source, "-o", ours]
    subprocess.run(run, check=True, stdout=subprocess.DEVNULL)
    run = [sys.executable, "-c", CONVERTER, options.llama_cpp, source, theirs, "yes" if vocab else "no"]
    done = subprocess.run(run, capture_output=True, text=True)
    label = f"{scratch.name}/{source.name}"
    if done.returncode:
        print(f"FAIL {label}: the converter: {done.stderr.strip().splitlines()[-1]}")
        FAILED.append(label)
        return
    (keys, tensors), (their_keys, their_tensors) = read(ours), read(theirs)
    problems = []
    for key in sorted(keys.keys() | their_keys.keys()):
        if key not in their_keys:
            if not any(key == known or key.endswith("." + known) for known in OURS_ONLY):
                problems.append(f"only ours has {key} = {short(keys[key])}")
        elif key not in keys:
            problems.append(f"only theirs has {key} = {short(their_keys[key])}")
        elif keys[key] != their_keys[key]:
            problems.append(f"{key} is {short(keys[key])}, theirs {short(their_keys[key])}")
    problems += [f"tensor {name} is in one only" for name in tensors.keys() ^ their_tensors.keys()]
    for name in tensors.keys() & their_tensors.keys():
        (kind, data), (their_kind, their_data) = tensors[name], their_tensors[name]
        # Numbers of the config may differ in the last bit, not weights.
        near = name.startswith("rope_") and np.allclose(data, their_data, rtol=2e-7, atol=0)
        if kind != their_kind or not (near or np.array_equal(data, their_data)):
            problems.append(f"tensor {name} differs: {kind.name}, theirs {their_kind.name}")
    print(f"{'FAIL' if problems else 'ok  '} {label}: {len(their_keys)} keys, {len(their_tensors)} tensors", flush=True)
    for problem in problems:
        print("    ", problem)
    if problems:
        FAILED.append(label)


def short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 90 else text[:90] + " ..."


if __name__ == "__main__":
    main()
