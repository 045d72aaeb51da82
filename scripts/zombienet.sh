#!/usr/bin/env bash
# Runs the main job on a zombienet network of three native processes (two validators, of which one
# is the super-node, and a relay that knows a bootnode only), and says whether it works.
#
#   scripts/zombienet.sh              zombienet/main-job.zndsl
#   scripts/zombienet.sh FILE.zndsl   another test
#   scripts/zombienet.sh --keep       leave the nodes' folders and logs also after a success
#
# Installs zombienet and builds the node where they are missing; with NSN_NODE in the environment,
# that program is taken instead. Under a minute on a built tree.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

keep=no
test=zombienet/main-job.zndsl
for argument in "$@"; do
    case "$argument" in
        --keep) keep=yes ;;
        *.zndsl) test=$argument ;;
        *) die "unknown argument $argument" "Usage: scripts/zombienet.sh [--keep] [FILE.zndsl]" ;;
    esac
done
[ -r "$test" ] || die "there is no $test"

scripts/setup.sh --zombienet
nsn_env
if [ -z "${NSN_NODE:-}" ]; then
    step "building nsn-node (cold: about 15 minutes on 2 cores, warm: seconds)"
    cargo build --locked -p nsn-node
    NSN_NODE="$CARGO_TARGET_DIR/debug/nsn-node"
fi
[ -x "$NSN_NODE" ] || die "there is no program $NSN_NODE"

# What the network's files take from the environment.
export NSN_NODE
export NSN_SAMPLE="$PWD/scripts/media/sample.mp4"
NSN_SAMPLE_LEN=$(wc -c <"$NSN_SAMPLE")
read -r NSN_ALICE_OVERLAY NSN_ALICE_SHARDS NSN_BOB_OVERLAY NSN_BOB_SHARDS NSN_RELAY_OVERLAY \
    NSN_RELAY_SHARDS < <(node zombienet/js/free-ports.js 6)
export NSN_SAMPLE_LEN NSN_ALICE_OVERLAY NSN_ALICE_SHARDS NSN_BOB_OVERLAY NSN_BOB_SHARDS \
    NSN_RELAY_OVERLAY NSN_RELAY_SHARDS

dir=$(mktemp -d "${TMPDIR:-/tmp}/nsn-zombienet.XXXXXX")
log="$dir/zombienet.log"
# Zombienet gives each node the key that is the SHA-256 of its name, so bob's PeerId is known before.
printf bob | sha256sum | cut -d' ' -f1 | tr -d '\n' >"$dir/bob.key"
bob=$("$NSN_NODE" key inspect-node-key --file "$dir/bob.key")
export NSN_BOOTNODE="/ip4/127.0.0.1/tcp/$NSN_BOB_OVERLAY/p2p/$bob"

zombienet=
shown=0

# Ends whatever of the network is left, by its process group: on a signal, zombienet's `test` leaves
# its nodes running.
end_network() {
    [ -n "$zombienet" ] || return 0
    kill -TERM -- "-$zombienet" 2>/dev/null || true
    local tries=0
    while kill -0 -- "-$zombienet" 2>/dev/null && [ $tries -lt 50 ]; do
        sleep 0.1
        tries=$((tries + 1))
    done
    kill -KILL -- "-$zombienet" 2>/dev/null || true
    wait "$zombienet" 2>/dev/null || true
}

finish() {
    local status=$1
    trap - EXIT INT TERM
    end_network
    if [ "$status" = 0 ] && [ $keep = no ]; then
        rm -rf "$dir"
    else
        say "logs: $log and, of the nodes, $dir/network/*.log"
    fi
    exit "$status"
}
trap 'finish $?' EXIT
trap 'say stopped; finish 130' INT TERM

# The log, without colours and without the tables that zombienet draws.
plain_log() {
    sed 's/\x1b\[[0-9;]*m//g; s/^│ *//; s/ *│ *$//' "$log" 2>/dev/null
}

# Shows the results that came since the last call: one line for each assertion.
show_results() {
    local results
    results=$(plain_log | grep -ao '[✅❌] .*' | grep -v 'of your test failed' |
        tail -n +$((shown + 1))) || true
    [ -n "$results" ] || return 0
    printf '%s\n' "$results" | sed 's/^✅/  passed:/; s/^❌/  FAILED:/' >&2
    shown=$((shown + $(printf '%s\n' "$results" | wc -l)))
}

step "starting the network and going through $test (about a minute)"
# A process group of its own (set -m), so that nothing of it can be left over.
set -m
"$(zombienet_dir)/node_modules/.bin/zombienet" --provider native --dir "$dir/network" --force \
    test "$test" >"$log" 2>&1 </dev/null &
zombienet=$!
set +m
while kill -0 "$zombienet" 2>/dev/null; do
    show_results
    sleep 1
done
status=0
wait "$zombienet" || status=$?
show_results

asserted=$(grep -cE '^[a-z0-9-]+: ' "$test")
passed=$(grep -ac '✅' "$log") || true
if [ $status != 0 ] || [ "$passed" != "$asserted" ]; then
    # What zombienet and the scripts of the test said, or, before there was a test, the nodes.
    plain_log | grep -aE 'Error.*:.*[a-z]' | grep -v 'fetching metrics' | tail -n 10 >&2 || true
    [ $shown -gt 0 ] || tail -n 5 "$dir"/network/*.log >&2 2>/dev/null || true
    die "$passed of $asserted assertions passed" "The logs say why."
fi
step "all $asserted assertions passed"
