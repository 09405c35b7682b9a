#!/usr/bin/env python3
"""Makes crates/sol-eval/tests/data/harness: rows of every benchmark, and what lm-evaluation-harness asks and reckons of them.

Pinned: lm_eval 0.4.4 (its tasks, prompts and figures are those of commit 928e8bb: --check), datasets 2.21.0,
transformers 4.44.2, numpy 1.26.4, pyarrow 17.0.0, nltk 3.9.1, langdetect 1.0.9; Python 3.8 to 3.12 for `random`. No torch.
    pip install --no-deps lm_eval==0.4.4
    pip install datasets==2.21.0 transformers==4.44.2 numpy==1.26.4 pyarrow==17.0.0 nltk==3.9.1 langdetect==1.0.9 \\
        immutabledict jinja2==3.1.4 jsonlines pytablewriter rouge-score sacrebleu scikit-learn sqlitedict \\
        tqdm-multiprocess word2number more_itertools zstandard
    python xtools/make_harness_slice.py ../shared/eval           # the slice
    python xtools/make_harness_slice.py ../shared/eval --check   # lm_eval 0.4.4 asks what `golden` says that 928e8bb asks

The argument is the folder with `data` and `golden`. Rows are taken from all over the test sets, past the documents of the
goldens, odd ones on purpose. The model is a dummy: a log-likelihood is -(crc32(context + continuation) mod 10000) / 100, greedy is
bit 16 of it; a generated text is made of the right answer, in a way that crc32(context) picks.
"""

import gzip
import importlib.machinery
import importlib.metadata
import itertools
import json
import os
import shutil
import sys
import tarfile
import tempfile
import types
import zlib
from pathlib import Path

PINNED = {"lm_eval": "0.4.4", "datasets": "2.21.0", "numpy": "1.26.4", "nltk": "3.9.1", "langdetect": "1.0.9"}
OUT = Path(__file__).resolve().parent.parent / "crates/sol-eval/tests/data/harness"
SCRATCH = Path(tempfile.mkdtemp())
os.environ.update(HF_HOME=str(SCRATCH / "hf"), HF_DATASETS_OFFLINE="1", HF_HUB_OFFLINE="1", TQDM_DISABLE="1")
EOS = "<|im_end|>"

# The hub's name: folder, {split: file}. Configs are rows of one file.
SETS = {
    "hails/mmlu_no_train": ("mmlu", {"test": "test", "dev": "dev"}),
    "TIGER-Lab/MMLU-Pro": ("mmlu_pro", {"test": "test", "validation": "validation"}),
    "wis-k/instruction-following-eval": ("ifeval", {"train": "train"}),
    "google/IFEval": ("ifeval", {"train": "train"}),
    "allenai/ai2_arc": ("arc_challenge", {"test": "test", "train": "train"}),
    "Idavidrein/gpqa": ("gpqa", {"train": "train"}),
    "hellaswag": ("hellaswag", {"validation": "validation", "train": "train"}),
    "pbevan11/EQ-Bench": ("eq_bench", {"validation": "validation"}),
    "SaylorTwift/bbh": ("bbh", {"test": "test"}),
    "TAUR-Lab/MuSR": ("musr", {n: n for n in ["murder_mysteries", "object_placements", "team_allocation"]}),
    "gsm8k": ("gsm8k", {"test": "test", "train": "train"}),
}

MMLU = {
    "mmlu_stem": ["mmlu_elementary_mathematics"],
    "mmlu_other": ["mmlu_nutrition"],
    "mmlu_social_sciences": ["mmlu_us_foreign_policy"],
    "mmlu_humanities": ["mmlu_international_law", "mmlu_prehistory"],
}
MMLU_LEAVES = sorted(itertools.chain(*MMLU.values()))
PRO_LEAVES = ["mmlu_pro_computer_science", "mmlu_pro_law", "mmlu_pro_math"]
BBH = ["causal_judgement", "formal_fallacies", "object_counting", "ruin_names"]
BBH_LEAVES = [f"leaderboard_bbh_{name}" for name in BBH]
GPQA = ["diamond", "extended", "main"]

