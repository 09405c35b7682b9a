"""Compares the hub cache of sol-hub with that of the Python client, both ways, over a hub played here.

Needs huggingface_hub 0.36 (checked with 0.36.0 of the project's Python environment) and a built example:
    cargo build -p sol-hub --example pull
    python xtools/check_hub_cache.py PATH_TO/examples/pull
Checks: a cache that sol-hub wrote is read by scan_cache_dir and by hf_hub_download and snapshot_download
without network; a cache that Python wrote is read by sol-hub offline; names of blobs, snapshots, refs and
link targets are equal; a sol-hub killed in the middle leaves a partial that it, and Python, continue.
"""

import hashlib
import http.server
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

PULL = sys.argv[1]
REPO = "org/model"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
BIG = os.urandom(8 << 20)
FILES = {
    "README.md": b"read me",
    "config.json": b"{}",
    "tokenizer.json": b'{"t": 1}',
    "model.safetensors": BIG,
    "sub/extra.gguf": b"in a folder",
}
slow = threading.Event()
gets = []


def etag(name):
    body = FILES[name]
    if name.endswith((".safetensors", ".gguf")):
        return hashlib.sha256(body).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


class HubHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer(send_body=False)

    def do_GET(self):
        self.answer(send_body=True)

    def answer(self, send_body):
        path = self.path.split("?")[0]
        if path.startswith(f"/api/models/{REPO}"):
            import json

            info = {"id": REPO, "sha": COMMIT, "siblings": [{"rfilename": name} for name in FILES]}
            return self.reply(200, json.dumps(info).encode(), {"Content-Type": "application/json"}, send_body)
        name = path.removeprefix(f"/{REPO}/resolve/").split("/", 1)[-1]
        if name not in FILES:
            return self.reply(404, b"", {"X-Error-Code": "EntryNotFound"}, send_body)
        body, status, headers = FILES[name], 200, {"X-Repo-Commit": COMMIT, "ETag": f'"{etag(name)}"'}
        if name.endswith((".safetensors", ".gguf")):
            headers |= {"X-Linked-Etag": f'"{etag(name)}"', "X-Linked-Size": str(len(body))}
        requested = self.headers.get("Range")
        if requested:
            start = int(requested.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            body, status = body[start:], 206
        if send_body:
            gets.append((name, requested))
        self.reply(status, body, headers, send_body)

    def reply(self, status, body, headers, send_body):
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(key, value)
        self.end_headers()
        if not send_body:
            return
        try:
            for start in range(0, len(body), 1 << 18):
                self.wfile.write(body[start : start + (1 << 18)])
                if slow.is_set():
                    time.sleep(0.1)
        except OSError:
            self.close_connection = True


def pull(cache, *models, **extra):
    environment = {"PATH": os.environ["PATH"], "HOME": str(cache), "HF_ENDPOINT": ENDPOINT + "/", "HF_HUB_CACHE": str(cache)}
    return subprocess.Popen([PULL, *models], env=environment | extra, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def pulled(cache, *models, **extra):
    process = pull(cache, *models, **extra)
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out.split()


def layout(cache):
    """Every file and link of a cache, without what is one client's own."""
    root = Path(cache) / "models--org--model"
    entries = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            entries[name] = os.readlink(path)
        elif path.is_file() and not name.startswith((".solarium", ".no_exist")):
            entries[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return entries


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), HubHandler)
threading.Thread(target=server.serve_forever, daemon=True).start()
ENDPOINT = f"http://127.0.0.1:{server.server_port}"
for name in [name for name in os.environ if name.startswith("HF_")]:
    del os.environ[name]
os.environ |= {"HF_ENDPOINT": ENDPOINT, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
import huggingface_hub  # noqa: E402  (reads the environment when imported)
from huggingface_hub import hf_hub_download, scan_cache_dir, snapshot_download  # noqa: E402

print("huggingface_hub", huggingface_hub.__version__)
with tempfile.TemporaryDirectory() as ours, tempfile.TemporaryDirectory() as theirs, tempfile.TemporaryDirectory() as cut:
    # Ours, read by Python.
    (snapshot,) = pulled(ours, REPO)
    (extra,) = pulled(ours, f"{REPO}:sub/extra.gguf")
    report = scan_cache_dir(ours)
    assert not report.warnings, report.warnings
    (repo,) = report.repos
    assert (repo.repo_id, repo.repo_type, repo.nb_files) == (REPO, "model", 4), repo
    (revision,) = repo.revisions
    assert revision.commit_hash == COMMIT and revision.refs == {"main"}, revision
    found = hf_hub_download(REPO, "model.safetensors", cache_dir=ours, local_files_only=True)
    assert Path(found) == Path(snapshot) / "model.safetensors" and Path(found).read_bytes() == BIG
    assert hf_hub_download(REPO, "sub/extra.gguf", cache_dir=ours, local_files_only=True) == extra
    assert snapshot_download(REPO, cache_dir=ours, local_files_only=True) == snapshot
    print("ours read by Python: ok")

    # Theirs, of the same files, read by us; and the two are alike.
    wanted = ["config.json", "tokenizer.json", "model.safetensors", "sub/extra.gguf"]
    snapshot_download(REPO, cache_dir=theirs, allow_patterns=wanted)
    assert layout(ours) == layout(theirs), (layout(ours), layout(theirs))
    locks = [sorted(str(p.relative_to(c)) for p in (Path(c) / ".locks").rglob("*.lock")) for c in (ours, theirs)]
    assert locks[0] == locks[1], locks
    before = len(gets)
    (offline,) = pulled(theirs, REPO, HF_HUB_OFFLINE="1")
    assert Path(offline).parent.parent == Path(theirs) / "models--org--model"
    assert pulled(theirs, REPO) == [offline] and not [get for get in gets[before:] if get[0] in FILES]
    print("theirs read by us, layouts equal: ok")

    # Killed in the middle.
    for continued_by in ("us", "Python"):
        cache = Path(cut) / continued_by
        cache.mkdir()
        slow.set()
        process = pull(cache, REPO)
        partial = cache / "models--org--model" / "blobs" / f"{etag('model.safetensors')}.incomplete"
        while not partial.exists() or partial.stat().st_size < 1 << 20:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        slow.clear()
        size = partial.stat().st_size
        before = len(gets)
        process = pull(cache, REPO, HF_HUB_OFFLINE="1")
        assert process.wait() == 1 and "not (completely) in the cache" in process.stderr.read()
        if continued_by == "us":
            (path,) = pulled(cache, REPO)
        else:
            path = snapshot_download(REPO, cache_dir=cache, allow_patterns=wanted)
        assert (Path(path) / "model.safetensors").read_bytes() == BIG and not partial.exists()
        assert ("model.safetensors", f"bytes={size}-") in gets[before:], gets[before:]
        print(f"killed after {size} bytes, continued by {continued_by}: ok")
