#!/usr/bin/env bash
# Measures what the calls of our pallets cost, and writes the weights to runtime/src/weights/.
#
#   scripts/benchmark.sh [PALLET ...]    these pallets, such as pallet_reputation; otherwise all
#   scripts/benchmark.sh --check [...]   only runs each benchmark a few times, and writes nothing
#
# The runtime is built with the feature `runtime-benchmarks`, in a target folder of its own: no node
# may ever get hold of that wasm. What runs it is scripts/bencher, in release, with the versions of
# Cargo.lock. For weights that a chain is to rely on, run it on the machine that validators have,
# with nothing beside it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

usage() {
    sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
}

check=no
pallets=()
while [ $# -gt 0 ]; do
    case "$1" in
        --check) check=yes ;;
        -h | --help)
            usage
            exit
            ;;
        -*) die "unknown argument $1" "$(usage)" ;;
        *) pallets+=("$1") ;;
    esac
    shift
done

# The pallets that the runtime offers, as its own list says.
known=$(grep -o '\[pallet_[a-z_]*' runtime/src/benchmarks.rs | tr -d '[')
# shellcheck disable=SC2206 # a list of words
[ ${#pallets[@]} -gt 0 ] || pallets=($known)
for pallet in "${pallets[@]}"; do
    grep -qx "$pallet" <<<"$known" ||
        die "no benchmarks of $pallet" "There are: $(tr '\n' ' ' <<<"$known")"
done

scripts/setup.sh
nsn_env

# Outside the checkout, because its lock file is made from the workspace's and is none to be kept.
bencher="$NSN_CACHE/bencher"
mkdir -p "$bencher"
# With their times, or what was built of them would be built again.
cp -Rp scripts/bencher/. "$bencher/"
if ! cmp -s Cargo.lock "$bencher/workspace.lock"; then
    cp Cargo.lock "$bencher/Cargo.lock"
    cp Cargo.lock "$bencher/workspace.lock"
fi
step "building the runtime with its benchmarks (cold: about 4 minutes on 2 cores, warm: one)"
NSN_RUNTIME="$PWD/runtime/Cargo.toml" CARGO_TARGET_DIR="$NSN_CACHE/benchmark" \
    cargo build --manifest-path "$bencher/Cargo.toml" -p nsn-benchmark-wasm >&2
wasm="$NSN_CACHE/benchmark/debug/wbuild/nsn-runtime/nsn_runtime.wasm"
step "building the benchmark command in release (cold: about 25 minutes on 2 cores, warm: seconds)"
# A part of the command that is never called here carries a wasm of its own, and builds it unless told
# not to.
SKIP_WASM_BUILD=1 cargo build --release --manifest-path "$bencher/Cargo.toml" -p nsn-bencher >&2

if [ $check = yes ]; then
    runs=(--steps 2 --repeat 1 --min-duration 0)
else
    runs=(--steps 50 --repeat 20)
    mkdir -p runtime/src/weights
fi
for pallet in "${pallets[@]}"; do
    step "measuring $pallet (10 seconds for each call, at least)"
    writes=()
    [ $check = yes ] ||
        writes=(--template scripts/weights.hbs --output "runtime/src/weights/$pallet.rs")
    "$CARGO_TARGET_DIR/release/nsn-bencher" --runtime "$wasm" --genesis-builder runtime \
        --pallet "$pallet" --extrinsic '*' "${runs[@]}" --no-storage-info --no-median-slopes \
        "${writes[@]}" >&2
done
[ $check = yes ] || cargo_fmt -p nsn-runtime
say "done: ${pallets[*]}"
