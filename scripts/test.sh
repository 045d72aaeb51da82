#!/usr/bin/env bash
# Passes all tests: pure logic, the overlay on its in-memory network, the relay over loopback QUIC,
# real nsn-node processes, nodes behind NATs, and zombienet networks.
#
#   scripts/test.sh              all; behind NATs only as root on Linux, or it says that it did not
#   scripts/test.sh --fast       all but the NAT lab and the zombienet networks
#   scripts/test.sh -E 'EXPR'    only the tests that a nextest expression names, such as test(100_mb)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

fast=no
only=
case "${1:-}" in
    "") ;;
    --fast) fast=yes ;;
    -E) only=${2:?"-E wants an expression"} ;;
    *) die "unknown argument $1" "Usage: scripts/test.sh [--fast | -E EXPRESSION]" ;;
esac

scripts/setup.sh
nsn_env

step "building node and tests (cold: about 20 minutes on 2 cores, warm: a minute)"
cargo nextest run --workspace --locked --no-run
# The tests of real processes are run with this program; building it by itself would compile hundreds
# of dependencies again, for which the workspace as a whole turns on other features.
export NSN_NODE="$CARGO_TARGET_DIR/debug/nsn-node"

if [ -n "$only" ]; then
    cargo nextest run --workspace --locked --no-fail-fast -E "$only"
    exit
fi
step "running the tests (about 4 minutes)"
cargo nextest run --workspace --locked --no-fail-fast

step "scripts/run.sh, until it has compared the bytes (seconds)"
scripts/run.sh --once

if [ $fast = no ]; then
    step "the NAT lab: is each NAT what it says (a minute), and video through each pair (five minutes)"
    scripts/natlab.sh selftest >/dev/null
    scripts/natlab.sh matrix --must arrive

    step "two zombienet networks: the main job, and audits (about five minutes)"
    scripts/zombienet.sh
fi
say "all tests passed"
