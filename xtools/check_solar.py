#!/usr/bin/env python3
"""Makes a Solar of a Phi-3 of 40 layers, as Solar Pro Preview was made, and looks at it with its readers' eyes.

    pip install torch==2.8.0 transformers==4.56.2 safetensors==0.8.0 numpy==2.4.6
    cargo build -p sol
    python xtools/check_solar.py [--sol target/debug/sol] [--vllm-config vllm/transformers_utils/configs/solar.py]

The base has Phi-3-medium's form (fused projections, window, no biases) and small random weights; transformers' own Phi-3 says what
it computes. It is up-scaled from the directory and from a GGUF file of it, which must give the same tensors. Checked are: names
and shapes of all tensors against the index of upstage/solar-pro-preview-instruct; the config's fields against what vLLM's SolarConfig
and SolarForCausalLM read (with --vllm-config that class itself reads it: a source file of vLLM 0.8.5, which needs no vLLM); with
bskcn_tv = 1 the plain forward pass of xtools/fixtures/reference.py against transformers' Phi-3, 1e-4; with 0.8 `sol logits` against
that forward pass; every other architecture's up-scaled config is loaded by transformers' AutoConfig.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, Phi3Config, Phi3ForCausalLM

from fixtures.reference import Reference

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "crates/sol-model/tests/data/models"
FAILED = []

# The published lists: configuration_solar.py's defaults.
PUBLISHED = {
    "bskcn_1": [12, 20, 32, 44],
    "bskcn_2": [20, 32],
    "bskcn_3": [16, 24, 36, 48],
    "bskcn_4": [28, 40],
    "bskcn_tv": [0.9, 0.8],
}
# What vLLM's Solar reads of a config, with its types. Those with a default that is not Phi-3's must be there.
READ = {
    "vocab_size": int,
    "hidden_size": int,
    "intermediate_size": int,
    "num_hidden_layers": int,
    "num_attention_heads": int,
    "num_key_value_heads": int,
    "hidden_act": str,
    "max_position_embeddings": int,
    "rms_norm_eps": float,
    "rope_theta": float,
    "tie_word_embeddings": bool,
    "sliding_window": (int, type(None)),
}


def report(what: str, good: bool) -> None:
    print(f"{'ok  ' if good else 'FAIL'} {what}", flush=True)
    if not good:
        FAILED.append(what)


def run(*command: object) -> None:
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)


def published_index(config: dict) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published model's tensors, with this config's numbers."""
    hidden, ffn, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    head = hidden // config["num_attention_heads"]
    kv = config["num_key_value_heads"] * head
    index = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,), "lm_head.weight": (vocab, hidden)}
    for layer in range(64):
        shapes = {
            "self_attn.q_proj": (hidden, hidden),
            "self_attn.k_proj": (kv, hidden),
            "self_attn.v_proj": (kv, hidden),
            "self_attn.o_proj": (hidden, hidden),
            "mlp.gate_proj": (ffn, hidden),
            "mlp.up_proj": (ffn, hidden),
            "mlp.down_proj": (hidden, ffn),
            "input_layernorm": (hidden,),
            "post_attention_layernorm": (hidden,),
        }
        index.update({f"model.layers.{layer}.{name}.weight": shape for name, shape in shapes.items()})
    return index


