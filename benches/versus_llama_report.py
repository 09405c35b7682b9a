"""What the samples of versus_llama.py mean: medians, ratios, and shares of the machine's limits, as tables and as JSON."""

import json
import math
import os
import statistics
import subprocess
import time

# Which of the machine's limits bounds a product with weights of a type: floats, weights of up to 4 bits (whose products with
# 8 bits can be summed in 16), other quantised ones.
FLOATS = {"F32", "F16", "BF16", "F8_E4M3"}
FOUR_BITS = {"Q4_0", "Q4_1", "Q4_K", "Q3_K", "Q2_K"}

# The same on wider vectors or in tiles, where the machine has them (AVX-512, VNNI, AMX).
WIDER = {"f32_fma": ["f32_fma512"], "int8": ["vnni512", "amx"], "int4": ["vnni512", "amx"]}

# Share of the machine's CPU time that others may take before the run counts as disturbed.
QUIET = 0.05


def ask(*argv):
    """Standard output of a program that is not measured."""
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip())
    return done.stdout


class Shape:
    """What a file's decoder reads and multiplies for a token."""

    def __init__(self, sol, path):
        inspected = json.loads(ask(sol, "inspect", "-m", path, "--tensors", "--json"))
        self.tokenizer = inspected["tokenizer"] is not None
        self.bytes_in_all = inspected["weight_bytes"]
        self.types = ", ".join(t["type"] for t in inspected["types"])
        self.kv_bytes = inspected["kv_bytes_per_token"]["f16"]
        tensors = inspected["tensors"]
        embeddings = ("token_embd.weight", "model.embed_tokens.weight")
        heads = [t for t in tensors if t["name"] in ("output.weight", "lm_head.weight")]
        heads = heads or [t for t in tensors if t["name"] in embeddings]
        body = [t for t in tensors if t["name"] not in embeddings and t not in heads]
        # Of experts, the share that a token uses.
        is_expert = lambda t: "_exps." in t["name"] or ".experts." in t["name"]
        in_experts = sum(math.prod(t["shape"]) for t in body if is_expert(t))
        idle = inspected["parameters"] - inspected["active_parameters"]
        used = 1 - idle / in_experts if in_experts else 1
        weight = lambda t: used if is_expert(t) else 1
        self.bytes = sum(t["bytes"] * weight(t) for t in body) + sum(t["bytes"] for t in heads)
        self.body, self.head = {}, {}
        for group, out in ((body, self.body), (heads, self.head)):
            for t in group:
                if len(t["shape"]) > 1:
                    limit = "f32_fma" if t["type"] in FLOATS else "int4" if t["type"] in FOUR_BITS else "int8"
                    out[limit] = out.get(limit, 0) + 2 * math.prod(t["shape"]) * weight(t)

    def work(self, test):
        """Bytes read and operations (by limit) of a test's unit: a prompt (whose head is computed once), or a step."""
        kind, n, depth, parallel = test
        rows, heads = (n, 1) if kind == "pp" else (parallel, parallel)
        limits = self.body.keys() | self.head.keys()
        operations = {l: rows * self.body.get(l, 0) + heads * self.head.get(l, 0) for l in limits}
        cached = 0 if kind == "pp" else parallel * (depth + n / 2) * self.kv_bytes
        return self.bytes + cached, operations


def name(test):
    kind, n, depth, parallel = test
    return f"{kind}{n}" + (f" x {parallel}" if parallel > 1 else "") + (f" @ d{depth}" if depth else "")


def best_mode(programs):
    """llama.cpp's fastest mode and its samples."""
    modes = {mode: samples for mode, samples in programs.items() if mode != "sol"}
    return max(modes.items(), key=lambda item: statistics.median(item[1]), default=(None, []))


def highest(machine, figure, threads):
    """The highest of the medians before and after: a limit is what the machine can do."""
    figures = [figure, *WIDER.get(figure, [])]
    return max(statistics.median(m["figures"][f][threads]) for m in machine for f in figures if f in m["figures"])


def shares(shape, test, speed, machine, threads):
    """What a speed in tokens per second comes to: GB/s and GOP/s, and shares of the machine's limits."""
    kind, n, _, parallel = test
    seconds = (n if kind == "pp" else parallel) / speed
    read, operations = shape.work(test)
    found = {}
    if kind == "tg":
        found["GB/s"] = read / seconds / 1e9
        for figure in ("read_4k", "read_2m"):
            found[figure] = found["GB/s"] / highest(machine, figure, threads)
    if kind == "pp" or parallel > 1:
        found["GOP/s"] = sum(operations.values()) / seconds / 1e9
        # Each type's products at their own limit.
        at_limit = sum(count / 1e9 / highest(machine, limit, threads) for limit, count in operations.items())
        found["multiply-adds"] = at_limit / seconds
    return found


def shares_text(found):
    parts = []
    if "GOP/s" in found:
        parts.append(f"{found['GOP/s']:.0f} GOP/s: {100 * found['multiply-adds']:.0f} %")
    if "GB/s" in found:
        parts.append(f"{found['GB/s']:.1f} GB/s: {100 * found['read_4k']:.0f} % (4 KB), {100 * found['read_2m']:.0f} % (2 MB)")
    return "; ".join(parts)


