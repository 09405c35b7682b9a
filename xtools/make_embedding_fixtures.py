#!/usr/bin/env python3
"""Makes crates/sol-engine/tests/data/embeddings.json: means of the last hidden states of float32 PyTorch.

Pinned: torch 2.8.0, transformers 4.57.6.
    python xtools/make_embedding_fixtures.py

The mean is over all tokens of a prompt, of what the final norm gives, before any scaling to unit length.
"""

import importlib.metadata
import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast

from fixtures.chat import CORPUS
from fixtures.reference import Reference

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "crates/sol-engine/tests/data/embeddings.json"
PINNED = {"torch": "2.8.0", "transformers": "4.57.6"}


def main() -> None:
    for package, version in PINNED.items():
        have = importlib.metadata.version(package).split("+")[0]
        if have != version:
            raise SystemExit(f"{package} is {have}; the fixtures are made with {version}")
    torch.set_num_threads(1)
    cases = []
    for name in ("chat-tiny", "solar-tiny"):
        folder = ROOT / "crates/sol-model/tests/data" / name
        config = json.loads((folder / "config.json").read_text())
        reference = Reference(config, load_file(folder / "model.safetensors"))
        ids = PreTrainedTokenizerFast.from_pretrained(folder)(CORPUS)["input_ids"]
        for tokens in (1, 31, 100, 400):
            prompt = ids[:tokens]
            _, states = reference.forward(torch.tensor([prompt]))
            mean = states[-1][0].double().mean(dim=0)
            cases.append({"model": name, "tokens": prompt, "mean": [float(f"{value:.7g}") for value in mean.tolist()]})
            print(name, len(prompt), "tokens, length", round(mean.norm().item(), 4))
    lines = ",\n".join(json.dumps(case) for case in cases)
    OUT.write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
