#!/usr/bin/env python3
"""Whether a server keeps what it should give back: many requests one after another, then many at once of which some clients go away.

    python xtools/check_serve_leaks.py --sol target/release/sol [--model MODEL] [--sequential 1000] [--concurrent 200]

Only the standard library is needed. Every completed answer must be the one that the same request got alone; in the end no block of
the cache is held by a request, and resident memory is shown after warm-up and after each phase.
"""

import argparse
import http.client
import json
import random
import subprocess
import sys
import threading
import time


def body(i, stream):
    topics = ["rivers", "bread", "the moon", "trains", "glass", "winter", "maps", "bees"]
    text = f"Tell me {1 + i % 5} things about {topics[i % 8]}." + " Be brief." * (i % 23)
    return json.dumps({"messages": [{"role": "user", "content": text}], "max_tokens": 4 + i % 13, "temperature": 0.7 * (i % 2),
                       "seed": i % 40, "stream": stream})


def ask(port, i, leave_after=None):
    """The answer's text; None where the client went away."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    connection.request("POST", "/v1/chat/completions", body(i, leave_after is not None), {"content-type": "application/json"})
    if leave_after == 0:
        connection.close()
        return None
    response = connection.getresponse()
    if response.status != 200:
        raise RuntimeError(f"request {i}: {response.status} {response.read(500)}")
    if leave_after is None:
        text = json.loads(response.read())["choices"][0]["message"]["content"]
        connection.close()
        return text
    for _ in range(leave_after):
        response.readline()
    connection.close()
    return None


def resident(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) // 1024


def metric(port, name):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    return float(next(line for line in text.splitlines() if line.startswith(name + "{") or line.startswith(name + " ")).split()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sol", default="target/release/sol")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--sequential", type=int, default=1000)
    parser.add_argument("--concurrent", type=int, default=200)
    options = parser.parse_args()
    command = [options.sol, "serve", "-m", options.model, "--port", "0", "--json", "--kv-memory", "400MB", "-q"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        port = int(json.loads(server.stdout.readline())["url"].split(":")[2].split("/")[0])
        alone = {i: ask(port, i) for i in range(options.concurrent)}
        print(f"warm: {resident(server.pid)} MB resident")
        start = time.time()
        for i in range(options.sequential):
            text = ask(port, i % options.concurrent)
            assert text == alone[i % options.concurrent], f"request {i} got another answer"
        print(f"{options.sequential} one after another, {time.time() - start:.0f} s: {resident(server.pid)} MB")
        rng, wrong, left, start = random.Random(1), [], 0, time.time()
        leaving = {i: rng.choice([None, None, 0, 1, 4]) for i in range(options.concurrent)}

        def client(i):
            try:
                text = ask(port, i, leaving[i])
                if text is not None and text != alone[i]:
                    wrong.append(f"request {i} got another answer")
            except Exception as error:
                wrong.append(f"request {i}: {error}")

        threads = [threading.Thread(target=client, args=(i,)) for i in range(options.concurrent)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        left = sum(after is not None for after in leaving.values())
        deadline = time.time() + 30
        while metric(port, "solarium_requests_running") + metric(port, "solarium_requests_waiting") > 0 and time.time() < deadline:
            time.sleep(0.1)
        print(f"{options.concurrent} at once, {left} of which went away, {time.time() - start:.0f} s: {resident(server.pid)} MB")
        held = metric(port, "solarium_kv_blocks_running")
        print(f"blocks held by requests: {held:.0f}; answers that differ or failed: {len(wrong)}")
        [print(" ", line) for line in wrong[:10]]
        sys.exit(1 if wrong or held else 0)
    finally:
        server.terminate()
        print("exit code of the server:", server.wait(60))


if __name__ == "__main__":
    main()
