#!/usr/bin/env python3
"""Makes crates/sol-eval/tests/data/ifeval.jsonl.gz: what NLTK, langdetect and the harness's own IFEval checks say of texts.

Pinned: lm_eval 0.4.4 (its IFEval is that of commit 928e8bb), nltk 3.9.1, langdetect 1.0.9; immutabledict besides.
    pip install --no-deps lm_eval==0.4.4; pip install nltk==3.9.1 langdetect==1.0.9 immutabledict
    python xtools/make_ifeval_vectors.py ../shared/eval [COUNT [OUT]]

The argument is the folder with `data/ifeval` and `golden`. A part of the lines is a slice of its goldens: the first 25 documents
of the run ("run", in order, with the random letters of two of them), every 60th vector of the checkers and every 12th of the
others. The rest are COUNT texts (240) put together at random from pieces that the rules are likely to stumble over, a third for
each kind of line: "tokens" (sentences, words), "language" and "checks" (one instruction with arguments, strict and loose).
"""

import gzip
import importlib.metadata
import io
import json
import os
import random
import sys
import tarfile
import tempfile
import types
from pathlib import Path

OUT = Path(__file__).resolve().parent.parent / "crates/sol-eval/tests/data/ifeval.jsonl.gz"
PINNED = {"lm_eval": "0.4.4", "nltk": "3.9.1", "langdetect": "1.0.9"}

PIECES = """
Dr. Smith|Mr. J. R. Jones Jr.|e.g.|i.e. this|U.S. Army|at 3 p.m. The end|No. 5|No. Five|vs. them|etc. And so|Inc. said
J. Bach|3. Second|4.5 million|$3.50|It ended.|It ended!|Did it?|"Stop!" he said.|(Really.)|(see below).|He said 'no.' Then
what?!|wow!!!|so...|so. . . on|Well... The|the end.)|end."--Next|end.' -- next|I can't|won't|they'd've|cannot|gonna|wanna go
gimme|'Tis|'twas|d'ye|more'n|lemme|gotta|rock 'n' roll|'a'|'s|O'Neil's|the '90s|''quoted''|``quoted''|"quoted"|«chevrons»
“curly”|‘single’|„low“|a,b|a, b|1,000|3:15|note: this|a;b|#tag|@you|50%|R&D|[address]|[a|b]|{x}|<<A Title>>|<<  >>|<tag>
--dash--|a - b|em—dash|* item|- item|** bold|**bold text**|*emphasis*|***|******|* * *|** **|# Header|SECTION 1|Section 2
Day 3|PARAGRAPH|P.S. bye|P. P. S again|p.s.|P.P.S|1. one|```json|```|My answer is yes.|My answer is no.|My answer is maybe.
NASA|USA|HELLO WORLD|Hello|hello world|ǅ|ß|ẞ|STRASSE|ſ|İstanbul|ısı|K|Σίσυφος|ΣΊΣΥΦΟΣ|²|½|Ⅷ|٣|x_y|a\u0301|नमस्ते दुनिया
The quick brown fox jumps over the lazy dog|all work and no play makes jack a dull boy
the weather is nice today and we walk in the park|SHE SELLS SEA SHELLS BY THE SEA SHORE|Der schnelle braune Fuchs springt
Ich weiß nicht, was soll es bedeuten|Le petit chat boit du lait|¿Dónde está la biblioteca?|Buongiorno, come stai oggi?
O gato bebe o leite|Het is een mooie dag|Быстрая коричневая лиса|Добър ден, как сте?|Η γρήγορη αλεπού|هذا نص باللغة العربية
این یک متن فارسی است|यह हिन्दी में एक वाक्य है|हे मराठी वाक्य आहे|এটি একটি বাংলা বাক্য|ਇਹ ਪੰਜਾਬੀ ਹੈ|આ ગુજરાતી છે|これは日本語の文章です。
カタカナ|这是一个中文句子。|這是一個中文句子。|한국어 문장입니다.|ภาษาไทย|Đây là một câu tiếng Việt|Đa\u0302y la\u0300 ca\u0302u|שלום עולם|இது தமிழ்
ఇది తెలుగు|ಇದು ಕನ್ನಡ|Țara și câinele|ţară|https://example.org/a?b=c&d=~e|mail me@example.com now|a_b.c@d-e.f.g|http://x
{"a": [1, NaN, -Infinity]}|{"a": 1,}|[1, 2, "x"]|"just text"|12|null|'single'|{'a': 1}
""".strip().split("\n")
PIECES = [piece for line in PIECES for piece in line.split("|")]
JOINS = [" "] * 12
JOINS += ["\n", "\n\n", "\n\n\n", "  ", "\t", "", ""]
JOINS += [". ", ".\n", "? ", "! ", ", ", "\r\n", "\u00a0", "\u2028", "\x1c", "\x1f", "\u200b"]
JOINS += ["\n* ", "\n- ", "\n***\n", "******", '"', "'", ")", ".) ", '." ', "*"]
LANGUAGES = "en de fr es it pt ru bg ar fa hi mr ko ja vi ta te kn gu pa sw ur th".split()


