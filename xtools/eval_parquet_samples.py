"""Makes crates/sol-eval/tests/data/parquet: small Parquet files and the rows in them, as sol-eval's reader is to give them.

Needs pyarrow (checked with 26.0.1). Run from the root of the project:
    python xtools/eval_parquet_samples.py
One file for each codec and page form over the same columns, in the shapes that benchmarks on the hub have (lists of texts, a
struct of lists as ARC's, a list of structs as IFEval's), with nulls at every depth; `<name>.json` holds the rows. The rows are
the Python values that pyarrow itself reads back, so the files and what is expected have one source each.
"""

import datetime
import decimal
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

OUT = Path("crates/sol-eval/tests/data/parquet")

KWARGS = pa.struct([("keyword", pa.string()), ("n", pa.int64()), ("words", pa.list_(pa.string()))])
SCHEMA = pa.schema([
    ("id", pa.int64()),
    ("question", pa.string()),
    ("answer", pa.int32()),
    ("small", pa.int8()),
    ("big", pa.uint64()),
    ("score", pa.float64()),
    ("single", pa.float32()),
    ("right", pa.bool_()),
    ("options", pa.list_(pa.string())),
    ("choices", pa.struct([("text", pa.list_(pa.string())), ("label", pa.list_(pa.string()))])),
    ("kwargs", pa.list_(KWARGS)),
    ("nested", pa.list_(pa.list_(pa.int64()))),
    ("nothing", pa.string()),
    ("raw", pa.binary()),
])


def rows():
    for i in range(7):
        yield {
            "id": i * 10**12,
            "question": None if i == 3 else f"Frage {i}: „größer“ als 𝒳?\n\ttab, quote \" and \\",
            "answer": i - 3,
            "small": -128 + i,
            "big": 2**64 - 1 - i,
            "score": [0.1, -2.5, 1e300, 5e-324, None, 0.0, 3.0][i],
            "single": [0.1, 0.5, None, 1e10, -3.25, 16777216.0, 0.0][i],
            "right": [True, False, None][i % 3],
            "options": [["a", "b", "c"], [], None, ["", None], ["x"], ["ä", "\x00"], ["1", "2"]][i],
            "choices": None if i == 2 else {"text": ["one", "two"][: i % 3], "label": None if i == 4 else ["A", "B"][: i % 3]},
            "kwargs": [
                [],
                None,
                [{"keyword": None, "n": None, "words": None}],
                [{"keyword": "k", "n": 1, "words": ["w", None]}, {"keyword": None, "n": -1, "words": []}],
                [None],
                [{"keyword": "", "n": 0, "words": ["a", "b", "c"]}],
                [{"keyword": "x", "n": 2, "words": None}] * 3,
            ][i],
            "nested": [[[1, 2], [], [3]], [], None, [None, [None]], [[]], [[i]] * 3, [[2**62]]][i],
            "nothing": None,
            "raw": [b"text", b"\xff\x00\xfe", None, b"", "ü".encode(), b"\x80", b"x"][i],
        }


def expected(value):
    """As JSON has it: bytes are a text or a list of numbers."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return list(value)
    if isinstance(value, dict):
        return {key: expected(item) for key, item in value.items()}
    if isinstance(value, list):
        return [expected(item) for item in value]
    return value


def write(name, table, **options):
    path = OUT / f"{name}.parquet"
    pq.write_table(table, path, **options)
    read = [expected(row) for row in pq.read_table(path).to_pylist()]
    (OUT / f"{name}.json").write_text(json.dumps(read, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(path, path.stat().st_size)


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(list(rows()), schema=SCHEMA)
    write("snappy", table, compression="snappy", row_group_size=3)
    write("zstd", table, compression="zstd", data_page_version="2.0")
    write("gzip", table, compression="gzip", use_dictionary=False)
    write("plain", table, compression="none", use_dictionary=False, row_group_size=2)
    write("delta", table.select(["id", "question", "options"]), use_dictionary=False,
          column_encoding={"id": "DELTA_BINARY_PACKED", "question": "DELTA_BYTE_ARRAY",
                           "options.list.element": "DELTA_LENGTH_BYTE_ARRAY"})
    names = ["alpha", "beta", None]
    write("dictionary", pa.table({
        "config": pa.array([names[i % 2] for i in range(200)]).dictionary_encode(),
        "subject": pa.array([names[i % 3] for i in range(200)]).dictionary_encode(),
        "answer": pa.array([i % 4 for i in range(200)], pa.int64()),
    }), compression="snappy")
    write("empty", table.slice(0, 0))
    # Types that no benchmark here has, but somebody's data may: texts, as they are printed.
    path = OUT / "others.parquet"
    pq.write_table(pa.table({
        "day": pa.array([datetime.date(2024, 9, 11)]),
        "price": pa.array([decimal.Decimal("12.50")], pa.decimal128(9, 2)),
        "map": pa.array([[("a", 1), ("b", None)]], pa.map_(pa.string(), pa.int64())),
        "half": pa.array([1.5], pa.float16()),
        "nan": pa.array([float("nan")]),
    }), path)
    rows_there = [{"day": "2024-09-11", "price": "12.50", "map": {"a": 1, "b": None}, "half": 1.5, "nan": None}]
    (OUT / "others.json").write_text(json.dumps(rows_there, indent=1) + "\n")


main()