# What is run: names given to the harness, leaves (where only some of a group's are there), the card's examples, others.
TASKS = {
    "mmlu": (["mmlu"], MMLU_LEAVES, 5, 2),
    "leaderboard_mmlu_pro": (["leaderboard_mmlu_pro"], None, 5, 0),
    "mmlu_pro": (["mmlu_pro"], PRO_LEAVES, 5, 1),
    "leaderboard_ifeval": (["leaderboard_ifeval"], None, None, 3),
    "ifeval": (["ifeval"], None, None, 3),
    "arc_challenge": (["arc_challenge"], None, 25, 3),
    "leaderboard_gpqa": (["leaderboard_gpqa"], None, None, 2),
    "gpqa_zeroshot": ([f"gpqa_{name}_zeroshot" for name in GPQA], None, None, 2),
    "gpqa_main_zeroshot": (["gpqa_main_zeroshot"], None, None, 2),
    "hellaswag": (["hellaswag"], None, 10, 4),
    "eq_bench": (["eq_bench"], None, None, 1),
    "leaderboard_bbh": (BBH_LEAVES, None, 3, 1),
    "leaderboard_musr": (["leaderboard_musr"], None, None, 1),
    "gsm8k_cot": (["gsm8k_cot"], None, 8, 4),
    "gsm8k": (["gsm8k"], None, 5, 2),
}
CHAT = {"apply_chat_template": True}
TURNS = CHAT | {"fewshot_as_multiturn": True}
SYSTEM = {"system_instruction": "You are terse."}
ALL = list(TASKS)
SHOTS = [name for name, task in TASKS.items() if task[2]]
SEEDED = ["arc_challenge", "hellaswag", "gsm8k"]
DRAWN = ["leaderboard_gpqa", "leaderboard_ifeval", "ifeval"]
# Setting: which tasks, what it sets. `other`: the other number of examples.
SETTINGS = {
    "plain": (ALL, {}),
    "chat": (ALL, CHAT),
    "multiturn": (SHOTS, TURNS),
    "system": (["mmlu", "arc_challenge", "leaderboard_bbh", "gsm8k_cot", "leaderboard_ifeval", "eq_bench", "mmlu_pro"], SYSTEM),
    "system chat": (["mmlu", "arc_challenge", "leaderboard_ifeval", "gsm8k", "eq_bench"], SYSTEM | CHAT),
    "system multiturn": (["leaderboard_bbh", "hellaswag", "mmlu_pro"], SYSTEM | TURNS),
    "other shots": (ALL, {"other": True}),
    "other shots chat": (["hellaswag", "leaderboard_musr", "eq_bench"], CHAT | {"other": True}),
    "other examples": (SEEDED, {"fewshot_random_seed": 7}),
    "other examples chat": (SEEDED, CHAT | {"fewshot_random_seed": 7}),
    "other examples multiturn": (SEEDED, TURNS | {"fewshot_random_seed": 7}),
    "other seed": (DRAWN, {"random_seed": 5}),
    "limit": (["mmlu", "leaderboard_bbh", "arc_challenge", "leaderboard_gpqa"], {"limit": 2}),
}

TEXTS = [
    "I will do it, of course. Here it is.\n\n* one\n* two\n* three\n\nP.S. More tomorrow.",
    "<<A Title>>\n\nno commas here and everything is lower case so that it may pass a test or two",
    '"All of this is quoted, from the first word to the last."',
    "# Heading\n\n*highlighted section one* and *highlighted section two* and **bold**!\n\n***\n\nSecond part: [name], [place].",
    '```json\n{"answer": ["a", 1, null]}\n```',
    "My answer is yes.",
    "SECTION 1\nTHE WEATHER IS NICE TODAY AND WE WALK IN THE PARK.\n\nSECTION 2\nSHE SELLS SEA SHELLS BY THE SEA SHORE!!!!!!",
    "First response: the cat sat.\n******\nSecond response: the dog ran away, e.g. to Mr. Smith. Really?",
    "Der schnelle braune Fuchs springt über den faulen Hund. Ich weiß nicht, was soll es bedeuten.",
    "Here you go:\n- a\n- b\n- c\n- d\n\nIs there anything else I can help with?" + EOS + "more",
    "The quick brown fox jumps over the lazy dog. " * 12 + "#tag #other #third #fourth",
    "  \n",
]


