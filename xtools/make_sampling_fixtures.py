#!/usr/bin/env python3
"""Makes crates/sol-engine/tests/data/sampling.json: the tokens that transformers leaves, and their probabilities.

Pinned: torch 2.8.0, transformers 4.57.6.
    python xtools/make_sampling_fixtures.py

The chain of processors is the one that `generate` itself builds, so that the order of the steps is transformers' too.
"""

import importlib.metadata
import json
from pathlib import Path

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

OUT = Path(__file__).resolve().parent.parent / "crates/sol-engine/tests/data/sampling.json"
PINNED = {"torch": "2.8.0", "transformers": "4.57.6"}

SETTINGS = [
    {},
    {"temperature": 0.3},
    {"temperature": 1.7},
    {"top_k": 1},
    {"top_k": 5},
    {"top_k": 100000},
    {"top_p": 0.05},
    {"top_p": 0.5},
    {"top_p": 0.9},
    {"top_p": 0.999},
    {"min_p": 0.02},
    {"min_p": 0.3},
    {"min_p": 1.0},
    {"typical_p": 0.1},
    {"typical_p": 0.5},
    {"typical_p": 0.95},
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.7},
    {"temperature": 0.7, "top_k": 40, "top_p": 0.9},
    {"temperature": 1.4, "top_k": 12, "min_p": 0.05, "typical_p": 0.8},
    {"temperature": 0.9, "top_p": 0.8, "min_p": 0.1},
    {"temperature": 0.8, "top_k": 7, "top_p": 0.95, "min_p": 0.01, "typical_p": 0.9, "repetition_penalty": 1.1},
    {"sequence_bias": [[[3], 4.0], [[1], -2.5]], "repetition_penalty": 1.2, "top_p": 0.9},
]


def vectors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(20240919)

    def normal(n: int, scale: float) -> torch.Tensor:
        return torch.randn(n, generator=generator) * scale

    rounded = (normal(40, 3.0) * 2).round() / 2
    return {
        "flat": normal(24, 0.2),
        "usual": normal(200, 2.5),
        "peaked": torch.cat([normal(50, 1.0), torch.tensor([14.0, 11.0])]),
        "negative": normal(30, 2.0) - 40.0,
        # Many equal logits: what is kept must not depend on an order among them.
        "ties": rounded,
    }


def main() -> None:
    for package, version in PINNED.items():
        have = importlib.metadata.version(package).split("+")[0]
        if have != version:
            raise SystemExit(f"{package} is {have}; the fixtures are made with {version}")
    sizes = {"vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(**sizes))
    out = {"vectors": {}, "cases": []}
    for name, logits in vectors().items():
        # Shortest decimals that give the same floats again.
        out["vectors"][name] = [float(str(x)) for x in logits.numpy()]
        prompt = [1, 5, 5, 7, int(logits.argmax())]
        for setting in SETTINGS:
            if name == "ties" and ({"top_p", "typical_p"} & set(setting)):
                # torch's sort decides among equals there, and not the same way everywhere.
                continue
            refuse_borderline(model, setting, prompt, logits)
            kept, scores = kept_and_scores(model, setting, prompt, logits)
            ids = kept.nonzero()[:, 0]
            out["cases"].append(
                {
                    "vector": name,
                    "prompt": prompt,
                    "setting": setting,
                    "ids": ids.tolist(),
                    "probabilities": [round(p, 8) for p in scores.softmax(-1)[ids].tolist()],
                }
            )
    OUT.parent.mkdir(parents=True, exist_ok=True)
    cases = ",\n  ".join(json.dumps(case) for case in out["cases"])
    lists = ",\n  ".join(f"{json.dumps(name)}: {json.dumps(values)}" for name, values in out["vectors"].items())
    OUT.write_text(f'{{"vectors": {{\n  {lists}}},\n "cases": [\n  {cases}]}}\n')
    print(f"{OUT}: {len(out['cases'])} cases")


def kept_and_scores(model: LlamaForCausalLM, setting: dict, prompt: list[int], logits: torch.Tensor) -> tuple:
    config = GenerationConfig(do_sample=True, **{"top_k": 0, **setting})
    chain = model._get_logits_processor(config, input_ids_seq_length=len(prompt), device="cpu")
    scores = chain(torch.tensor([prompt]), logits[None].clone())[0]
    return torch.isfinite(scores), scores


def refuse_borderline(model: LlamaForCausalLM, setting: dict, prompt: list[int], logits: torch.Tensor) -> None:
    """Shares a little larger or smaller must keep the same tokens, lest rounding decide."""
    kept, _ = kept_and_scores(model, setting, prompt, logits)
    for step in (1e-6, -1e-6):
        moved = {k: min(v + step, 1.0) if k in ("top_p", "min_p", "typical_p") else v for k, v in setting.items()}
        if not torch.equal(kept, kept_and_scores(model, moved, prompt, logits)[0]):
            raise SystemExit(f"{setting}: a token is on the border")


if __name__ == "__main__":
    main()
