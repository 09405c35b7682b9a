#!/usr/bin/env python3
"""`sol serve` beside llama-server: the same file, the same load, the same threads, one after the other in the same run.

Start it through versus-llama.sh, which builds both. A round starts each server anew, warms it with one request, and puts the load
of load.py on it: 1, 4 and 16 clients with distinct prompts, then with prompts that share four fifths. Shown are medians over the
rounds and their ratio; `llama-server` runs as its own advice for many clients is (-np, a context of 1024 tokens a client).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import types
import urllib.error
import urllib.request

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import load

FIGURES = ["tokens_per_second", "ttft_p50", "ttft_p95", "gap_p50", "gap_p95", "gap_max", "cached_share"]
SLOTS, CONTEXT = 16, 16384


class Server:
    """A server process, up and warmed inside `with`."""

    def __init__(self, name, command, port):
        self.name, self.command, self.url = name, command, f"http://127.0.0.1:{port}"

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(600):
            if self.process.poll() is not None:
                raise SystemExit(f"{self.name} ended at once: {' '.join(self.command)}")
            try:
                urllib.request.urlopen(self.url + "/health", timeout=5).read()
                break
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.1)
        self.model = json.load(urllib.request.urlopen(self.url + "/v1/models"))["data"][0]["id"]
        load.Client(self.url + "/v1", None, self.model).ask("Warm up", 8)
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(timeout=60)


def main():
    parser = argparse.ArgumentParser(prog="benches/serve/versus-llama.sh", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("-m", "--model", default="smollm2", help="a GGUF file or an alias of `sol` (default: smollm2)")
    add("-t", "--threads", type=int, default=os.cpu_count(), help="threads of both (default: all cores)")
    add("-r", "--rounds", type=int, default=3, help="rounds; each runs both servers once (default 3)")
    add("--clients", type=int, action="append", help="may be repeated (default 1, 4, 16)")
    add("--kind", choices=["distinct", "shared"], action="append", help="may be repeated (default both)")
    add("--prompt", type=int, default=250, help="words of a prompt (default 250)")
    add("--new", type=int, default=48, help="new tokens of a request (default 48)")
    add("--requests", type=int, default=2, help="requests of each client (default 2)")
    add("--port", type=int, default=8970)
    add("--json", metavar="FILE", help="write all figures to this file")
    add("--sol", required=True, help=argparse.SUPPRESS)
    add("--llama-server", required=True, help=argparse.SUPPRESS)
    options = parser.parse_args()

    path = options.model
    if not os.path.exists(path):
        path = json.loads(subprocess.check_output([options.sol, "inspect", path, "--json"]))["model"]
    threads = str(options.threads)
    sol = [options.sol, "serve", "-m", path, "--threads", threads, "--max-batch", str(SLOTS), "--port", str(options.port)]
    peer = [options.llama_server, "-m", path, "-t", threads, "-np", str(SLOTS), "-c", str(CONTEXT), "--port", str(options.port + 1)]
    servers = [Server("sol", sol, options.port), Server("llama-server", peer, options.port + 1)]

    rows = []
    for round_ in range(options.rounds):
        for server in servers if round_ % 2 == 0 else reversed(servers):
            with server:
                for kind in options.kind or ["distinct", "shared"]:
                    for clients in options.clients or [1, 4, 16]:
                        seed = f"{round_} {kind} {clients}"
                        settings = types.SimpleNamespace(
                            url=server.url + "/v1", key=None, model=server.model, rounds=options.requests, prompt=options.prompt,
                            new=options.new, seed=seed)
                        rows.append({"server": server.name, "round": round_, **load.run(settings, clients, kind)})
                        print(f"round {round_ + 1} {server.name} {kind} {clients}: {rows[-1]['tokens_per_second']:.0f} tok/s",
                              file=sys.stderr)
    if options.json:
        with open(options.json, "w") as out:
            json.dump(rows, out, indent=1)

    print("| load | clients | " + " | ".join(f"{figure}: sol / llama-server" for figure in FIGURES) + " |")
    print("|---|---|" + "---|" * len(FIGURES))
    for kind in options.kind or ["distinct", "shared"]:
        for clients in options.clients or [1, 4, 16]:
            cells = []
            for figure in FIGURES:
                ours, theirs = (
                    statistics.median(row[figure] for row in rows if (row["server"], row["kind"], row["clients"]) == (name, kind, clients))
                    for name in ("sol", "llama-server"))
                ratio = f" = {ours / theirs:.2f}" if theirs else ""
                cells.append(f"{ours:.3g} / {theirs:.3g}{ratio}")
            print(f"| {kind} | {clients} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