def rows(file):
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def write(file, lines):
    file.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    file.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


# Rows


def pick(table, count, skip, *odd):
    """`count` rows spread over what follows `skip`, and the first of each odd kind there, as they come."""
    rest = table[skip:]
    chosen = {len(rest) * (2 * k + 1) // (2 * count) for k in range(count)}
    for kind in odd:
        chosen.update([next(i for i, row in enumerate(rest) if kind(row) and i not in chosen)])
    return [rest[i] for i in sorted(chosen)]


def of(table, config):
    return [row for row in table if row["config"] == config]


def slice_rows(shared):
    data = shared / "data"

    def table(name):
        return rows(data / f"{name}.jsonl.gz")

    def ascii_only(row):
        return str(row).isascii()

    out = {}
    mmlu, dev = table("mmlu/test"), table("mmlu/dev")
    subjects = [name.removeprefix("mmlu_") for name in MMLU_LEAVES]
    sizes = [2, 3, 4, 2, 3]
    out["mmlu/test"] = [row for subject, n in zip(subjects, sizes) for row in pick(of(mmlu, subject), n, 50)]
    out["mmlu/test"] += pick(of(mmlu, "elementary_mathematics"), 1, 20, lambda row: any(c != c.strip() for c in row["choices"]))
    out["mmlu/dev"] = [row for subject in subjects for row in of(dev, subject)]
    pro = table("mmlu_pro/test")
    odd = [lambda row: len(row["options"]) == 3, lambda row: not ascii_only(row), lambda row: row["options"][0][:1] == " "]
    categories = ["computer science", "law", "math"]
    out["mmlu_pro/test"] = pick(pro, 1, 3000, *odd)
    out["mmlu_pro/test"] += [row for name in categories for row in pick([r for r in pro if r["category"] == name], 2, 100)]
    out["mmlu_pro/validation"] = [row for row in table("mmlu_pro/validation") if row["category"] in categories]
    ifeval = table("ifeval/train")
    out["ifeval/train"] = [ifeval[19], ifeval[22]] + pick(ifeval, 12, 150)
    arc = table("arc_challenge/test")
    odd = [lambda row: len(row["choices"]["text"]) == n for n in (3, 5)] + [lambda row: row["choices"]["label"][0] == "1"]
    out["arc_challenge/test"] = pick(arc, 2, 500, *odd)
    # Documents are no examples for themselves: two of them are in the examples, here and below.
    out["arc_challenge/train"] = table("arc_challenge/train")[700:738] + out["arc_challenge/test"][:2]
    gpqa = table("gpqa_synthetic/train")
    out["gpqa/train"] = [row for i, name in enumerate(GPQA) for row in of(gpqa, f"gpqa_{name}")[i:]]
    hella = table("hellaswag/validation")
    odd = [lambda row: "[title]" in str(row), lambda row: "  " in str(row), lambda row: not ascii_only(row)]
    out["hellaswag/validation"] = pick(hella, 2, 1000, *odd)
    out["hellaswag/train"] = hella[2000:2036] + out["hellaswag/validation"][:4]
    out["eq_bench/validation"] = pick(table("eq_bench/validation"), 5, 60)
    bbh = table("bbh/test")
    out["bbh/test"] = [row for name in BBH for row in pick(of(bbh, name), 3, 60)]
    out["bbh/test"] += [row for row in of(bbh, "ruin_names") if row["target"] == "dearth, wind, & fire"]
    for name, at in [("murder_mysteries", [3, 4]), ("object_placements", [13, 17, 19]), ("team_allocation", [3, 4])]:
        out[f"musr/{name}"] = [table(f"musr/{name}.partial")[i] for i in at]
    odd = [lambda row: "," in row["answer"].split("####")[1], lambda row: not ascii_only(row)]
    out["gsm8k/test"] = pick(table("gsm8k/test"), 4, 400, *odd)
    out["gsm8k/train"] = table("gsm8k/train")[4000:4038] + out["gsm8k/test"][:2]
    for name, table in out.items():
        write(OUT / f"data/{name}.jsonl.gz", table)


# The harness


class Stub(types.ModuleType):
    """Of torch, and of what needs it: what the harness names without computing anything."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        if name[0].isupper():
            return type(name, (), {})
        return lambda *args, **kwargs: None


def harness(shared):
    for name, version in PINNED.items():
        assert importlib.metadata.version(name) == version, f"{name} must be {version}"
    import datasets
    import langdetect
    import nltk
    import transformers  # noqa: F401 - before there is something called torch

    for name in ["torch", "torch.utils", "torch.utils.collect_env", "evaluate"]:
        sys.modules[name] = Stub(name)
        sys.modules[name].__spec__ = importlib.machinery.ModuleSpec(name, None)
    sys.modules["torch"].nn = Stub("torch.nn")
    # The models, which need torch; the harness asks whether a model is one of Hugging Face's.
    models = sys.modules["lm_eval.models"] = types.ModuleType("lm_eval.models")
    models.huggingface = types.SimpleNamespace(HFLM=type("HFLM", (), {}))
    import lm_eval

    lm_eval.models = models
    with tarfile.open(shared / "data/ifeval/nltk_punkt_tab_english.tar.gz") as tar:
        tar.extractall(SCRATCH / "nltk")
    nltk.data.path.insert(0, str(SCRATCH / "nltk"))
    nltk.download = lambda *args, **kwargs: True
    langdetect.DetectorFactory.seed = 0
    listdir = os.listdir
    langdetect.detector_factory.os.listdir = lambda path: sorted(listdir(path))
    return datasets


def load_from(datasets, root, cache):
    """`datasets.load_dataset` of the folder. Sets lie on disk, since maps are cached beside them: the options of GPQA are
    shuffled once, when a task is loaded."""

    def load(path, name=None, **kwargs):
        folder, splits = SETS[path]
        place = cache / f"{folder}-{name}"
        if not place.exists():
            made = {}
            for split, file in splits.items():
                file = next(p for end in ("", ".partial") if (p := root / folder / f"{file}{end}.jsonl.gz").exists())
                table = rows(file)
                if "config" in table[0]:
                    table = [{k: v for k, v in row.items() if k != "config"} for row in table if row["config"] == name]
                made[split] = datasets.Dataset.from_list(table)
            datasets.DatasetDict(made).save_to_disk(place)
        return datasets.load_from_disk(str(place))

    return load


def canned(doc, context, task):
    """A text made of the right answer, or of a wrong one."""
    say = zlib.crc32(context.encode())
    if "instruction_id_list" in doc:
        return TEXTS[say % len(TEXTS)]
    if "cot_content" in doc:
        right, wrong = doc["answer"], "A" if doc["answer"] != "A" else "B"
        forms = [
            f" First one, then two. The answer is ({right}).",
            f" so the answer is {right}",
            f" The answer is ({wrong}). No, the answer is ({right}).",
            f" It must be {right}.",
            f" The answer is ({wrong}).\n\nQ: the answer is ({right})",
            f"The answer is ({right.lower()}).",
        ]
    elif "reference_answer_fullscale" in doc:
        gold = eval(doc["reference_answer_fullscale"])
        names = [gold[f"emotion{i}"] for i in range(1, 5)]
        scores = [int(gold[f"emotion{i}_score"]) for i in range(1, 5)]
        lines = [f"{name}: {score}" for name, score in zip(names, scores)]
        near = [f"{name}: {(score + say // 7 % 4) % 11}" for name, score in zip(names, scores)]
        far = [f"{name}:   {10 - score}.5" for name, score in zip(names, scores)]
        forms = [lines, near, near[::-1] + ["", "Done: 4"], lines[:3], ["Scores:", *far, EOS], [lines[0], *near]]
        forms = ["\n".join(form) for form in [*forms, [line.lower() for line in lines]]]
    else:
        right = doc["answer"].split("####")[1].strip()
        forms = [
            f" It costs {right} dollars. The answer is {right}.",
            f" First 1,000, then less.\n#### {right}",
            f" The answer is ${right}.00.",
            f" {right} it is. Question: what?\n#### 3",
            " I do not know.",
            f" The answer is {right}",
            f" So: #### {right}. No, #### 7.\nQ: The answer is 5.",
            f" The answer is -{right}. The answer is {right}. </s> 9",
        ]
    return forms[say % len(forms)]


def dummy():
    from lm_eval.api.model import LM

    class Dummy(LM):
        said = {}
        tokenizer_name = "chatml"

        def apply_chat_template(self, chat_history):
            turns = [f"<|im_start|>{turn['role']}\n{turn['content']}{EOS}\n" for turn in chat_history]
            return "".join(turns) + "<|im_start|>assistant\n"

        def loglikelihood(self, requests):
            crcs = [zlib.crc32("".join(request.args).encode()) for request in requests]
            return [(-(crc % 10000) / 100, crc >> 16 & 1 == 1) for crc in crcs]

        def loglikelihood_rolling(self, requests):
            raise NotImplementedError

        def generate_until(self, requests):
            texts = []
            for request in requests:
                context, kwargs = request.args
                raw = text = canned(request.doc, context, request.task_name)
                for stop in [*kwargs.get("until", ["\n\n"]), EOS]:
                    text = text.split(stop)[0] if stop else text
                self.said[context] = raw
                texts.append(text)
            return texts

    return Dummy()


def groups_of_leaves(folder):
    """Groups of which only some leaves are here, in the harness's own words."""
    weighted = {"aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}], "metadata": {"version": 2}}
    files = {name: {"group": name, "task": leaves, **weighted} for name, leaves in MMLU.items()}
    files["mmlu"] = {"group": "mmlu", "task": list(MMLU), **weighted}
    pro = {"metric": "exact_match", "aggregation": "mean", "weight_by_size": True, "filter_list": "custom-extract"}
    files["mmlu_pro"] = {"group": "mmlu_pro", "task": PRO_LEAVES, "aggregate_metric_list": [pro], "metadata": {"version": 1.0}}
    folder.mkdir(exist_ok=True)
    for name, file in files.items():
        (folder / f"{name}.yaml").write_text(json.dumps(file))


def evaluate(datasets, root, names, manager, **settings):
    """The harness's results, and a line for each document."""
    import lm_eval.evaluator

    cache = Path(tempfile.mkdtemp(dir=SCRATCH))
    datasets.load_dataset = load_from(datasets, root, cache)
    model = dummy()
    found = lm_eval.evaluator.simple_evaluate(model, tasks=list(names), task_manager=manager, verbosity="ERROR", **settings)
    shutil.rmtree(cache)
    lines = []
    for task, samples in found["samples"].items():
        config = found["configs"][task]
        filters = [made["name"] for made in config.get("filter_list") or [{"name": "none"}]]
        count = len(samples) // len(filters)
        for i in range(count):
            mine = dict(zip(filters, samples[i::count]))
            sample = samples[i]
            context, asked = sample["arguments"][0]
            line = {"task": task, "doc_id": sample["doc_id"]}
            if isinstance(asked, dict):
                text = {"raw": model.said[context], "response": sample["resps"][0][0]}
                line |= {"request_type": "generate_until", "context": context, "gen_kwargs": asked, **text}
                if filters != ["none"]:
                    line["filtered"] = {name: s["filtered_resps"][0] for name, s in mine.items()}
            else:
                continuations, responses = [a[1] for a in sample["arguments"]], [r[0] for r in sample["resps"]]
                line |= {"request_type": "loglikelihood", "context": context}
                line |= {"continuations": continuations, "responses": responses}
            metrics = [m["metric"] for m in config["metric_list"]]
            line["target"] = sample["target"]
            line["metrics"] = {name: {m: s[m] for m in metrics} for name, s in mine.items()}
            line["prompt_hash"] = sample["prompt_hash"]
            lines.append(line)
    return found, lines


def plain(value):
    return value.item() if hasattr(value, "item") else str(value)


def make(shared):
    shutil.rmtree(OUT / "data", ignore_errors=True)
    slice_rows(shared)
    datasets = harness(shared)
    from lm_eval.tasks import TaskManager

    groups_of_leaves(SCRATCH / "groups")
    manager = TaskManager("ERROR")
    # An include path would not take the place of what is built in.
    manager._task_index.update(manager._get_task_and_group(str(SCRATCH / "groups")))
    runs, golden = [], []
    for setting, (tasks, given) in SETTINGS.items():
        for task in tasks:
            names, leaves, shots, other = TASKS[task]
            settings = {"num_fewshot": other if given.get("other") else shots, "limit": None, "random_seed": 0}
            settings |= {"fewshot_random_seed": 1234, "system_instruction": None, "apply_chat_template": False}
            settings |= {"fewshot_as_multiturn": False, **{key: value for key, value in given.items() if key != "other"}}
            found, lines = evaluate(datasets, OUT / "data", sorted(names), manager, **settings)
            run = f"{task}, {setting}"
            kept = {key: found[key] for key in ["results", "groups", "versions", "n-shot", "n-samples"] if key in found}
            runs.append({"run": run, "tasks": leaves or names, **settings, **kept})
            golden += [{"run": run, **line} for line in lines]
            print(run, len(lines))
    # What is alike lies together.
    golden.sort(key=lambda line: (line["task"], line["doc_id"]))
    (OUT / "runs.json").write_text(json.dumps(runs, default=plain, indent=1, ensure_ascii=False) + "\n")
    golden = json.loads(json.dumps(golden, default=plain))
    write(OUT / "golden.jsonl.gz", golden)
    print(f"{len(runs)} runs, {len(golden)} documents, {(OUT / 'golden.jsonl.gz').stat().st_size} bytes")


def check(shared):
    """What 928e8bb asked, asked again."""
    datasets = harness(shared)
    from lm_eval.tasks import TaskManager

    root = SCRATCH / "data"
    root.mkdir()
    for folder in (shared / "data").iterdir():
        (root / folder.name.replace("_synthetic", "")).symlink_to(folder.resolve())
    manager = TaskManager("ERROR")
    runs = {"mmlu": "mmlu", "mmlu_pro": "leaderboard_mmlu_pro", "mmlu_pro_generative": "mmlu_pro", "ifeval": "leaderboard_ifeval"}
    runs |= {"arc_challenge": "arc_challenge", "gpqa": "leaderboard_gpqa", "eq_bench": "eq_bench", "bbh": "leaderboard_bbh"}
    runs |= {"musr": "leaderboard_musr", "gsm8k": "gsm8k_cot"}
    for run, name in runs.items():
        golden = {(line["task"], line["doc_id"]): line for line in rows(shared / f"golden/{run}.jsonl.gz")}
        shots = TASKS[name][2]
        limit = max(doc for _, doc in golden) + 1
        chat = run in ("ifeval", "eq_bench")
        _, lines = evaluate(datasets, root, [name], manager, num_fewshot=shots, limit=limit, apply_chat_template=chat)
        same = 0
        for line in lines:
            expected = golden.get((line["task"], line["doc_id"]))
            if expected is None:
                continue
            for key in ["request_type", "context", "continuations", "gen_kwargs", "target", "prompt_hash"]:
                assert line.get(key) == expected.get(key), (run, line["task"], line["doc_id"], key)
            same += 1
        assert same == len(golden), (run, same, len(golden))
        print(f"{run}: {same} documents as in 928e8bb")


if __name__ == "__main__":
    try:
        (check if "--check" in sys.argv else make)(Path(sys.argv[1]).resolve())
    finally:
        shutil.rmtree(SCRATCH)
