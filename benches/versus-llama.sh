#!/usr/bin/env bash
# Speed of `sol` beside llama.cpp: the same files, the same threads, alternating in the same run.
#
#   benches/versus-llama.sh [-m FILE.gguf]... [-t THREADS] [-r ROUNDS] [-q] [--first-token] [--help]
#
# Builds llama.cpp with native flags from the PyPI source package llama-cpp-python (pinned below), once, into target/llama, or
# takes its programs from the directory LLAMA_BIN; then versus_llama.py measures. LLAMA_ALSO names more of llama.cpp's programs
# to build. Needs cargo, python3 with pip and venv, and a C++ compiler.
set -euo pipefail
cd "$(dirname "$0")/.."

version=0.3.36
read -ra also <<<"${LLAMA_ALSO:-}"
programs=(llama-bench llama-batched-bench llama-completion "${also[@]}")
peer=$PWD/target/llama
bin=${LLAMA_BIN:-$peer/build/bin}

missing() {
  for program in "${programs[@]}"; do [ -x "$bin/$program" ] || return 0; done
  return 1
}

if [ -z "${LLAMA_BIN:-}" ] && missing; then
  mkdir -p "$peer"
  [ -d "$peer/venv" ] || python3 -m venv "$peer/venv"
  "$peer/venv/bin/pip" install --quiet cmake ninja
  if [ ! -d "$peer/llama_cpp_python-$version" ]; then
    "$peer/venv/bin/pip" download --quiet --no-deps --no-binary llama-cpp-python --dest "$peer" "llama-cpp-python==$version"
    tar -xf "$peer/llama_cpp_python-$version.tar.gz" -C "$peer"
  fi
  PATH=$peer/venv/bin:$PATH cmake -G Ninja -S "$peer/llama_cpp_python-$version/vendor/llama.cpp" -B "$peer/build" \
    -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DLLAMA_CURL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
    -DLLAMA_BUILD_SERVER=OFF >"$peer/build.log"
  PATH=$peer/venv/bin:$PATH cmake --build "$peer/build" --target "${programs[@]}" >>"$peer/build.log"
fi

cargo build --release --quiet -p sol
cargo build --release --quiet -p sol-cpu --example machine_limits
target=${CARGO_TARGET_DIR:-target}/release
PYTHONDONTWRITEBYTECODE=1 exec python3 benches/versus_llama.py \
  --sol "$target/sol" --limits "$target/examples/machine_limits" --llama "$bin" "$@"
