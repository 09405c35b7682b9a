#!/usr/bin/env bash
# Holds `sol serve` against the official OpenAI clients (Python and Node), its own OpenAPI document (schemathesis) and a gateway
# (SMG) with a replica that is killed. Takes the program's path; needs Python 3, Node and the package registries.
#
#     xtools/conformance/run.sh target/debug/sol
set -euo pipefail
sol=$(realpath "$1")
cd "$(dirname "$0")"
model=../../crates/sol-model/tests/data/chat-tiny
work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null || true; rm -rf "$work"' EXIT

step() { printf '\n-- %s\n' "$*"; "$@"; }

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check -r requirements.txt
npm ci --silent --no-audit --no-fund
python="$work/venv/bin/python"

# With room for tools: their schemas are long in the tokens of a tiny vocabulary.
cp -r "$model" "$work/roomy"
sed -i 's/"max_position_embeddings": 512/"max_position_embeddings": 4096/' "$work/roomy/config.json"
step "$python" ../check_serve.py --sol "$sol" -m "$work/roomy"

key=conformance
SOL_API_KEY=$key "$sol" serve -m "$model" --port 0 --json --threads 1 --max-batch 8 >"$work/line" 2>"$work/log" &
server=$!
for _ in $(seq 600); do [ -s "$work/line" ] && break; sleep 0.1; done
url=$("$python" -c 'import json, sys; print(json.load(open(sys.argv[1]))["url"])' "$work/line")

step node client.mjs "$url" $key
step env -C "$work" venv/bin/schemathesis run "${url%/v1}/openapi.json" --header "Authorization: Bearer $key" \
  --phases examples,coverage,fuzzing --max-examples 40 --generation-deterministic --workers 1 --suppress-health-check all \
  --exclude-checks positive_data_acceptance

kill -TERM "$server"
wait "$server"
server=
if grep -i panicked "$work/log"; then exit 1; fi

step "$python" fleet.py --sol "$sol" --model "$model"
