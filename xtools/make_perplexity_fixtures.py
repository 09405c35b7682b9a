#!/usr/bin/env python3
"""Makes crates/sol-engine/tests/data/perplexity.json: perplexities of a text by float32 PyTorch, as llama-perplexity defines them.

Pinned: torch 2.8.0, transformers 4.57.6.
    python xtools/make_perplexity_fixtures.py

llama-perplexity (llama.cpp, tools/perplexity) cuts the tokens into whole chunks of n, reads each on its own with <s> in place
of its first token where the tokenizer adds one, and scores the tokens at n/2 + 1 .. n - 1 of each by the logits before them.
The figure is exp of the mean loss; its error is exp(mean) * sqrt(variance / (count - 1)).
"""

import importlib.metadata
import json
import math
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast

from fixtures.chat import CORPUS
from fixtures.reference import Reference

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "crates/sol-engine/tests/data/perplexity.json"
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
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        ids = tokenizer(CORPUS)["input_ids"]
        bos = tokenizer.bos_token_id if ids[0] == tokenizer.bos_token_id else None
        for n in (3, 33, 64, 200):
            cases.append({"model": name, "chunk": n, "bos": bos, **perplexity(reference, ids, n, bos)})
        print(name, len(ids), "tokens, bos", bos, [round(c["value"], 3) for c in cases if c["model"] == name])
    OUT.write_text(json.dumps({"text": CORPUS, "cases": cases}, indent=1, ensure_ascii=False) + "\n")


def perplexity(reference: Reference, ids: list[int], n: int, bos: int | None) -> dict:
    losses = []
    for start in range(0, len(ids) - n + 1, n):
        chunk = ids[start : start + n]
        if bos is not None:
            chunk[0] = bos
        logits, _ = reference.forward(torch.tensor([chunk]))
        logprobs = logits[0].double().log_softmax(-1)
        losses += [-logprobs[i, chunk[i + 1]].item() for i in range(n // 2, n - 1)]
    mean = sum(losses) / len(losses)
    variance = sum(x * x for x in losses) / len(losses) - mean * mean
    error = math.exp(mean) * math.sqrt(variance / (len(losses) - 1))
    return {"value": math.exp(mean), "error": error, "tokens": len(losses)}


if __name__ == "__main__":
    main()
