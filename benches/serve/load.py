#!/usr/bin/env python3
"""Measures any server with OpenAI's /v1/completions: several clients, distinct prompts or prompts that share their beginning.

    python benches/serve/load.py --url http://127.0.0.1:8000/v1                     # 1, 4 and 16 clients, both kinds of prompts
    python benches/serve/load.py --url http://127.0.0.1:8080/v1 --clients 16 --kind shared --json out.json
    python benches/serve/load.py --stall 4000                    # what a long prompt does to 8 streams that run

Nothing but Python's standard library. Every client asks `--rounds` times, one request after the other, with prompts of about `--prompt`
tokens (words of one syllable, counted as the server's usage says) and `--new` new tokens, streamed. Shown are, over all requests: the
time to the first token (median, 95th percentile), new tokens a second of all clients together, and the gaps between a stream's
tokens (median, 95th percentile, largest).

With `--stall N` streams run (8, or `--clients`), and in their middle comes a prompt of N words, then, once it is read, eight of `--prompt`
words together. Shown are the gaps of the streams before, and while these prompts are read, and how long that took.
"""

import argparse
import http.client
import json
import random
import statistics
import threading
import time
import urllib.parse

WORDS = "the sun is out and we go down to the sea with a red boat and two old men who sing of the wind and the moon".split()


def text(seed, words):
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) for _ in range(words))


class Client:
    """One connection that is kept."""

    def __init__(self, url, key, model):
        self.url = urllib.parse.urlsplit(url)
        self.headers = {"content-type": "application/json", **({"authorization": f"Bearer {key}"} if key else {})}
        self.model = model
        self.connection = http.client.HTTPConnection(self.url.hostname, self.url.port, timeout=600)

    def send(self, method, path, body=None):
        for last in (False, True):
            try:
                self.connection.request(method, self.url.path.rstrip("/") + path, body and json.dumps(body), self.headers)
                response = self.connection.getresponse()
                break
            except (ConnectionError, http.client.HTTPException):
                # A server may have closed a connection that it kept.
                self.connection.close()
                if last:
                    raise
        if response.status != 200:
            raise SystemExit(f"{method} {path}: {response.status} {response.read()[:500]!r}")
        return response

    def ask(self, prompt, new):
        """Times of each token after the request's begin, and the usage."""
        body = {"model": self.model, "prompt": prompt, "max_tokens": new, "temperature": 0, "stream": True, "ignore_eos": True}
        body["stream_options"] = {"include_usage": True}
        begun, times, usage = time.perf_counter(), [], {}
        response = self.send("POST", "/completions", body)
        for line in response:
            if not line.startswith(b"data: ") or b"[DONE]" in line:
                continue
            chunk = json.loads(line[6:])
            usage = chunk.get("usage") or usage
            if any(choice.get("text") for choice in chunk["choices"]):
                times.append(time.perf_counter() - begun)
        response.read()
        return times, usage


