#!/usr/bin/env bash
# Runs networks of native processes under zombienet, and says whether what is asserted of them holds.
#
#   scripts/zombienet.sh                both networks, one after the other
#   scripts/zombienet.sh main-job       a video goes from a super-node through a relay to a viewer
#   scripts/zombienet.sh audits         a super-node that withholds loses its reputation by audits
#   scripts/zombienet.sh FILE.zndsl     another test
#   scripts/zombienet.sh --keep ...     leave the nodes' folders and logs also after a success
#
# Installs zombienet and builds the node where they are missing; with NSN_NODE in the environment,
# that program is taken instead. On a built tree, main-job takes under a minute, audits four.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

keep=no
tests=()
for argument in "$@"; do
    case "$argument" in
        --keep) keep=yes ;;
        main-job | audits) tests+=("zombienet/$argument.zndsl") ;;
        *.zndsl) tests+=("$argument") ;;
        *) die "unknown argument $argument" \
            "Usage: scripts/zombienet.sh [--keep] [main-job | audits | FILE.zndsl]..." ;;
    esac
done
[ ${#tests[@]} -gt 0 ] || tests=(zombienet/main-job.zndsl zombienet/audits.zndsl)
for test in "${tests[@]}"; do
    [ -r "$test" ] || die "there is no $test"
done

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
export NSN_SAMPLE_LEN
export NSN_NO_WARMING="$PWD/zombienet/no-warming.toml"

top=$(mktemp -d "${TMPDIR:-/tmp}/nsn-zombienet.XXXXXX")
# Zombienet gives each node the key that is the SHA-256 of its name, so bob's PeerId is known before.
printf bob | sha256sum | cut -d' ' -f1 | tr -d '\n' >"$top/bob.key"
bob=$("$NSN_NODE" key inspect-node-key --file "$top/bob.key")

dir=
log=
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
    zombienet=
}

finish() {
    local status=$1
    trap - EXIT INT TERM
    end_network
    if [ "$status" = 0 ] && [ $keep = no ]; then
        rm -rf "$top"
    else
        say "logs: $top/*/zombienet.log and, of the nodes, $top/*/network/*.log"
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

# Sets the variables that name ports in the network's file, $1: each to a port of its own that is free.
give_ports() {
    local names ports
    names=$(grep -oE 'NSN_[A-Z0-9_]+_(OVERLAY|SHARDS)' "$1" | sort -u)
    # shellcheck disable=SC2086 # a list of words
    set -- $names
    read -r -a ports < <(node zombienet/js/free-ports.js $#)
    local name
    for name in "$@"; do
        export "$name=${ports[0]}"
        ports=("${ports[@]:1}")
    done
}

# Starts the network of the test $1 and goes through its assertions.
run_test() {
    local test=$1 status=0 asserted passed network
    dir="$top/$(basename "$test" .zndsl)"
    log="$dir/zombienet.log"
    shown=0
    mkdir -p "$dir"
    network="$(dirname "$test")/$(sed -n 's/^Network: *//p' "$test")"
    give_ports "$network"
    export NSN_BOOTNODE="/ip4/127.0.0.1/tcp/$NSN_BOB_OVERLAY/p2p/$bob"

    step "starting the network and going through $test"
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
    wait "$zombienet" || status=$?
    show_results

    asserted=$(grep -cE '^[a-z0-9-]+: ' "$test")
    passed=$(grep -ac '✅' "$log") || true
    if [ $status != 0 ] || [ "$passed" != "$asserted" ]; then
        # What zombienet and the scripts of the test said, or, before there was a test, the nodes.
        plain_log | grep -aE 'Error.*:.*[a-z]' | grep -v 'fetching metrics' | tail -n 10 >&2 || true
        [ $shown -gt 0 ] || tail -n 5 "$dir"/network/*.log >&2 2>/dev/null || true
        die "$passed of $asserted assertions of $test passed" "The logs say why."
    fi
    step "all $asserted assertions passed"
    # What is left of a network that is over would only be in the next one's way.
    end_network
}

for test in "${tests[@]}"; do
    run_test "$test"
done
