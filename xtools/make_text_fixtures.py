"""Makes crates/sol-text/tests/data: tiny tokenizers with ids from transformers and sentencepiece,
and chat templates with prompts from transformers.

Run: python xtools/make_text_fixtures.py
Made with Python 3.11, transformers 4.57.6, tokenizers 0.22.2, sentencepiece 0.2.3, jinja2 3.1.6,
protobuf 7.36.
"""

import datetime
import io
import json
import pathlib
import shutil

import jinja2
import sentencepiece
import tokenizers
import transformers
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, GemmaTokenizerFast, LlamaTokenizerFast, PreTrainedTokenizerFast
from sentencepiece import sentencepiece_model_pb2 as sp_pb2
from transformers.utils import chat_template_utils

from text_cases import CONVERSATIONS, TEXTS

OUT = pathlib.Path(__file__).parent.parent / "crates/sol-text/tests/data"

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the dog doesn't mind; it's used to foxes.",
    "Hello world, hello there! How are you? We'll see what the others have said, won't we?",
    "def f(x):\n    if x > 0:\n        return x ** 2  # square\n    return None\n\n\nprint(f(12))\n",
    "{\"key\": [1, 2, 3], \"name\": \"value\"}\n<html><body>text</body></html>\n",
    "Das naïve Café, le résumé, größere Übung. Привет мир, как дела? Καλημέρα κόσμε.",
    "漢字とかなの文。中文测试文字。한국어 문장.",
    "1 12 123 1234 2024 3.14159 1,000,000 and 50%",
    "user assistant system model You are a helpful assistant. Be brief. Answer the question.",
] * 4


def sentencepiece_model(path, **options):
    """A byte pair encoding model with byte fallback, of a few hundred pieces."""
    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line for text in CORPUS for line in text.split("\n") if line),
        model_writer=buffer,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        character_coverage=0.995,
        num_threads=1,
        **options,
    )
    path.write_bytes(buffer.getvalue())


