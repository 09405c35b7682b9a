#!/usr/bin/env python3
"""Compares the log-likelihoods of `sol eval` with those of transformers and of llama.cpp for the same requests.

    pip install torch==2.8.0 transformers==4.56.2 numpy==2.4.6          # for --transformers
    CMAKE_ARGS=-DGGML_NATIVE=ON pip install llama-cpp-python==0.3.36    # for --llama
    python xtools/check_eval.py --sol target/release/sol --transformers DIR --data DATA --tasks arc_challenge --limit 20
    python xtools/check_eval.py --sol target/release/sol --llama FILE.gguf --data DATA --tasks arc_challenge --limit 20

Tokens come from the other program's tokenizer, split as lm-evaluation-harness splits them: spaces that end the context go to the
continuation, both are tokenised as one text, and the number of the context's tokens says where the continuation begins; no BOS.
transformers runs in float32, so that with a float32 checkpoint both compute the same thing; --limit of 1e-3 on the largest
difference is what the exit code says. llama.cpp reads the same quantised file, whose products both programs round in ways of
their own: mean and largest difference and the answers that both prefer are shown, and beside them llama.cpp's difference to itself
with flash attention, which is noise of the same sort.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile

import numpy as np


def samples(options, model):
    """Requests and answers of a run of `sol eval`: (context, continuation, log-likelihood, greedy), and where documents begin."""
    with tempfile.TemporaryDirectory() as out:
        command = [options.sol, "eval", "-m", model, "--data", options.data, "--tasks", options.tasks, "--limit", str(options.limit)]
        command += ["--output", out, "--log-samples", "--quiet", "--ctx", str(options.ctx)]
        command += ["--num-fewshot", str(options.num_fewshot)] if options.num_fewshot is not None else []
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        documents = []
        for name in sorted(os.listdir(out)):
            if name.startswith("samples_"):
                with open(os.path.join(out, name), encoding="utf-8") as lines:
                    for line in map(json.loads, lines):
                        pairs = zip(line["arguments"], line["resps"])
                        documents.append([(*argument, *resps[0]) for argument, resps in pairs])
        return documents


def split(encode, context, continuation):
    """Tokens of both, and how many are the continuation's."""
    kept = context.rstrip()
    whole = encode(context + continuation)
    return whole, len(whole) - len(encode(kept))


def score(logits, tokens, count):
    """Of the last `count` tokens, given the logits at every position but the last."""
    rows = np.asarray(logits[-count:], np.float64)
    rows = rows - rows.max(axis=1, keepdims=True)
    rows = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
    target = np.asarray(tokens[-count:])
    greedy = bool((rows.argmax(axis=1) == target).all())
    return float(rows[np.arange(count), target].sum()), greedy


def transformers_scores(directory, documents):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory, torch_dtype=torch.float32, attn_implementation="eager").eval()
    encode = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]
    for document in documents:
        for context, continuation, *_ in document:
            tokens, count = split(encode, context, continuation)
            with torch.no_grad():
                logits = model(torch.tensor([tokens[:-1]])).logits[0]
            yield score(logits.numpy(), tokens, count)


def llama_scores(file, documents, ctx, flash):
    from llama_cpp import Llama

    model = Llama(model_path=file, n_ctx=ctx, logits_all=True, verbose=False, flash_attn=flash, n_batch=512)
    encode = lambda text: model.tokenize(text.encode(), add_bos=False, special=True)
    for document in documents:
        for context, continuation, *_ in document:
            tokens, count = split(encode, context, continuation)
            model.reset()
            model.eval(tokens[:-1])
            yield score(model.scores[: len(tokens) - 1], tokens, count)


def report(title, ours, theirs, documents):
    difference = np.array([a[0] - b[0] for a, b in zip(ours, theirs)])
    greedy = sum(a[1] == b[1] for a, b in zip(ours, theirs))
    best, at = 0, 0
    for document in documents:
        n = len(document)
        pick = lambda scores: max(range(n), key=lambda i: scores[at + i][0])
        best += pick(ours) == pick(theirs)
        at += n
    size = np.mean([abs(b[0]) for b in theirs])
    print(f"{title}: {len(ours)} continuations, log-likelihood {-size:.2f} on average")
    print(f"  difference: mean {difference.mean():+.5f} ± {difference.std() / math.sqrt(len(ours)):.5f}, "
          f"mean size {np.abs(difference).mean():.5f}, largest {np.abs(difference).max():.5f}")
    print(f"  same greedy flag {greedy} of {len(ours)}, same best answer {best} of {len(documents)}")
    return np.abs(difference).max()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sol", default="target/release/sol")
    parser.add_argument("--transformers", metavar="DIR", help="a float32 checkpoint")
    parser.add_argument("--llama", metavar="FILE", help="a GGUF file")
    parser.add_argument("--data", required=True)
    parser.add_argument("--tasks", default="arc_challenge")
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--num-fewshot", type=int)
    parser.add_argument("--ctx", type=int, default=4096)
    options = parser.parse_args()
    wrong = False
    if options.transformers:
        documents = samples(options, options.transformers)
        ours = [tuple(request[2:]) for document in documents for request in document]
        theirs = list(transformers_scores(options.transformers, documents))
        wrong |= report("sol and transformers, float32", ours, theirs, documents) > 1e-3
    if options.llama:
        documents = samples(options, options.llama)
        ours = [tuple(request[2:]) for document in documents for request in document]
        plain = list(llama_scores(options.llama, documents, options.ctx, False))
        report("sol and llama.cpp", ours, plain, documents)
        flash = list(llama_scores(options.llama, documents, options.ctx, True))
        report("llama.cpp with and without flash attention", flash, plain, documents)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
