#!/usr/bin/env python3
"""Holds `sol upscale` against PyTorch: tensors, configs and what the results compute.

    pip install torch==2.8.0 transformers==4.56.2 safetensors==0.8.0 numpy==2.4.6
    cargo build -p sol
    python xtools/check_upscale.py [--sol target/debug/sol]

For the tiny checkpoints of crates/sol-model/tests/data/models and every recipe: the layers that the recipe takes are worked out
here again, from the papers; the result's tensors must be those of the base, scaled or split as they should be, to the bit, and no
others. transformers (for Solar: the plain forward pass of xtools/fixtures/reference.py) must load the result from its own
config, and what it computes must be what `sol logits` computes to 1e-3, and what the base computes where the recipe promises that.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from fixtures.reference import Reference

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "crates/sol-model/tests/data/models"


def half_up(n: float) -> int:
    return int(n + 0.5)


def solar_pro(n: int):
    """Solar's blocks of 40 layers in proportion, and the skips between what they begin with."""
    layers, skips, start = [], [], 0
    for end, copies in [(12, 1), (16, 2), (20, 3), (24, 3), (28, 2), (40, 1)]:
        end = half_up(end * n / 40)
        block, first = list(range(start, end)), len(layers)
        skips += [(first, first + k * len(block)) for k in range(1, copies) if block]
        layers += block * copies
        start = end
    return layers, skips


def recipes(n: int):
    """Name, arguments, layers of the base, the factor of each, skips, whether the function is kept."""
    # Of two layers this is the base again.
    yield "dus", ["--drop", "1"], [*range(n - 1), *range(1, n)], None, [], n == 2
    yield "stack", [], [*range(n), *range(n)], None, [], False
    twice = [i for i in range(n) for _ in range(2)]
    yield "interleave", ["--layers", str(2 * n)], twice, [0.5] * 2 * n, [], False
    yield "interleave", ["--layers", str(2 * n), "--scale", "1"], twice, None, [], False
    yield "identity", ["--layers", str(2 * n)], twice, [1.0, 0.0] * n, [], True
    layers, skips = solar_pro(n)
    if skips:
        yield "solar-pro", ["--tv", "1"], layers, None, skips, True
        yield "solar-pro", [], layers, None, skips, False


def expected_tensors(config: dict, base: dict, layers: list, factors, solar: bool) -> dict:
    """Every tensor of the result."""
    result = {name: tensor for name, tensor in base.items() if not name.startswith("model.layers.")}
    gemma = config["model_type"] == "gemma2"
    heads, kv = config["num_attention_heads"], config["num_key_value_heads"]
    head = config.get("head_dim") or config["hidden_size"] // heads
    for at, source in enumerate(layers):
        prefix = f"model.layers.{source}."
        for name, tensor in base.items():
            if not name.startswith(prefix):
                continue
            rest = name.removeprefix(prefix)
            factor = 1.0 if factors is None else factors[at]
            if gemma and rest in ("post_attention_layernorm.weight", "post_feedforward_layernorm.weight"):
                tensor = tensor if factor == 1.0 else factor * (1 + tensor) - 1
            elif not gemma and any(part in rest for part in ("o_proj.", "down_proj.", ".w2.")):
                tensor = factor * tensor
            parts = {rest: tensor}
            if solar and "qkv_proj" in rest:
                split = tensor.split([heads * head, kv * head, kv * head])
                parts = {rest.replace("qkv", x): t for x, t in zip("qkv", split)}
            if solar and "gate_up_proj" in rest:
                parts = {rest.replace("gate_up", x): t for x, t in zip(("gate", "up"), tensor.chunk(2))}
            result.update({f"model.layers.{at}.{name}": t for name, t in parts.items()})
    return result


def logits_of(sol: str, model: Path, ids: torch.Tensor, scratch: Path) -> torch.Tensor:
    save_file({"input_ids": ids}, scratch / "ids.safetensors")
    out = scratch / "logits.safetensors"
    out.unlink(missing_ok=True)
    subprocess.run([sol, "logits", "-q", "-m", model, "--ids", scratch / "ids.safetensors", "--out", out], check=True)
    return load_file(out)["logits"]


def check(sol: str, name: str, scratch: Path) -> float:
    directory = MODELS / name
    config = json.loads((directory / "config.json").read_text())
    base = load_file(directory / "model.safetensors")
    ids = load_file(directory / "expected.safetensors")["input_ids"]
    before, _ = Reference(config, base).forward(ids)
    worst = 0.0
    for recipe, arguments, layers, factors, skips, keeps in recipes(config["num_hidden_layers"]):
        if skips and config["model_type"] not in ("llama", "phi3"):
            continue
        out = scratch / "out"
        command = [sol, "upscale", "-q", "-m", directory, "-r", recipe, *arguments, "-o", out, "--force", "--json"]
        report = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        assert report["keeps_function"] == keeps, (name, recipe)
        result = load_file(out / "model.safetensors")
        wanted = expected_tensors(config, base, layers, factors, bool(skips))
        assert result.keys() == wanted.keys(), (name, recipe, result.keys() ^ wanted.keys())
        for key, tensor in wanted.items():
            assert torch.equal(result[key], tensor), (name, recipe, key)
        made = json.loads((out / "config.json").read_text())
        if skips:
            saves = [[a for a, _ in skips], [b for _, b in skips]]
            assert sorted({*made["bskcn_1"], *made["bskcn_2"]}) == sorted(set(saves[0]))
            assert sorted({*made["bskcn_3"], *made["bskcn_4"]}) == sorted(set(saves[1]))
        after, _ = Reference(made, result).forward(ids)
        ours = logits_of(sol, out, ids, scratch)
        if made.get("sliding_window") and skips:
            # The plain Solar has no window.
            seen = made["sliding_window"]
            after, ours, first = after[:, :seen], ours[:, :seen], before[:, :seen]
        else:
            first = before
        distance = (after - ours).abs().max().item()
        assert distance < 1e-3, (name, recipe, distance)
        kept = (after - first).abs().max().item()
        assert (kept < 1e-4) == keeps, (name, recipe, kept)
        worst = max(worst, distance)
        print(f"{name:8} {recipe:10} {' '.join(arguments):22} sol and PyTorch differ by {distance:.1e}, result and base by {kept:.1e}")
    return worst


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--sol", default=str(ROOT / "target/debug/sol"))
    sol = arguments.parse_args().sol
    with tempfile.TemporaryDirectory() as scratch:
        worst = max(check(sol, name, Path(scratch)) for name in ("llama", "llama3", "phi3", "phimoe", "gemma2"))
    print(f"all as they should be; worst difference {worst:.1e}")


if __name__ == "__main__":
    main()