def run(options, clients, kind):
    barrier = threading.Barrier(clients + 1)
    results, lock = [], threading.Lock()
    header = text(f"{options.seed} header", options.prompt * 4 // 5)

    def work(i):
        client = Client(options.url, options.key, options.model)
        barrier.wait()
        for round_ in range(options.rounds):
            seed = f"{options.seed} {clients} {kind} {i} {round_}"
            if kind == "shared":
                prompt = header + " " + text(seed, options.prompt - options.prompt * 4 // 5)
            else:
                prompt = text(seed, options.prompt)
            result = client.ask(prompt, options.new)
            with lock:
                results.append(result)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(clients)]
    for thread in threads:
        thread.start()
    barrier.wait()
    begun = time.perf_counter()
    for thread in threads:
        thread.join()
    wall = time.perf_counter() - begun
    if len(results) != clients * options.rounds:
        raise SystemExit("a client failed")
    first = sorted(times[0] for times, _ in results)
    gaps = sorted(later - earlier for times, _ in results for earlier, later in zip(times, times[1:])) or [0.0]
    usages = [usage for _, usage in results]
    at = lambda values, share: values[min(len(values) - 1, int(share * len(values)))]
    cached = sum((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0 for usage in usages)
    new = sum(usage.get("completion_tokens") or len(times) for times, usage in results)
    return {
        "kind": kind,
        "clients": clients,
        "requests": len(results),
        "prompt_tokens": statistics.mean(usage.get("prompt_tokens", 0) for usage in usages),
        "cached_share": cached / max(1, sum(usage.get("prompt_tokens", 0) for usage in usages)),
        "ttft_p50": at(first, 0.5),
        "ttft_p95": at(first, 0.95),
        "tokens_per_second": new / wall,
        "gap_p50": at(gaps, 0.5),
        "gap_p95": at(gaps, 0.95),
        "gap_max": gaps[-1],
    }


class Stream(threading.Thread):
    """An answer that goes on until it is told to end; the times of its tokens."""

    def __init__(self, options, seed):
        super().__init__(daemon=True)
        self.options, self.prompt = options, text(seed, 20)
        self.times, self.ended = [], False
        self.start()

    def run(self):
        client = Client(self.options.url, self.options.key, self.options.model)
        body = {"model": self.options.model, "prompt": self.prompt, "max_tokens": 3000, "temperature": 0, "stream": True}
        for line in client.send("POST", "/completions", {**body, "ignore_eos": True}):
            if line.startswith(b"data: {") and json.loads(line[6:])["choices"][0].get("text"):
                self.times.append(time.perf_counter())
            if self.ended:
                break
        client.connection.close()


def stall(options):
    """Gaps of streams before and while prompts are read."""
    streams = [Stream(options, f"{options.seed} stream {i}") for i in range((options.clients or [8])[0])]
    while any(len(stream.times) < 20 for stream in streams):
        time.sleep(0.05)
    ends = [("before", 0, time.perf_counter())]
    time.sleep(options.quiet)
    ends.append(("before", 0, time.perf_counter()))

    def read(seed, words):
        client = Client(options.url, options.key, options.model)
        return client.ask(text(seed, words), 1)[1]["prompt_tokens"]

    for name, count, words in [("long prompt", 1, options.stall), ("eight prompts", 8, options.prompt)]:
        lengths, readers = [], []
        for i in range(count):
            work = lambda seed=f"{options.seed} {name} {i}": lengths.append(read(seed, words))
            readers.append(threading.Thread(target=work))
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        ends.append((name, sum(lengths), time.perf_counter()))
        time.sleep(1)
        ends.append(("", 0, time.perf_counter()))
    for stream in streams:
        stream.ended = True
    at = lambda values, share: values[min(len(values) - 1, int(share * len(values)))]
    rows, columns = [], ["prompt_tokens", "seconds", "gaps", "gap_p50", "gap_p95", "gap_max", "p95_ratio", "max_to_median"]
    print(f"{'':>15}" + " ".join(f"{column:>14}" for column in columns))
    for (_, _, begin), (name, tokens, end) in zip(ends, ends[1:]):
        pairs = [pair for stream in streams for pair in zip(stream.times, stream.times[1:])]
        gaps = sorted(later - earlier for earlier, later in pairs if begin < later <= end)
        if not name or not gaps:
            continue
        row = {"name": name, "prompt_tokens": tokens, "seconds": end - begin, "gaps": len(gaps)}
        row |= {"gap_p50": at(gaps, 0.5), "gap_p95": at(gaps, 0.95), "gap_max": gaps[-1]}
        first = rows[0] if rows else row
        row |= {"p95_ratio": row["gap_p95"] / first["gap_p95"], "max_to_median": row["gap_max"] / row["gap_p50"]}
        rows.append(row)
        shown = [f"{row[column]:.3f}" if isinstance(row[column], float) else str(row[column]) for column in columns]
        print(f"{name:>15}" + " ".join(f"{value:>14}" for value in shown), flush=True)
    return rows


def load(options):
    names = ["kind", "clients", "ttft_p50", "ttft_p95", "tokens_per_second", "gap_p50", "gap_p95", "gap_max", "cached_share"]
    print(" ".join(f"{name:>17}" for name in names))
    rows = []
    for kind in options.kind or ["distinct", "shared"]:
        for clients in options.clients or [1, 4, 16]:
            row = run(options, clients, kind)
            rows.append(row)
            shown = [f"{row[name]:.3f}" if isinstance(row[name], float) else str(row[name]) for name in names]
            print(" ".join(f"{value:>17}" for value in shown), flush=True)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--key")
    parser.add_argument("--model", help="default: the first that the server lists")
    parser.add_argument("--clients", type=int, action="append", help="may be given several times; default: 1, 4, 16")
    parser.add_argument("--kind", choices=["distinct", "shared"], action="append", help="default: both")
    parser.add_argument("--rounds", type=int, default=2, help="requests of each client")
    parser.add_argument("--prompt", type=int, default=250, help="words of a prompt")
    parser.add_argument("--new", type=int, default=48, help="new tokens of a request")
    parser.add_argument("--stall", type=int, metavar="WORDS", help="what a prompt of so many words does to streams that run")
    parser.add_argument("--quiet", type=float, default=5, help="seconds that streams run before a prompt comes")
    parser.add_argument("--seed", default=str(time.time_ns()), help="other prompts; default: new ones each time")
    parser.add_argument("--json", help="a file for all figures")
    options = parser.parse_args()
    if not options.model:
        options.model = json.loads(Client(options.url, options.key, "").send("GET", "/models").read())["data"][0]["id"]
    if options.stall:
        rows = stall(options)
    else:
        rows = load(options)
    if options.json:
        with open(options.json, "w") as out:
            json.dump({"url": options.url, "model": options.model, "rows": rows}, out, indent=1)


if __name__ == "__main__":
    main()
