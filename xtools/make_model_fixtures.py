#!/usr/bin/env python3
"""Makes the tiny checkpoints of crates/sol-model/tests/data with the outputs that float32 PyTorch gives for them.

Pinned: torch 2.8.0, transformers 4.57.6, gguf 0.19.0, tokenizers 0.22.2, sentencepiece 0.2.3 (and jinja2, safetensors,
numpy as these bring them).
    python xtools/make_model_fixtures.py                    # everything; a minute on one core
    python xtools/make_model_fixtures.py --only llama phi3  # these alone
    python xtools/make_model_fixtures.py --check-only ../shared/fixtures/models
The last one writes nothing: it holds the references here against fixtures made by others.
"""

import argparse
import importlib.metadata
import json
import math
import tempfile
import zlib
from pathlib import Path

import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from safetensors.torch import load_file

from fixtures import chat, ggufs, outputs, quantised, specs
from fixtures.reference import Reference
from fixtures.weights import random_weights

DATA = Path(__file__).resolve().parent.parent / "crates/sol-model/tests/data"
PINNED = {
    "torch": "2.8.0",
    "transformers": "4.57.6",
    "gguf": "0.19.0",
    "tokenizers": "0.22.2",
    "sentencepiece": "0.2.3",
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--only", nargs="+", metavar="NAME", help="directories' names")
    arguments.add_argument(
        "--check-only", type=Path, metavar="DIR", help="check the references against fixtures in DIR"
    )
    options = arguments.parse_args()
    for package, version in PINNED.items():
        have = importlib.metadata.version(package).split("+")[0]
        if have != version:
            raise SystemExit(f"{package} is {have}; the fixtures are made with {version}")
    torch.set_num_threads(1)
    if options.check_only:
        return check_others(options.check_only)

    jobs = {}
    for spec in specs.MODELS:
        jobs[spec.name] = lambda spec=spec: make_model(spec)
    for kind in quantised.BY_32 + quantised.BY_256:
        jobs[f"llama-{kind.name.lower()}"] = lambda kind=kind: make_quantised(kind)
    for kind in (Type.F16, Type.BF16):
        jobs[f"llama-{kind.name.lower()}"] = lambda kind=kind: make_half(kind)
    jobs["gemma2-46"] = make_gemma2_46
    jobs["chat-tiny"] = lambda: chat.make_chat_tiny(DATA)
    jobs["solar-tiny"] = lambda: chat.make_solar_tiny(DATA)
    unknown = set(options.only or ()) - set(jobs)
    if unknown:
        raise SystemExit(f"unknown: {sorted(unknown)}; there are {' '.join(jobs)}")
    for name in options.only or jobs:
        jobs[name]()


def make_model(spec: specs.Spec) -> None:
    """models/NAME, and from the same tensors gguf/NAME."""
    seed, tensors, out, notes = outputs.expected(
        spec.config,
        lambda trial: random_weights(spec.config, trial),
        seed=spec.seed,
        tokens=spec.tokens,
        prompt=spec.prompt,
        short=spec.short,
        variants=spec.variants,
        without=spec.without,
    )
    folder = DATA / "models" / spec.name
    outputs.write_checkpoint(folder, spec.config, tensors)
    outputs.write(folder, spec.name, seed, out, notes, parameters(tensors))

    if spec.name == "solar-window":  # the format has no key for Solar's window
        return
    if spec.name == "phimoe":
        return make_phimoe_gguf(tensors)
    if spec.name == "gemma2":  # nor for query_pre_attn_scalar: below 46 layers it is head_dim
        config = {**spec.config, "query_pre_attn_scalar": spec.config["head_dim"]}
        return make_gguf("gemma2", config, tensors, 16400)
    same = {key: value for key, value in out.items() if key != "hidden_states" and not key.startswith("logits.")}
    write_gguf(spec.name, spec.config, tensors, seed, same, notes)
    if spec.name == "phi3":
        write_gguf("phi3-split", spec.config, tensors, seed, same, notes, split_qkv=True)


def write_gguf(name: str, config: dict, tensors: dict, seed: int, out: dict, notes: dict, **how) -> None:
    """A GGUF with known outputs; it must give back the tensors it was made from."""
    path = DATA / "gguf" / name / "model.gguf"
    ggufs.write(path, config, tensors, **how)
    again = ggufs.read(path, config, tensors, split_qkv=how.get("split_qkv", False))
    for key, value in tensors.items():
        if not torch.allclose(again[key], value.float(), rtol=0, atol=1e-6):
            raise AssertionError(f"{path}: {key} does not come back")
    outputs.write(path.parent, f"gguf/{name}", seed, out, notes, parameters(tensors))


def make_gguf(name: str, config: dict, tensors: dict, seed: int) -> None:
    """A GGUF of given tensors whose outputs are not those of models/NAME."""
    _, _, out, notes = outputs.expected(config, lambda _: tensors, seed=seed, tokens=33, prompt=14, hidden=False)
    write_gguf(name, config, tensors, seed, out, notes)


def make_phimoe_gguf(tensors: dict) -> None:
    """131072 positions from 4096, as published: readers must supply the magnitude that the format does not carry.

    `logits` and the greedy run use the long factors (an engine configured for more than 4096 positions), `short.logits`
    the short ones, for the same ids.
    """
    rope = {**specs.PHIMOE["rope_scaling"], "original_max_position_embeddings": 4096}
    rope |= {"short_mscale": 1.243163121016122, "long_mscale": 1.243163121016122}
    config = {**specs.PHIMOE, "max_position_embeddings": 131072, "original_max_position_embeddings": 4096}
    config["rope_scaling"] = rope
    # Below 4096 positions transformers takes the short factors, so the long ones are put in their place.
    always_long = {**config, "rope_scaling": {**rope, "short_factor": rope["long_factor"]}}
    seed, _, out, notes = outputs.expected(
        always_long, lambda _: tensors, seed=15500, tokens=33, prompt=14, hidden=False
    )
    out["short.input_ids"] = out["input_ids"].clone()
    out["short.logits"] = Reference(config, tensors).forward(out["input_ids"])[0]
    write_gguf("phimoe", config, tensors, seed, out, notes)


def make_gemma2_46() -> None:
    config = specs.GEMMA2_46

    def weights(trial: int) -> dict:
        tensors = random_weights(config, trial)
        for name, value in tensors.items():  # 92 full-sized additions would amplify every rounding
            if "post_" in name:
                value.mul_(0.3).sub_(0.75)
            elif "q_proj" in name or "k_proj" in name:
                value.mul_(0.6)
        return tensors

    seed, tensors, out, notes = outputs.expected(config, weights, seed=16500, tokens=21, prompt=9, hidden=False)
    write_gguf("gemma2-46", config, tensors, seed, out, notes)


def make_half(kind: Type) -> None:
    """F16 and BF16 matrices in rows of odd length."""
    make_rounded(f"llama-{kind.name.lower()}", specs.LLAMA, lambda name: kind, None, 0.03)


def make_quantised(kind: Type) -> None:
    """All matrices of one block type (or its fallback), outputs from the weights as gguf-py dequantises them."""
    by_256 = kind in quantised.BY_256
    config = specs.LLAMA_256 if by_256 else specs.LLAMA_32

    def pick(name: str) -> Type:
        short_rows = by_256 and ("attn_output" in name or "ffn_down" in name)
        return quantised.FALLBACK[kind] if short_rows else kind

    def blocks_for(trial: int, tensors: dict):
        # GGUF matrices are permuted rows of the Hugging Face ones: the deviation is the same.
        deviation = {row.name: tensors[row.sources[0]].std().item() for row in ggufs.rows(config, tensors)}

        def blocks(name: str, shape: tuple):
            if len(shape) < 2 or pick(name) not in quantised.RANDOM:
                return None
            draw = np.random.default_rng([trial, zlib.crc32(name.encode())])
            return quantised.random_blocks(pick(name), shape, deviation[name], draw)

        return blocks

    # Margins well above what rounding activations to 8 bits does.
    make_rounded(f"llama-{kind.name.lower()}", config, pick, blocks_for, 0.15)


def make_rounded(name: str, config: dict, pick, blocks_for, least_margin: float) -> None:
    path = DATA / "gguf" / name / "model.gguf"

    def through_file(trial: int) -> dict:
        tensors = random_weights(config, trial)
        ggufs.write(path, config, tensors, pick, blocks_for and blocks_for(trial, tensors))
        return ggufs.read(path, config, tensors)

    start = 20000 + zlib.crc32(name.encode()) % 100 * 1000
    seed, tensors, out, notes = outputs.expected(
        config, through_file, seed=start, tokens=21, prompt=9, hidden=False, batch=1, least_margin=least_margin
    )
    outputs.write(path.parent, f"gguf/{name}", seed, out, notes, parameters(tensors))


def parameters(tensors: dict) -> int:
    return sum(t.numel() for t in tensors.values())


def check_others(folder: Path) -> None:
    """The references and the GGUF round trip on somebody else's fixtures."""
    for path in sorted(folder.rglob("config.json")):
        config, tensors = json.loads(path.read_text()), load_file(path.parent / "model.safetensors")
        want = load_file(path.parent / "expected.safetensors")
        reference = Reference(config, tensors)
        worst = {}
        for key in ("", "short."):
            if f"{key}logits" in want:
                got = reference.forward(want[f"{key}input_ids"])[0]
                worst[f"{key}logits"] = (got - want[f"{key}logits"]).abs().max().item()
        changes = {"no_window": None, "window_plus_one": (config.get("sliding_window") or 0) + 1}
        for key, window in changes.items():
            if f"logits.{key}" in want:
                got = Reference({**config, "sliding_window": window}, tensors).forward(want["input_ids"])[0]
                worst[key] = (got - want[f"logits.{key}"]).abs().max().item()
        if "hidden_states" in want:
            states = torch.stack([s[0] for s in reference.forward(want["input_ids"])[1]])
            worst["hidden_states"] = (states - want["hidden_states"]).abs().max().item()
        said, _ = outputs.greedy(reference, want["prompt_ids"])
        with tempfile.TemporaryDirectory() as place:
            ggufs.write(Path(place, "x.gguf"), config, tensors)
            again = ggufs.read(Path(place, "x.gguf"), config, tensors)
            back = max((again[k] - t.float()).abs().max().item() for k, t in tensors.items())
        same = torch.equal(said, want["greedy_ids"])
        print(path.parent.relative_to(folder), worst, f"greedy {'equal' if same else 'DIFFERS'}, GGUF {back:.1e}")
        if not same or max(worst.values()) > 1e-3 or back > 1e-6 or not all(map(math.isfinite, worst.values())):
            raise SystemExit("the references do not reproduce these fixtures")


if __name__ == "__main__":
    main()
