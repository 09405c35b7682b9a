#!/usr/bin/env bash
# Speed of `sol upscale` beside `cp` of what it wrote: both from the page cache, to the disk (sync), in turn.
#
#   benches/versus-cp.sh [LAYERS] [ROUNDS]      # of Phi-3-medium's shapes in BF16, 0.84 GB each with half of that again; 4 (at least 3), 5
#
# Needs cargo and python3, and about 4 GB of disk for a layer in the temporary directory (TMPDIR).
set -euo pipefail
export LC_ALL=C
layers=${1:-4} rounds=${2:-5}
cd "$(dirname "$0")/.."
cargo build --release --quiet -p sol
sol=$(realpath "${CARGO_TARGET_DIR:-target}/release/sol")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"$sol" synth -q --like phi-3-medium --layers "$layers" --type bf16 -o base.gguf
"$sol" upscale -q -m base.gguf -o deep.gguf -r solar-pro

# Seconds of a command that writes `out.gguf`.
seconds() {
  cat base.gguf deep.gguf >/dev/null
  sync
  local start=$EPOCHREALTIME
  "$@" >/dev/null
  sync
  python3 -c "print($EPOCHREALTIME - $start)"
  rm out.gguf
}

for _ in $(seq "$rounds"); do
  seconds "$sol" upscale -q -m base.gguf -o out.gguf -r solar-pro
  seconds cp --reflink=never deep.gguf out.gguf
done | python3 -c '
import statistics, sys
seconds = list(map(float, sys.stdin))
size = int(sys.argv[1]) / 1e6
for name, each in ("sol upscale", seconds[::2]), ("cp", seconds[1::2]):
    print(f"{name}: median {statistics.median(each):.2f} s, {size / statistics.median(each):.0f} MB/s, {min(each):.2f} to {max(each):.2f} s")
ratios = [cp / sol for sol, cp in zip(seconds[::2], seconds[1::2])]
print(f"speed beside cp: median {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}")
' "$(stat -c %s deep.gguf)"
