#!/usr/bin/env python3
"""Two replicas of `sol serve` behind SMG (Shepherd Model Gateway); one is killed while hundreds of streams run.

    pip install smg==1.13.0
    python fleet.py --sol ../../target/debug/sol --model MODEL

Shown: the gateway takes the replicas up, sends each prompt's repetitions where its prefix is cached, loses no request of which
nothing had been streamed, and a replica that is told to go (SIGTERM) finishes its streams while the other takes what comes.
"""

import argparse
import collections
import concurrent.futures
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

REQUESTS = 240
CLIENTS = 12
TOPICS = [f"Tell the story of the {word}, from its beginning. " * 3 for word in "river bridge lamp child town sun train tower".split()]


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def start_replica(options):
    command = [options.sol, "serve", "-m", options.model, "--port", "0", "--json", "--threads", "1", "--max-batch", "4"]
    replica = subprocess.Popen([*command, "--served-model-name", "tiny"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    replica.url = json.loads(replica.stdout.readline())["url"].removesuffix("/v1")
    return replica


def get(url, path):
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
    connection.request("GET", path)
    response = connection.getresponse()
    return response.status, response.read()


def figure(replica, name):
    text = get(replica.url, "/metrics")[1].decode()
    return float(next(line for line in text.splitlines() if line.startswith(name + "{")).rsplit(" ", 1)[1])


def ask(url, i):
    """'whole', or 'cut' where something had come, or why nothing came."""
    body = {
        "model": "tiny", "stream": True, "temperature": 0.8, "seed": i, "max_tokens": 120, "ignore_eos": True,
        "messages": [{"role": "user", "content": f"{TOPICS[i % len(TOPICS)]}{i}"}],
    }
    text = b""
    try:
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            return f"{response.status} {response.read(200)!r}"
        while piece := response.read1(65536):
            text += piece
    except (OSError, http.client.HTTPException) as error:
        return "cut" if b'"content"' in text else f"{type(error).__name__}: {error} after {text!r}"
    if b"data: [DONE]" in text and b'"error"' not in text:
        return "whole"
    return "cut" if b'"content"' in text else f"ended after {text!r}"


def streams(url, count, midway):
    """What becomes of so many streams; `midway` is called when a third of them has ended."""
    outcomes, third = [], threading.Event()

    def one(i):
        outcomes.append(ask(url, i))
        if len(outcomes) >= count // 3:
            third.set()

    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as crew:
        jobs = [crew.submit(one, i) for i in range(count)]
        assert third.wait(120), "too slow"
        midway()
        for job in jobs:
            job.result()
    counts = collections.Counter(outcome if outcome in ("whole", "cut") else "lost" for outcome in outcomes)
    for outcome in outcomes:
        if outcome not in ("whole", "cut"):
            print("lost:", outcome[:300])
    return counts


def kill(replicas, url):
    def midway():
        shares = [figure(replica, "solarium_requests_done_total") for replica in replicas]
        hits = [figure(replica, "solarium_prefix_hit_tokens_total") for replica in replicas]
        replicas[0].kill()
        print(f"{shares} streams done, {hits} tokens from the cache: one replica is killed")
        assert all(shares), "the gateway used one replica only"
        assert all(hits), "no prefix was shared"

    counts = streams(url, REQUESTS, midway)
    print(f"{REQUESTS} streams: {dict(counts)}")
    assert counts["lost"] == 0, "a request was lost that had not begun to stream"
    assert counts["cut"] <= CLIENTS, counts


def drain(replicas, url):
    counts = streams(url, REQUESTS // 2, lambda: replicas[0].send_signal(signal.SIGTERM))
    print(f"{REQUESTS // 2} streams, one replica told to go in the middle: {dict(counts)}")
    assert counts == {"whole": REQUESTS // 2}, counts
    assert replicas[0].wait(60) == 0


def with_gateway(options, test):
    replicas = [start_replica(options), start_replica(options)]
    port = free_port()
    command = [
        str(Path(sys.executable).with_name("smg")), "launch", "--host", "127.0.0.1", "--port", str(port), "--policy", "cache_aware",
        "--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port()), "--worker-startup-check-interval", "1",
        "--health-check-endpoint", "/ready", "--health-check-interval-secs", "1", "--health-failure-threshold", "1",
        "--balance-abs-threshold", "2", "--log-level", "warn", "--worker-urls", *[replica.url for replica in replicas],
    ]
    log = open(options.log, "ab")
    gateway = subprocess.Popen(command, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        begun = time.monotonic()
        while True:
            try:
                status, body = get(url, "/workers")
                workers = json.loads(body).get("workers", []) if status == 200 else []
                if sum(bool(worker.get("is_healthy")) for worker in workers) == 2 and get(url, "/v1/models")[0] == 200:
                    break
            except OSError:
                pass
            assert gateway.poll() is None, "the gateway ended"
            assert time.monotonic() - begun < 120, f"the gateway has not taken up the replicas: {workers}"
            time.sleep(0.2)
        print(f"the gateway has both replicas after {time.monotonic() - begun:.1f} s")
        test(replicas, url)
    finally:
        for program in [gateway, *replicas]:
            if program.poll() is None:
                program.kill()
            program.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sol", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--log", default=os.devnull, help="where the gateway's log goes")
    options = parser.parse_args()
    for test in (kill, drain):
        with_gateway(options, test)


if __name__ == "__main__":
    main()
