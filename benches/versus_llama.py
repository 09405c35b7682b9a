#!/usr/bin/env python3
"""Speed of `sol` beside llama.cpp: the same files, the same threads, alternating in the same run.

Start it through versus-llama.sh, which builds what it needs. The method is described in docs/performance.md.
"""

import argparse
import contextlib
import fcntl
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

from versus_llama_report import Shape, ask, document, name, report

# llama.cpp's modes: weights repacked when loaded or not, flash attention or not.
MODES = {"plain": (0, 0), "fa": (0, 1), "repack": (1, 0), "repack+fa": (1, 1)}

# A mode that is slower than the best by more than this in every test of two rounds is not run again.
KEEP = 0.85

# Where others took more than this share of the machine's CPU time, a program is run again, so many times in all; the calmest
# run counts. The same holds for both programs.
DISTURBED, ATTEMPTS = 0.15, 3

FIRST_TOKEN_TEXT, FIRST_TOKEN_IDS, FIRST_TOKEN_CTX = "The sun is a star", "1,2,3,4,5", 512


def arguments():
    numbers = lambda text: [int(n) for n in text.split(",") if int(n) > 0]
    parser = argparse.ArgumentParser(prog="benches/versus-llama.sh", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("-m", "--model", action="append", help="a GGUF file or an alias of `sol`; may be repeated (default: smollm2)")
    add("-t", "--threads", type=int, default=os.cpu_count(), help="threads of both programs (default: all cores)")
    add("-r", "--rounds", type=int, default=5, help="rounds; each runs every program once (default 5)")
    add("-q", "--quick", action="store_true", help="3 rounds, and fewer tests where -p, -n, -d, -b say nothing")
    add("-p", "--prompts", type=numbers, help="lengths of prompts, 0 for none (default 512,64,16; quick 512)")
    add("-n", "--tokens", type=numbers, help="tokens made, 0 for none (default 128; quick 32)")
    add("-d", "--depths", type=numbers, help="cached tokens behind which tokens are made as well (default 2048; quick 0: none)")
    add("--prompt-depths", type=numbers, default=[], help="cached tokens behind which the first prompt is read (default: none)")
    add("-b", "--batches", type=numbers, help="sequences decoded together, 0 for none (default 4,8,16,32; quick 8)")
    add("--batch-tokens", type=int, default=32, help="tokens each of them makes, behind a prompt of 16 (default 32)")
    add("--modes", type=lambda text: text.split(","), default=list(MODES), help=f"of llama.cpp (default {','.join(MODES)})")
    add("--all-modes", action="store_true", help="run slow modes in every round, not only in two")
    add("--first-token", action="store_true", help="also time to the first token of a new process, and its peak memory")
    add("--lock", metavar="FILE", help="hold a lock (flock) on this file while a program runs")
    add("--json", metavar="FILE", help="write all samples to this file")
    for name in ("sol", "limits", "llama"):
        add(f"--{name}", required=True, help=argparse.SUPPRESS)
    args = parser.parse_args()
    unknown = [mode for mode in args.modes if mode not in MODES]
    if unknown or args.rounds < 1:
        parser.error(f"unknown modes {unknown}" if unknown else "at least 1 round is needed")
    full = {"prompts": [512, 64, 16], "tokens": [128], "depths": [2048], "batches": [4, 8, 16, 32]}
    quick = {"prompts": [512], "tokens": [32], "depths": [], "batches": [8]}
    for name, default in (quick if args.quick else full).items():
        if getattr(args, name) is None:
            setattr(args, name, default)
    if args.quick:
        args.rounds = min(args.rounds, 3)
    args.model = args.model or ["smollm2"]
    return args


class Runner:
    """Runs programs one at a time and watches what else the machine does meanwhile."""

    def __init__(self, lock):
        self.lock = lock
        self.others = []
        self.wall = 0.0

    def run(self, argv):
        """Standard output, seconds of wall time and peak memory in bytes of a program; the calmest of up to three runs."""
        runs = []
        while len(runs) < ATTEMPTS and not (runs and runs[-1][0] <= DISTURBED):
            if runs:
                say(f"others took {100 * runs[-1][0]:.0f} % of the machine: once more")
            runs.append(self.once(argv))
        share, output, wall, memory = min(runs, key=lambda run: run[0])
        self.others.append((share, wall))
        self.wall = wall
        return output, wall, memory

    def once(self, argv):
        """The share of the machine that others took, and what `run` returns."""
        with self.locked(), tempfile.TemporaryFile() as errors:
            before, start = busy_seconds(), time.monotonic()
            child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors)
            output = child.stdout.read().decode(errors="replace")
            _, status, usage = os.wait4(child.pid, 0)
            wall, after = time.monotonic() - start, busy_seconds()
            child.returncode = os.waitstatus_to_exitcode(status)
            if child.returncode != 0:
                errors.seek(0)
                tail = errors.read().decode(errors="replace").strip().splitlines()[-3:]
                raise RuntimeError(f"{os.path.basename(argv[0])} ended with {child.returncode}: {' / '.join(tail)}")
        # CPU times are counted in hundredths of a second, too coarse for a program of a few.
        foreign = 0.0 if after is None or wall < 0.2 else max(after - before - usage.ru_utime - usage.ru_stime, 0.0)
        return foreign / (wall * os.cpu_count()), output, wall, usage.ru_maxrss * 1024

    @contextlib.contextmanager
    def locked(self):
        if not self.lock:
            yield
            return
        with open(self.lock, "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def disturbance(self):
        """Mean (by time) and largest share of the machine that others took while a program ran."""
        if not self.others or busy_seconds() is None:
            return None
        seconds = sum(wall for _, wall in self.others)
        return sum(share * wall for share, wall in self.others) / seconds, max(share for share, _ in self.others)


def busy_seconds():
    """CPU time of the machine that was not idle, in seconds; time stolen by other virtual machines counts."""
    try:
        with open("/proc/stat") as file:
            user, nice, system, _, _, irq, softirq, steal = (int(n) for n in file.readline().split()[1:9])
    except (OSError, ValueError):
        return None
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def limits(args, runner, path):
    """The machine's limits with all threads and with one: {name: {threads: samples}}."""
    output, _, _ = runner.run([args.limits, "--threads", str(args.threads), "--json", "--file", path])
    found = json.loads(output)
    figures = {}
    for limit in found["limits"]:
        figures.setdefault(limit["name"], {})[limit["threads"]] = limit["samples"]
    return {"cpu": found["cpu"], "huge_page_share": found["huge_page_share"], "figures": figures}


def groups(args):
    """Tests that one process of each program measures: (prompts, tokens, depth, batches)."""
    found = []
    if args.prompts or args.tokens:
        found.append((args.prompts, args.tokens, 0, []))
    for depth in sorted(set(args.depths) | set(args.prompt_depths)):
        prompts = args.prompts[:1] if depth in args.prompt_depths else []
        found.append((prompts, args.tokens if depth in args.depths else [], depth, []))
    if args.batches:
        found.append(([], [args.batch_tokens], 16, args.batches))
    return [group for group in found if group[0] or group[1]]


def listed(values):
    return ",".join(map(str, values)) or "0"


def measure(args, runner, path, group, program, repetitions):
    """Runs a program over a group; {test: samples in tokens per second}."""
    prompts, tokens, depth, batches = group
    if program == "sol":
        argv = [args.sol, "bench", "-m", path, "--threads", str(args.threads), "--kv", "f16", "--json", "--quiet"]
        argv += ["-p", listed(prompts), "-n", listed(tokens), "-d", str(depth), "-r", str(repetitions)]
        argv += ["-b", listed(batches)] if batches else []
    elif batches:
        repack, attention = MODES[program]
        each = -(-(depth + tokens[0]) // 256) * 256
        argv = [f"{args.llama}/llama-batched-bench", "-m", path, "-t", str(args.threads), "-c", str(each * max(batches))]
        argv += ["-npp", str(depth), "-ntg", str(tokens[0]), "-npl", listed(batches), "--output-format", "jsonl"]
        argv += ["-fa", "on" if attention else "off", "--repack" if repack else "--no-repack"]
    else:
        repack, attention = MODES[program]
        argv = [f"{args.llama}/llama-bench", "-m", path, "-t", str(args.threads), "-o", "json", "-r", str(repetitions)]
        argv += ["-p", listed(prompts), "-n", listed(tokens), "-d", str(depth), "-fa", str(attention), "--repack", str(repack)]
    output, _, _ = runner.run(argv)
    if program != "sol" and batches:
        entries = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
        return {("tg", e["tg"], e["pp"], e["pl"]): [e["speed_tg"]] for e in entries}
    found = {}
    for e in json.loads(output):
        kind, n = ("pp", e["n_prompt"]) if e["n_prompt"] else ("tg", e["n_gen"])
        found.setdefault((kind, n, e["n_depth"], e.get("n_parallel", 1)), []).extend(e["samples_ts"])
    return found


def compare(args, runner, path, size):
    """All samples of a file: {test: {program: [...]}}, programs being "sol" and the modes of llama.cpp."""
    samples = {}
    for group in groups(args):
        programs = ["sol", *args.modes]
        # A short test of a small file is over in milliseconds.
        repetitions = 3 if size < 1e9 and group[2] == 0 else 1
        for round_ in range(args.rounds):
            turn = round_ % len(programs)
            for program in programs[turn:] + programs[:turn]:
                try:
                    found = measure(args, runner, path, group, program, repetitions)
                except RuntimeError as error:
                    if program == "sol":
                        raise
                    say(f"llama.cpp ({program}) is left out: {error}")
                    programs.remove(program)
                    continue
                for test, speeds in found.items():
                    samples.setdefault(test, {}).setdefault(program, []).extend(speeds)
                seen = ", ".join(f"{name(test)} {statistics.median(speeds):.4g}" for test, speeds in found.items())
                say(f"round {round_ + 1} of {args.rounds}, {program}: {seen} ({runner.wall:.0f} s)")
            if round_ == 1 and not args.all_modes:
                programs = ["sol", *competitive(samples, programs[1:])]
    return samples


def competitive(samples, modes):
    """The modes that are near the best in some test."""
    near = set()
    for programs in samples.values():
        medians = {mode: statistics.median(programs[mode]) for mode in modes if mode in programs}
        near |= {mode for mode, median in medians.items() if median >= KEEP * max(medians.values())}
    return [mode for mode in modes if mode in near]


def first_token(args, runner, path, shape):
    """Wall time and peak memory of whole processes up to the first token after a prompt of 5: {program: [(s, bytes)]}."""
    completion = f"{args.llama}/llama-completion"
    threads, ctx = str(args.threads), str(FIRST_TOKEN_CTX)
    sol = [args.sol, "run", "-m", path, "--threads", threads, "--ctx", ctx, "-n", "1", "--ignore-eos", "--kv", "f16", "--quiet"]
    programs = {}
    if shape.tokenizer and os.access(completion, os.X_OK):
        programs["sol"] = sol + ["--raw", FIRST_TOKEN_TEXT]
        llama = [completion, "-m", path, "-t", threads, "-c", ctx, "-n", "1", "--no-warmup", "-no-cnv", "-p", FIRST_TOKEN_TEXT]
        for mode, flag in (("no repack", "--no-repack"), ("repack", "--repack")):
            programs[f"llama-completion, {mode}"] = llama + [flag]
    else:
        programs["sol"] = sol + ["--ids", FIRST_TOKEN_IDS]
        llama = [f"{args.llama}/llama-bench", "-m", path, "-t", threads, "-p", "5", "-n", "0", "-r", "1", "--no-warmup"]
        for mode, flag in (("no repack", "0"), ("repack", "1")):
            programs[f"llama-bench -p 5, {mode}"] = llama + ["--repack", flag]
    results = {}
    for round_ in range(args.rounds):
        for program, argv in programs.items():
            try:
                _, wall, memory = runner.run(argv)
            except RuntimeError as error:
                if program == "sol":
                    raise
                say(f"{program} is left out: {error}")
                continue
            results.setdefault(program, []).append((wall, memory))
            say(f"first token, round {round_ + 1} of {args.rounds}, {program}: {wall:.3f} s, {memory / 1e6:.0f} MB")
    inspected = json.loads(ask(args.sol, "inspect", "-m", path, "--ctx", ctx, "--kv", "f16", "--json"))
    return {"samples": results, "predicted": inspected["memory"]["total"]}


def find(sol, model):
    """The path of a model's file, which is in the page cache then."""
    path = model if os.path.exists(model) else ask(sol, "pull", "--quiet", model).strip()
    if os.path.isdir(path):
        raise RuntimeError(f"{path} is a directory, and llama.cpp reads GGUF files only")
    with open(path, "rb") as file:
        while file.read(1 << 24):
            pass
    return path


def say(text):
    print(text, file=sys.stderr, flush=True)


def main():
    args = arguments()
    runner = Runner(args.lock)
    paths = [find(args.sol, model) for model in args.model]
    say("the machine's limits")
    machine = [limits(args, runner, paths[0])]
    files = []
    for path in paths:
        shape, size = Shape(args.sol, path), os.path.getsize(path)
        say(f"{path} ({size / 1e6:.0f} MB: {shape.types})")
        samples = compare(args, runner, path, size)
        first = first_token(args, runner, path, shape) if args.first_token else None
        files.append((path, size, shape, samples, first))
    say("the machine's limits again")
    machine.append(limits(args, runner, paths[0]))
    print(report(args, runner.disturbance(), machine, files))
    if args.json:
        with open(args.json, "w") as out:
            json.dump(document(args, runner.disturbance(), machine, files), out, indent=1)


if __name__ == "__main__":
    try:
        main()
    except RuntimeError as error:
        sys.exit(f"versus-llama: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
