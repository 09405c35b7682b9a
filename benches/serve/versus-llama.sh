#!/usr/bin/env bash
# `sol serve` beside llama-server: the same file, the same load, the same threads, one after the other in the same run.
#
#   benches/serve/versus-llama.sh [-m FILE.gguf] [-t THREADS] [-r ROUNDS] [--help]
#
# Builds both (llama-server by ../build-llama.sh, or taken from the directory LLAMA_BIN), then versus_llama.py measures.
set -euo pipefail
cd "$(dirname "$0")/../.."

bin=$(benches/build-llama.sh llama-server)
cargo build --release --quiet -p sol
PYTHONDONTWRITEBYTECODE=1 exec python3 benches/serve/versus_llama.py \
  --sol "${CARGO_TARGET_DIR:-target}/release/sol" --llama-server "$bin/llama-server" "$@"
