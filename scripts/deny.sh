#!/usr/bin/env bash
# Checks all dependencies: known advisories, licences, where they come from. Needs a network that
# reaches the advisory database; `--offline` leaves the advisories out.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

checks="advisories licenses bans sources"
case "${1:-}" in
    "") ;;
    --offline) checks="licenses bans sources" ;;
    *) die "unknown argument $1" "Usage: scripts/deny.sh [--offline]" ;;
esac
scripts/setup.sh --deny
nsn_env
# shellcheck disable=SC2086 # a list of words
cargo deny check $checks ||
    die "cargo-deny found something, or could not fetch the advisory database" \
        "Its report is above. Without the network: scripts/deny.sh --offline"
