#!/usr/bin/env bash
# Speed of `sol bench` beside llama.cpp's `llama-bench`: the same file, the same threads, alternating in the same run.
#
#   benches/versus-llama.sh [-m FILE.gguf] [-t THREADS] [-r ROUNDS] [-p PROMPT] [-n TOKENS] [-d DEPTHS]
#
# llama.cpp is built with native flags from the PyPI source package llama-cpp-python (pinned below), once, into target/llama.
# Needs cargo, python3 with pip and venv, and a C++ compiler. Prints medians over the rounds and their ratio; a machine that
# something else was using is said so.
set -euo pipefail
cd "$(dirname "$0")/.."

version=0.3.36 threads=2 rounds=5 prompt=512 tokens=128 depths=0 model=
while getopts m:t:r:p:n:d: option; do
  case $option in
    m) model=$OPTARG ;; t) threads=$OPTARG ;; r) rounds=$OPTARG ;;
    p) prompt=$OPTARG ;; n) tokens=$OPTARG ;; d) depths=$OPTARG ;;
    *) sed -n '2,8p' "$0"; exit 2 ;;
  esac
done

peer=$PWD/target/llama
bench=$peer/build/bin/llama-bench
if [ ! -x "$bench" ]; then
  mkdir -p "$peer"
  python3 -m venv "$peer/venv"
  "$peer/venv/bin/pip" install --quiet cmake ninja
  "$peer/venv/bin/pip" download --quiet --no-deps --no-binary llama-cpp-python --dest "$peer" "llama-cpp-python==$version"
  tar -xf "$peer/llama_cpp_python-$version.tar.gz" -C "$peer"
  PATH=$peer/venv/bin:$PATH cmake -G Ninja -S "$peer/llama_cpp_python-$version/vendor/llama.cpp" -B "$peer/build" \
    -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DLLAMA_CURL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
    -DLLAMA_BUILD_SERVER=OFF >"$peer/build.log"
  PATH=$peer/venv/bin:$PATH cmake --build "$peer/build" --target llama-bench >>"$peer/build.log"
fi

cargo build --release --quiet -p sol
sol=${CARGO_TARGET_DIR:-target}/release/sol
[ -n "$model" ] || model=$("$sol" pull smollm2)

results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT
for round in $(seq "$rounds"); do
  for mode in "1 1" "1 0" "0 1" "0 0"; do
    read -r repack attention <<<"$mode"
    "$bench" -m "$model" -t "$threads" -p "$prompt" -n "$tokens" -d "$depths" -fa "$attention" --repack "$repack" -r 1 -o json \
      >"$results/llama.$repack.$attention.$round.json" 2>/dev/null
  done
  "$sol" bench -m "$model" --threads "$threads" -p "$prompt" -n "$tokens" -d "$depths" -r 1 --json >"$results/sol.$round.json"
done

python3 - "$results" <<'PYTHON'
import collections, glob, json, os, statistics, sys

def figures(path):
    document = json.load(open(path))
    for test in document["tests"] if isinstance(document, dict) else document:
        kind = f"pp{test['n_prompt']}" if test["n_prompt"] else f"tg{test['n_gen']}"
        yield f"{kind} @ d{test.get('n_depth', 0)}", test["avg_ts"]

ours, theirs = collections.defaultdict(list), collections.defaultdict(lambda: collections.defaultdict(list))
for path in glob.glob(os.path.join(sys.argv[1], "*.json")):
    name = os.path.basename(path).split(".")
    for test, speed in figures(path):
        (ours[test] if name[0] == "sol" else theirs[test][tuple(name[1:3])]).append(speed)

print(f"{'test':16} {'sol':>10} {'llama.cpp':>10} {'ratio':>7}   llama.cpp's best mode")
for test, speeds in ours.items():
    best, mode = max((statistics.median(v), k) for k, v in theirs[test].items())
    sol = statistics.median(speeds)
    words = f"repack {'on' if mode[0] == '1' else 'off'}, flash attention {'on' if mode[1] == '1' else 'off'}"
    print(f"{test:16} {sol:10.1f} {best:10.1f} {sol / best:7.2f}   {words}; spread of sol {min(speeds):.0f}-{max(speeds):.0f}")
PYTHON
load=$(cut -d' ' -f1 /proc/loadavg 2>/dev/null || echo 0)
awk -v load="$load" -v threads="$threads" 'BEGIN { if (load > threads + 0.5) print "note: the machine was not quiet (load " load ")" }'