def make_base(directory: Path) -> tuple[Phi3ForCausalLM, torch.Tensor]:
    torch.manual_seed(3)
    config = Phi3Config(
        vocab_size=320,
        hidden_size=40,
        intermediate_size=56,
        num_hidden_layers=40,
        num_attention_heads=5,
        num_key_value_heads=1,
        max_position_embeddings=256,
        original_max_position_embeddings=256,
        sliding_window=2047,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        initializer_range=0.15,
        attn_implementation="eager",
    )
    model = Phi3ForCausalLM(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.uniform_(0.7, 1.3)
    model.save_pretrained(directory)
    return model, torch.randint(0, 320, (2, 33))


def logits_of(sol: Path, model: Path, ids: torch.Tensor, scratch: Path) -> torch.Tensor:
    save_file({"input_ids": ids}, scratch / "ids.safetensors")
    out = scratch / "logits.safetensors"
    out.unlink(missing_ok=True)
    run(sol, "logits", "-q", "-m", model, "--ids", scratch / "ids.safetensors", "--out", out)
    return load_file(out)["logits"]


def check_config(path: Path, vllm_config: Path | None) -> dict:
    config = json.loads(path.read_text())
    report("model_type and architectures", (config["model_type"], config["architectures"]) == ("solar", ["SolarForCausalLM"]))
    wrong = [key for key, kind in READ.items() if key not in config or not isinstance(config[key], kind)]
    report(f"every field that vLLM reads is there and of its type {wrong or ''}", not wrong)
    report("the published block skip connections", all(config[key] == value for key, value in PUBLISHED.items()))
    report("nothing is saved before layer 0, where vLLM has no residual yet", 0 not in config["bskcn_1"] + config["bskcn_2"])
    scaling = config.get("rope_scaling")
    report("rope_scaling is none, or type and factor", scaling is None or sorted(scaling) == ["factor", "type"])
    if vllm_config:
        spec = importlib.util.spec_from_file_location("vllm_solar_config", vllm_config)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        read = module.SolarConfig.from_pretrained(path.parent)
        differ = [key for key in (*READ, *PUBLISHED) if getattr(read, key) != config[key]]
        report(f"vLLM's SolarConfig reads them all as they are {differ or ''}", not differ)
    return config


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--sol", type=Path, default=ROOT / "target/debug/sol")
    arguments.add_argument("--vllm-config", type=Path)
    options = arguments.parse_args()
    sol = options.sol
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        base, file = scratch / "phi3", scratch / "phi3.gguf"
        model, ids = make_base(base)
        with torch.no_grad():
            expected = model(ids, use_cache=False).logits
        run(sol, "convert", "-q", "-m", base, "-o", file)
        for source in (base, file):
            print(f"from {source.name}")
            out = scratch / f"solar-of-{source.name.replace('.', '-')}"
            run(sol, "upscale", "-q", "-m", source, "-r", "solar-pro", "-o", out)
            config = check_config(out / "config.json", options.vllm_config)
            tensors = load_file(out / "model.safetensors")
            shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
            report(f"{len(shapes)} names and shapes of the published index", shapes == published_index(config))
            after, _ = Reference(config, tensors).forward(ids)
            distance = (after - logits_of(sol, out, ids, scratch)).abs().max().item()
            changed = (after - expected).abs().max().item()
            report(f"bskcn_tv 0.8: sol and PyTorch differ by {distance:.1e} (from the base {changed:.1e})", distance < 1e-4 < changed)
            one = scratch / "one"
            run(sol, "upscale", "-q", "-m", source, "-r", "solar-pro", "--tv", "1", "-o", one, "--force")
            config = json.loads((one / "config.json").read_text())
            same, _ = Reference(config, load_file(one / "model.safetensors")).forward(ids)
            distance = (same - expected).abs().max().item()
            ours = (logits_of(sol, one, ids, scratch) - expected).abs().max().item()
            report(f"bskcn_tv 1: PyTorch's Solar and transformers' Phi-3 differ by {distance:.1e}, sol by {ours:.1e}", max(distance, ours) < 1e-4)
        both = [load_file(scratch / f"solar-of-{name}/model.safetensors") for name in ("phi3", "phi3-gguf")]
        report("both have the same tensors", all(torch.equal(tensor, both[1][name]) for name, tensor in both[0].items()))
        for name in ("llama", "llama3", "phi3", "phi3-longrope", "phimoe", "gemma2"):
            out = scratch / "other"
            run(sol, "upscale", "-q", "-m", MODELS / name, "-r", "stack", "-o", out, "--force")
            layers = AutoConfig.from_pretrained(out).num_hidden_layers
            report(f"{name}: AutoConfig reads {layers} layers", layers == 2 * AutoConfig.from_pretrained(MODELS / name).num_hidden_layers)
    sys.exit(bool(FAILED))


if __name__ == "__main__":
    main()