def row(cells):
    return "| " + " | ".join(cells) + " |"


def speed_text(speed):
    return f"{speed:.0f}" if speed >= 1000 else f"{speed:.1f}" if speed >= 10 else f"{speed:.2f}"


def report(args, others, machine, files):
    """Tables in Markdown."""
    lines = []
    for path, size, shape, samples, first in files:
        lines += [f"### {os.path.basename(path)}: {size / 1e6:.0f} MB, {shape.types}", ""]
        heads = ["test", "sol", "llama.cpp", "ratio", "its mode", "spread of sol", "of llama.cpp", "sol, of the machine's limit"]
        lines += [row(heads)]
        lines += [row(["---", "---:", "---:", "---:", "---", "---", "---", "---"])]
        for test, programs in samples.items():
            ours = programs.get("sol")
            mode, theirs = best_mode(programs)
            if not ours:
                continue
            speed = statistics.median(ours)
            peer = statistics.median(theirs) if theirs else None
            spread = lambda values: f"{speed_text(min(values))}-{speed_text(max(values))}" if values else "-"
            lines.append(
                row(
                    [
                        name(test),
                        speed_text(speed),
                        speed_text(peer) if peer else "-",
                        f"{speed / peer:.2f}" if peer else "-",
                        mode or "-",
                        spread(ours),
                        spread(theirs),
                        shares_text(shares(shape, test, speed, machine, args.threads)),
                    ]
                )
            )
        lines.append("")
        if first:
            lines += [row(["first token, whole process", "seconds", "spread", "peak memory, MB"])]
            lines += [row(["---", "---:", "---", "---:"])]
            for program, values in first["samples"].items():
                walls = [wall for wall, _ in values]
                memory = max(memory for _, memory in values)
                spread = f"{min(walls):.2f}-{max(walls):.2f}"
                lines.append(row([program, f"{statistics.median(walls):.2f}", spread, f"{memory / 1e6:.0f}"]))
            lines += ["", f"`sol inspect` predicts {first['predicted'] / 1e6:.0f} MB.", ""]
    lines += machine_text(args, others, machine)
    return "\n".join(lines)


FIGURES = {
    "read_4k": "read, 4 KB pages, GB/s",
    "read_2m": "read, 2 MB pages, GB/s",
    "read_file": "read, the mapped file, GB/s",
    "f32_fma": "f32 multiply-add, GFLOP/s",
    "int8": "8-bit multiply-add, GOP/s",
    "int4": "4-bit by 8-bit multiply-add, GOP/s",
    "f32_fma512": "f32 multiply-add with AVX-512, GFLOP/s",
    "vnni512": "8-bit multiply-add with VNNI, GOP/s",
    "amx": "8-bit multiply-add with AMX, GOP/s",
}


def machine_text(args, others, machine):
    threads = sorted({1, args.threads})
    lines = [f"Machine: {machine[0]['cpu']}, {os.cpu_count()} CPUs; {args.threads} threads, medians of {args.rounds} rounds.", ""]
    heads = [f"{n} thread{'s' if n > 1 else ''}, {when}" for n in threads for when in ("before", "after")]
    lines += [row(["limit", *heads]), row(["---"] + ["---:"] * len(heads))]
    for figure, words in FIGURES.items():
        if all(figure in m["figures"] for m in machine):
            medians = [statistics.median(m["figures"][figure][n]) for n in threads for m in machine]
            lines.append(row([words, *(f"{median:.1f}" for median in medians)]))
    lines.append("")
    if machine[0]["huge_page_share"] < 0.9:
        lines.append(f"Only {100 * machine[0]['huge_page_share']:.0f} % of the memory for 2 MB pages lay in such.")
    if others is None:
        return lines + ["Whether the machine was quiet is not known: there is no /proc/stat."]
    mean, most = others
    words = f"others took {100 * mean:.1f} % of the machine's CPU time while programs ran ({100 * most:.0f} % during one of them)"
    return lines + [f"The machine was NOT QUIET: {words}." if mean > QUIET else f"The machine was quiet: {words}."]


def document(args, others, machine, files):
    """Everything, with all samples."""
    entries = []
    for path, size, shape, samples, first in files:
        tests = []
        for (kind, n, depth, parallel), programs in samples.items():
            test = (kind, n, depth, parallel)
            entry = {"test": name(test), "kind": kind, "tokens": n, "depth": depth, "parallel": parallel, "samples_ts": programs}
            if programs.get("sol"):
                entry["sol"] = statistics.median(programs["sol"])
                entry["sol_shares"] = shares(shape, test, entry["sol"], machine, args.threads)
            mode, theirs = best_mode(programs)
            if theirs:
                entry["llama"], entry["llama_mode"] = statistics.median(theirs), mode
                entry["llama_shares"] = shares(shape, test, entry["llama"], machine, args.threads)
            tests.append(entry)
        entries.append({"file": os.path.basename(path), "bytes": size, "types": shape.types, "tests": tests, "first_token": first})
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "threads": args.threads,
        "rounds": args.rounds,
        "limits": machine,
        "others_share": others and {"mean": others[0], "most": others[1]},
        "files": entries,
    }
