#!/usr/bin/env bash
# Builds programs of llama.cpp, the peer of the benchmarks and checks, and prints their directory.
#
#   benches/build-llama.sh llama-bench llama-server ...
#
# With native flags from the PyPI source package llama-cpp-python (pinned below), once, into target/llama; a directory LLAMA_BIN
# is taken instead. Needs python3 with pip and venv, and a C++ compiler.
set -euo pipefail
cd "$(dirname "$0")/.."

version=0.3.36
peer=$PWD/target/llama
bin=${LLAMA_BIN:-$peer/build/bin}

missing() {
  for program in "$@"; do [ -x "$bin/$program" ] || return 0; done
  return 1
}

if [ -z "${LLAMA_BIN:-}" ] && missing "$@"; then
  mkdir -p "$peer"
  [ -d "$peer/venv" ] || python3 -m venv "$peer/venv"
  "$peer/venv/bin/pip" install --quiet cmake ninja >&2
  if [ ! -d "$peer/llama_cpp_python-$version" ]; then
    "$peer/venv/bin/pip" download --quiet --no-deps --no-binary llama-cpp-python --dest "$peer" "llama-cpp-python==$version" >&2
    tar -xf "$peer/llama_cpp_python-$version.tar.gz" -C "$peer"
  fi
  PATH=$peer/venv/bin:$PATH cmake -G Ninja -S "$peer/llama_cpp_python-$version/vendor/llama.cpp" -B "$peer/build" \
    -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF \
    -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=ON >"$peer/build.log"
  PATH=$peer/venv/bin:$PATH cmake --build "$peer/build" --target "$@" >>"$peer/build.log"
fi
missing "$@" && { echo "$bin lacks one of: $*" >&2; exit 1; }
echo "$bin"
