#!/usr/bin/env bash
# Passes all tests: pure logic, the overlay on its in-memory network, the relay over loopback QUIC,
# real nsn-node processes, and a zombienet network. `--fast` leaves the last one out.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

fast=no
case "${1:-}" in
    "") ;;
    --fast) fast=yes ;;
    *) die "unknown argument $1" "Usage: scripts/test.sh [--fast]" ;;
esac

scripts/setup.sh
nsn_env

step "building node and tests (cold: about 20 minutes on 2 cores, warm: a minute)"
cargo nextest run --workspace --locked --no-run

step "running the tests (about 4 minutes)"
cargo nextest run --workspace --locked --no-fail-fast

step "scripts/run.sh, until it has compared the bytes (seconds)"
scripts/run.sh --once

if [ $fast = no ]; then
    step "the main job on a zombienet network (about a minute)"
    scripts/zombienet.sh
fi
say "all tests passed"