def write_json(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")


def cases(tok, texts=TEXTS):
    """What transformers makes of each text, with special tokens parsed and not, and back again."""
    found = []
    for text in texts:
        ids = tok.encode(text, add_special_tokens=False)
        with_bos = tok.encode(text)
        plain = tok.encode(text, add_special_tokens=False, split_special_tokens=True)
        assert with_bos[len(with_bos) - len(ids):] == ids
        decode = lambda skip: tok.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
        found.append({
            "text": text,
            "ids": ids,
            "plain": plain,
            "before": with_bos[:len(with_bos) - len(ids)],
            "decoded": decode(False),
            "decoded_without_special": decode(True),
        })
    return found


def gguf_from_sentencepiece(tok, proto, add_space_prefix):
    """The keys that llama.cpp's converter writes for a sentencepiece model."""
    size = len(tok)
    tokens = [piece.piece for piece in proto.pieces]
    scores = [piece.score for piece in proto.pieces]
    types = [piece.type for piece in proto.pieces]
    for id in range(len(tokens), size):
        tokens.append(tok.convert_ids_to_tokens(id))
        scores.append(-1000.0)
        types.append(3)
    for id, token in tok.added_tokens_decoder.items():
        if types[id] == 4:
            tokens[id] = token.content.replace("▁", " ")
            if token.special:
                types[id] = 3
    return {
        "model": "llama",
        "pre": "default",
        "tokens": tokens,
        "scores": scores,
        "token_types": types,
        "merges": None,
        "bos": tok.bos_token_id,
        "eos": tok.eos_token_id,
        "unk": tok.unk_token_id,
        "pad": tok.pad_token_id,
        "add_bos": True,
        "add_eos": False,
        "add_space_prefix": add_space_prefix,
    }


def gguf_from_byte_level(tok, pre, add_bos):
    state = json.loads(tok.backend_tokenizer.to_str())
    tokens = [tok.convert_ids_to_tokens(id) for id in range(len(tok))]
    added = tok.added_tokens_decoder
    return {
        "model": "gpt2",
        "pre": pre,
        "tokens": tokens,
        "scores": None,
        "token_types": [(3 if added[id].special else 4) if id in added else 1 for id in range(len(tok))],
        "merges": [" ".join(merge) for merge in state["model"]["merges"]],
        "bos": tok.bos_token_id,
        "eos": tok.eos_token_id,
        "unk": tok.unk_token_id,
        "pad": None,
        "add_bos": add_bos,
        "add_eos": None,
        "add_space_prefix": None,
    }


def save(name, tok, gguf, keep_model=None):
    """A directory as the hub has them, the GGUF keys, and the cases."""
    folder = OUT / name
    folder.mkdir()
    tok.save_pretrained(folder)
    for file in folder.iterdir():
        if file.name not in ("tokenizer.json", "tokenizer_config.json"):
            file.unlink()
    # Without indentation, and without the flag that would have transformers convert again instead of
    # reading tokenizer.json.
    for file in ("tokenizer.json", "tokenizer_config.json"):
        value = json.loads((folder / file).read_text())
        value.pop("add_prefix_space", None)
        write_json(folder / file, value)
    if keep_model:
        shutil.copy(keep_model, folder / "tokenizer.model")
    write_json(folder / "gguf.json", gguf)
    write_json(folder / "cases.json", cases(AutoTokenizer.from_pretrained(folder)))


def special(*contents, rstrip=False):
    return [tokenizers.AddedToken(content, special=True, rstrip=rstrip, normalized=False) for content in contents]


def make_sentencepiece(work):
    path = work / "llama.model"
    sentencepiece_model(path, vocab_size=560, add_dummy_prefix=True)
    proto = sp_pb2.ModelProto()
    proto.ParseFromString(path.read_bytes())

    tok = LlamaTokenizerFast(vocab_file=str(path), legacy=True, add_prefix_space=True)
    check_against_sentencepiece(tok, path)
    save("spm-llama", tok, gguf_from_sentencepiece(tok, proto, None), path)

    tok = LlamaTokenizerFast(vocab_file=str(path), legacy=False, add_prefix_space=True)
    save("spm-llama-metaspace", tok, gguf_from_sentencepiece(tok, proto, None), path)

    # Phi-3: added tokens, most of which swallow the white space to their right.
    tok = LlamaTokenizerFast(vocab_file=str(path), legacy=True, add_prefix_space=True, eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    tok.add_special_tokens({"additional_special_tokens": special(
        "<|assistant|>", "<|placeholder1|>", "<|system|>", "<|end|>", "<|user|>", rstrip=True)})
    tok.add_tokens([tokenizers.AddedToken("</s>", special=False, rstrip=True, normalized=False)])
    save("spm-phi3", tok, gguf_from_sentencepiece(tok, proto, None), path)
    gguf = json.loads((OUT / "spm-phi3/gguf.json").read_text())
    gguf["token_types"][2] = 4  # as in the real file
    write_json(OUT / "spm-phi3/gguf.json", gguf)

    # Solar: the same pieces with ChatML's markers.
    tok = LlamaTokenizerFast(vocab_file=str(path), legacy=True, add_prefix_space=True, eos_token="<|im_end|>", pad_token="<|im_end|>")
    tok.add_special_tokens({"additional_special_tokens": special("<|im_start|>")})
    save("spm-solar", tok, gguf_from_sentencepiece(tok, proto, None), path)

    # Gemma: no space in front, runs of white space and tags as pieces of their own.
    path = work / "gemma.model"
    sentencepiece_model(
        path, vocab_size=600, add_dummy_prefix=False, pad_id=0, eos_id=1, bos_id=2, unk_id=3,
        pad_piece="<pad>", eos_piece="<eos>", bos_piece="<bos>", unk_piece="<unk>",
        user_defined_symbols=["<start_of_turn>", "<end_of_turn>", "\n", "\n\n", "\n\n\n", "\t", "▁▁", "▁▁▁", "▁▁▁▁", "</b>"])
    proto.ParseFromString(path.read_bytes())
    tok = GemmaTokenizerFast(vocab_file=str(path))
    save("spm-gemma", tok, gguf_from_sentencepiece(tok, proto, False), path)


def check_against_sentencepiece(tok, path):
    """Hugging Face's conversion and sentencepiece itself agree."""
    sp = sentencepiece.SentencePieceProcessor(model_file=str(path))
    for text in TEXTS:
        if not any(special in text for special in ("<s>", "</s>", "<unk>", "\u0000", "▁")):
            assert tok.encode(text, add_special_tokens=False) == sp.encode(text), text


def make_byte_level():
    def train(pre, specials, size=600, **options):
        tok = tokenizers.Tokenizer(models.BPE(**options))
        tok.pre_tokenizer = pre
        tok.decoder = decoders.ByteLevel()
        tok.train_from_iterator(CORPUS, trainers.BpeTrainer(
            vocab_size=size, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False))
        return tok

    byte_level = lambda use_regex: pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)

    tok = train(byte_level(True), ["<|endoftext|>"])
    tok = PreTrainedTokenizerFast(tokenizer_object=tok, bos_token="<|endoftext|>", eos_token="<|endoftext|>")
    save("bpe-gpt2", tok, gguf_from_byte_level(tok, "gpt-2", None))

    # SmolLM2: digits one by one.
    pre = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level(True)])
    tok = train(pre, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tok = PreTrainedTokenizerFast(
        tokenizer_object=tok, bos_token="<|im_start|>", eos_token="<|im_end|>", unk_token="<|endoftext|>")
    save("bpe-smollm", tok, gguf_from_byte_level(tok, "smollm", False))

    # Llama 3: its own pattern, whole words before merges, special tokens behind the vocabulary.
    split = pre_tokenizers.Split(tokenizers.Regex(LLAMA3), "isolated")
    tok = train(pre_tokenizers.Sequence([split, byte_level(False)]), [], ignore_merges=True)
    # Words that no merge makes, as Llama 3 has some.
    state = json.loads(tok.to_str())
    for word in ["Hello", "Ġbeing", "Ġ123", "zzzz"]:
        state["model"]["vocab"].setdefault(word, len(state["model"]["vocab"]))
    tok = tokenizers.Tokenizer.from_str(json.dumps(state))
    tok.add_special_tokens(special("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"))
    bos = tok.token_to_id("<|begin_of_text|>")
    tok.post_processor = tokenizers.processors.Sequence([
        tokenizers.processors.ByteLevel(trim_offsets=False),
        tokenizers.processors.TemplateProcessing(
            single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A <|begin_of_text|> $B",
            special_tokens=[("<|begin_of_text|>", bos)]),
    ])
    tok = PreTrainedTokenizerFast(tokenizer_object=tok, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")
    save("bpe-llama3", tok, gguf_from_byte_level(tok, "llama-bpe", None))

    # Qwen 2: normalises to NFC, so the tokenizers crate's own stages run.
    pattern = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
    split = pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
    tok = train(pre_tokenizers.Sequence([split, byte_level(False)]), ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tok.normalizer = tokenizers.normalizers.NFC()
    tok = PreTrainedTokenizerFast(tokenizer_object=tok, eos_token="<|im_end|>")
    save("bpe-qwen2", tok, gguf_from_byte_level(tok, "qwen2", False))


# Chat templates, written from the models' documented formats (Llama 3.1's without its tools).
TEMPLATES = {
    "solar": """{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}\
{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}""",
    "phi3-medium": """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\n' + message['content'] + '<|end|>\n<|assistant|>\n' }}
{%- elif message['role'] == 'assistant' %}
{{ message['content'] + '<|end|>\n' }}
{%- endif %}
{% endfor %}""",
    "phi3.5-moe": """{%- for message in messages -%}
    {%- if message['role'] == 'system' and message['content'] -%}
        {{ '<|system|>\n' + message['content'] + '<|end|>\n' }}
    {%- elif message.role == 'user' -%}
        {{ '<|user|>\n' + message.content + '<|end|>\n' }}
    {%- elif message.role == 'assistant' -%}
        {{ '<|assistant|>\n' + message.content + '<|end|>\n' }}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<|assistant|>\n' }}
{%- else -%}
    {{ eos_token }}
{%- endif -%}""",
    "gemma2": """{{ bos_token }}
{%- if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for message in messages %}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- set role = 'model' if message.role == 'assistant' else message.role %}
    {{- '<start_of_turn>' ~ role ~ '\n' ~ message.content | trim ~ '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}""",
    "llama3.1": """{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'].strip() %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}{{ raise_exception("no tools here") }}{% endif %}
{{- "Cutting Knowledge Date: December 2023\\nToday Date: " + date_string + "\\n\\n" }}
{{- system_message + "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
""",
    # Apache-2.0, from SmolLM2-135M-Instruct's GGUF file, word for word.
    "smollm2": """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>
' }}{% endif %}{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}""",
    # What the others do not use but published templates do.
    "features": """{#- a comment -#}
{%- macro turn(role, text='?') -%}
    [{{ role }}|{{ text }}]
{%- endmacro %}
{%- set ns = namespace(count=0, last='') %}
  {% for message in messages %}
    {% if message.role == 'tool' %}{% continue %}{% endif %}
    {%- if ns.count >= 3 %}{% break %}{% endif %}
    {%- set ns.count = ns.count + 1 %}
    {%- set ns.last = message.content %}
    {%- generation -%}
{{ turn(message.role, message.content.strip()) }}
    {%- endgeneration %}
{{ message | tojson }} {{ message.content | tojson(indent=2) }} {{ [1, 2.5, true, none, {'b': 1, 'a': [ ]}] | tojson }}
{{ {'x': [1, {'y': 'é<>&'}], 'z': {}} | tojson(indent=2) }}
  {% endfor %}
{{ ns.count }} {{ ns.last[:3] }} {{ ns.last[-2:] }} {{ messages | length }} {{ messages[-1].role }}
{{ 'a,b,,c'.split(',') | join('+') }} {{ 'x' if tools else 'no tools' }} {{ documents is none }} {{ nothing is defined }}
{{ 'Title Case'.lower().upper().title() }} {{ '  s '.lstrip() + '|' + ' s  '.rstrip() + '|' }} {{ 'abc'.startswith('ab') and 'abc'.endswith('bc') }}
{{ 'a-b-a'.replace('a', 'x') }} {{ 'xxabxx'.strip('x') }} {{ 'k' in {'k': 1} }} {{ {'k': 1}.get('q', 'd') }}
{% for k, v in {'one': 1, 'two': 'zwei'}.items() %}{{ k }}={{ v }}{{ ', ' if not loop.last }}{% endfor %}

{% for k, v in {'one': 1} | items %}{{ k }}:{{ v }}{% endfor %} {{ messages | map(attribute='role') | unique | list | join('/') }}
{{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ range(3) | list }} {{ 7 // 2 }} {{ 7 % 4 }} {{ 2 ** 3 }} {{ 'a' ~ 1 }}
{{ messages[0].content is string }} {{ messages is iterable }} {{ tools is iterable }} {{ 'text' is iterable }} {{ {} is iterable }} {{ 1 is iterable }} {{ messages[0] is mapping }} {{ 'q' | default('d') }} {{ undefined_thing | default('d') }}
{{ strftime_now('%d %b %Y, %Y-%m-%d %H:%M') }} {{ bos_token }}{{ eos_token }} {{ "a\\nb" | replace("\\n", "/") }} {{ 'abc' | upper | first }}
{{ "%s is %d" | format('x', 3) }} {{ true }} {{ none }} {{ 1.0 }} {{ [1, 'a', none] }} {{ {'a': 1} }} {{ 'abc'[::-1] }} {{ 'aXbXc'.split('X')[-1] }}
""",
}


class FixedDatetime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2024, 9, 10, 7, 8, 9)


def make_templates(folder, templates):
    """The prompts of all conversations, or what the template says against them."""
    folder.mkdir(parents=True, exist_ok=True)
    chat_template_utils.datetime = FixedDatetime
    tok = PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(models.BPE()), bos_token="<bos>", eos_token="<eos>")
    for name, source in templates.items():
        (folder / f"{name}.jinja").write_text(source)
        rendered = []
        for conversation, turns in CONVERSATIONS.items():
            messages = [{"role": role, "content": content} for role, content in turns]
            for prompt in (True, False):
                case = {"conversation": conversation, "messages": messages, "add_generation_prompt": prompt}
                try:
                    case["prompt"] = tok.apply_chat_template(
                        messages, chat_template=source, tokenize=False, add_generation_prompt=prompt)
                except Exception as e:
                    # The template's own words, or a failure of Python's, where others may fail otherwise or not at all.
                    case["refusal" if type(e) is jinja2.TemplateError else "failure"] = str(e)
                rendered.append(case)
        write_json(folder / f"{name}.json", rendered)


def make_chats():
    """Conversations to ids, through each tokenizer and its model's template."""
    for name, template in [
        ("spm-phi3", "phi3-medium"), ("spm-solar", "solar"), ("spm-gemma", "gemma2"), ("bpe-smollm", "smollm2"),
        ("bpe-llama3", "llama3.1"), ("bpe-qwen2", "smollm2"),
    ]:
        tok = AutoTokenizer.from_pretrained(OUT / name)
        found = []
        for turns in CONVERSATIONS.values():
            messages = [{"role": role, "content": content} for role, content in turns]
            try:
                ids = tok.apply_chat_template(messages, chat_template=TEMPLATES[template], add_generation_prompt=True)
            except Exception:
                continue
            found.append({"messages": messages, "ids": ids})
        write_json(OUT / name / "chats.json", {"template": template, "cases": found})


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    work = OUT / "work"
    work.mkdir()
    make_sentencepiece(work)
    make_byte_level()
    make_templates(OUT / "templates", TEMPLATES)
    make_chats()
    shutil.rmtree(work)
    print("transformers", transformers.__version__, "tokenizers", tokenizers.__version__,
          "sentencepiece", sentencepiece.__version__)


if __name__ == "__main__":
    main()
