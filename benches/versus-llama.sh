#!/usr/bin/env bash
# Speed of `sol` beside llama.cpp: the same files, the same threads, alternating in the same run.
#
#   benches/versus-llama.sh [-m FILE.gguf]... [-t THREADS] [-r ROUNDS] [-q] [--first-token] [--help]
#
# Builds llama.cpp (build-llama.sh, or its programs in the directory LLAMA_BIN), then versus_llama.py measures.
# Needs cargo, python3 with pip and venv, and a C++ compiler.
set -euo pipefail
cd "$(dirname "$0")/.."

bin=$(benches/build-llama.sh llama-bench llama-batched-bench llama-completion)

cargo build --release --quiet -p sol
cargo build --release --quiet -p sol-cpu --example machine_limits
target=${CARGO_TARGET_DIR:-target}/release
PYTHONDONTWRITEBYTECODE=1 exec python3 benches/versus_llama.py \
  --sol "$target/sol" --limits "$target/examples/machine_limits" --llama "$bin" "$@"