def text(rng):
    kind = rng.random()
    if kind < 0.1:
        pieces = [rng.choice(PIECES) for _ in range(rng.choice([1, 1, 2]))]
    elif kind < 0.2:
        pieces = [rng.choice(PIECES)] * rng.choice([2, 5, 40])
    else:
        pieces = [rng.choice(PIECES) for _ in range(rng.randint(2, 40))]
    made = rng.choice(["", "", "", '"', "\n", " ", "'"])
    for piece in pieces:
        made += piece + rng.choice(JOINS)
    made += rng.choice(["", "", "", '"', "\n", " ", ".", "```"])
    case = rng.random()
    return made.upper() if case < 0.07 else made.lower() if case < 0.14 else made


def instruction(rng, answer):
    words = [word for word in answer.split() if not set(word) & set("\\.+*?()|[]{}^$")] or ["word"]

    def some():
        common = ["a", "the", "end", "straße", "İ", "k"]
        return [rng.choice(words) if rng.random() < 0.5 else rng.choice(common) for _ in range(rng.randint(1, 3))]

    relation = rng.choice(["less than", "at least"])
    few = rng.choice([1, 1, 2, 2, 3, 4, 5, 8])
    part = answer[-rng.randint(1, 20):].strip() or "end"
    head = answer[: rng.randint(1, 30)].strip() or "the"
    kinds = {
        "keywords:existence": {"keywords": some()},
        "keywords:frequency": {"keyword": some()[0], "frequency": few, "relation": relation},
        "keywords:forbidden_words": {"forbidden_words": some()},
        "keywords:letter_frequency": {"letter": rng.choice("aEkiszK#!éß"), "let_frequency": few, "let_relation": relation},
        "language:response_language": {"language": rng.choice(LANGUAGES)},
        "length_constraints:number_sentences": {"num_sentences": few * 2, "relation": relation},
        "length_constraints:number_paragraphs": {"num_paragraphs": few},
        "length_constraints:number_words": {"num_words": few * 10, "relation": relation},
        "length_constraints:nth_paragraph_first_word": {
            "num_paragraphs": few,
            "nth_paragraph": rng.randint(1, few),
            "first_word": rng.choice(words),
        },
        "detectable_content:number_placeholders": {"num_placeholders": few},
        "detectable_content:postscript": {"postscript_marker": rng.choice(["P.S.", "P.P.S"])},
        "detectable_format:number_bullet_lists": {"num_bullets": few},
        "detectable_format:constrained_response": {},
        "detectable_format:number_highlighted_sections": {"num_highlights": few},
        "detectable_format:multiple_sections": {
            "section_spliter": rng.choice(["SECTION", "Section", "Day", "the"]),
            "num_sections": few,
        },
        "detectable_format:json_format": {},
        "detectable_format:title": {},
        "combination:two_responses": {},
        "combination:repeat_prompt": {"prompt_to_repeat": head},
        "startend:end_checker": {"end_phrase": part},
        "startend:quotation": {},
        "change_case:capital_word_frequency": {"capital_frequency": few, "capital_relation": relation},
        "change_case:english_capital": {},
        "change_case:english_lowercase": {},
        "punctuation:no_comma": {},
    }
    name = rng.choice(list(kinds))
    return name, kinds[name]


