#!/usr/bin/env python3
"""Makes the tables that IFEval's checks need: crates/sol-eval/data/{punkt_english.z,langdetect.z}.

Pinned: langdetect 1.0.9 (its profiles and character classes), and the English Punkt parameters in NLTK's punkt_tab form.
    python xtools/eval_ifeval_data.py ../shared/eval/data/ifeval/nltk_punkt_tab_english.tar.gz

Both files are zlib streams. Once inflated:

punkt_english.z, UTF-8: the lines of abbrev_types.txt, collocations.tab, sent_starters.txt and ortho_context.tab, each list sorted
and followed by an empty line.

langdetect.z: UTF-8 lines, then bytes. Lines: a language each, "code, n-grams of length 1, of length 2, of length 3" (counts
of its training text), and an empty line; a class of ideographs each, whose first one stands for all, and an empty line; an
n-gram each, sorted, and an empty line. Bytes: for each n-gram how many languages have it (one byte); then, n-gram by n-gram,
which ones (one byte: 0-based index of the first, then distances); then how often, in the same order, as LEB128 numbers.
N-grams with a character that normalisation replaces by another one can not occur in a text and are left out.
"""

import importlib.metadata
import json
import sys
import tarfile
import zlib
from pathlib import Path

import langdetect
from langdetect.utils.messages import Messages
from langdetect.utils.ngram import NGram

OUT = Path(__file__).resolve().parent.parent / "crates/sol-eval/data"


def lines(items):
    return "".join(f"{item}\n" for item in items) + "\n"


def punkt(archive):
    sections = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            sections[Path(member.name).name] = tar.extractfile(member).read().decode().splitlines()
    names = ["abbrev_types.txt", "collocations.tab", "sent_starters.txt", "ortho_context.tab"]
    return "".join(lines(sorted(line for line in sections[name] if line)) for name in names).encode()


def leb128(n):
    out = bytearray()
    while n >= 128:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)
    return out


def profiles():
    folder = Path(langdetect.__file__).parent / "profiles"
    languages = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.iterdir())]
    assert len(languages) == 55
    classes = [value for key, value in Messages().messages.items() if key.startswith("NGram.KANJI_")]
    assert len("".join(classes)) == len(set("".join(classes)))
    grams = {}
    for index, language in enumerate(languages):
        for gram, count in language["freq"].items():
            if all(NGram.normalize(char) == char for char in gram):
                grams.setdefault(gram, []).append((index, count))
    order = sorted(grams)
    assert all(1 <= len(gram) <= 3 and "\n" not in gram for gram in order)
    header = [" ".join(map(str, [language["name"], *language["n_words"]])) for language in languages]
    text = lines(header) + lines(classes) + lines(order)
    sizes, which, counts = bytearray(), bytearray(), bytearray()
    for gram in order:
        sizes.append(len(grams[gram]))
        last = 0
        for index, count in grams[gram]:
            which.append(index - last)
            last = index
            counts += leb128(count)
    return text.encode() + sizes + which + counts


def main():
    assert importlib.metadata.version("langdetect") == "1.0.9"
    OUT.mkdir(exist_ok=True)
    for name, data in [("punkt_english.z", punkt(sys.argv[1])), ("langdetect.z", profiles())]:
        packed = zlib.compress(data, 9)
        (OUT / name).write_bytes(packed)
        print(name, len(data), "->", len(packed))


if __name__ == "__main__":
    main()