def harness(shared):
    """The harness's judgements and NLTK's and langdetect's functions, without the rest of the harness."""
    for name, version in PINNED.items():
        assert importlib.metadata.version(name) == version, f"{name} must be {version}"
    import langdetect
    import nltk

    nltk_data = tempfile.mkdtemp()
    with tarfile.open(shared / "data/ifeval/nltk_punkt_tab_english.tar.gz") as tar:
        tar.extractall(nltk_data)
    nltk.data.path.insert(0, nltk_data)
    langdetect.DetectorFactory.seed = 0
    listdir = os.listdir
    langdetect.detector_factory.os.listdir = lambda path: sorted(listdir(path))

    root = Path(importlib.metadata.distribution("lm_eval").locate_file("lm_eval"))
    for name, path in [("lm_eval", root), ("lm_eval.tasks", root / "tasks")]:
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(path)]
    sys.modules["lm_eval.utils"] = types.ModuleType("lm_eval.utils")
    sys.modules["lm_eval.utils"].eval_logger = None
    from lm_eval.tasks.ifeval import utils

    return utils, nltk, langdetect


def main():
    shared = Path(sys.argv[1])
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 240
    out = Path(sys.argv[3]) if len(sys.argv) > 3 else OUT
    utils, nltk, langdetect = harness(shared)

    def tokens(text):
        row = {"text": text, "sentences": nltk.sent_tokenize(text), "word_tokenize": nltk.word_tokenize(text)}
        return row | {"count_words": len(nltk.tokenize.RegexpTokenizer(r"\w+").tokenize(text))}

    def language(text):
        try:
            chances = [[chance.lang, chance.prob] for chance in langdetect.detect_langs(text)]
            return {"text": text, "detect": langdetect.detect(text), "probabilities": chances}
        except langdetect.LangDetectException:
            return {"text": text, "detect": None, "probabilities": []}

    def checks(ids, kwargs, response):
        random.seed(0)
        example = utils.InputExample(key=0, instruction_id_list=ids, prompt="", kwargs=kwargs)
        strict = utils.test_instruction_following_strict(example, response).follow_instruction_list
        loose = utils.test_instruction_following_loose(example, response).follow_instruction_list
        return {"instruction_id_list": ids, "kwargs": kwargs, "response": response, "strict": strict, "loose": loose}

    def golden(name):
        with gzip.open(shared / name, "rt", encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]

    documents = golden("data/ifeval/train.jsonl.gz")
    rows = []
    columns = ["instruction_id_list", "kwargs", "response", "strict", "loose"]
    for row in golden("golden/ifeval.jsonl.gz")[:25]:
        metrics = row["metrics"]["none"]
        row |= documents[row["doc_id"]] | {"strict": metrics["inst_level_strict_acc"], "loose": metrics["inst_level_loose_acc"]}
        rows.append({"kind": "run", **{column: row[column] for column in columns}})
    for row in golden("golden/vectors/ifeval_checkers.jsonl.gz")[::60]:
        row |= documents[row["doc_id"]]
        rows.append({"kind": "checks", **{column: row[column] for column in columns}})
    rows += [{"kind": "tokens", **row} for row in golden("golden/vectors/nltk_tokenize.jsonl.gz")[::12]]
    rows += [{"kind": "language", **row} for row in golden("golden/vectors/langdetect_seed0.jsonl.gz")[::12]]

    rng = random.Random(4)
    for index in range(count):
        made = text(rng)
        if index % 3 == 0:
            rows.append({"kind": "tokens", **tokens(made)})
        elif index % 3 == 1:
            rows.append({"kind": "language", **language(made)})
        else:
            name, kwargs = instruction(rng, made)
            rows.append({"kind": "checks", **checks([name], [kwargs], made)})

    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    with io.BytesIO() as packed:
        with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=9, mtime=0) as file:
            file.write(data)
        out.write_bytes(packed.getvalue())
    print(len(rows), "lines,", out.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
