#!/usr/bin/env bash
# Brings up a chain of two real processes (a validator that is the super-node, and a relay), publishes
# a sample video on the first, fetches it back through the second, compares the bytes, and goes on
# running until Ctrl-C. `--once` ends after the comparison, for scripts.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

began=$(date +%s%N)
once=no
case "${1:-}" in
    "") ;;
    --once) once=yes ;;
    *) die "unknown argument $1" "Usage: scripts/run.sh [--once]" ;;
esac

scripts/setup.sh
nsn_env
# With NSN_NODE in the environment, that program is taken instead of one built here.
node=${NSN_NODE:-}
if [ -z "$node" ]; then
    step "building nsn-node (cold: about 15 minutes on 2 cores, warm: seconds)"
    cargo build --locked -p nsn-node
    node="$CARGO_TARGET_DIR/debug/nsn-node"
fi
[ -x "$node" ] || die "there is no program $node"
sample="$PWD/scripts/media/sample.mp4"

# Seconds since the start of this script, with one decimal.
passed() {
    local tenths=$((($(date +%s%N) - began) / 100000000))
    printf '%d.%d' $((tenths / 10)) $((tenths % 10))
}

dir=$(mktemp -d "${TMPDIR:-/tmp}/nsn-run.XXXXXX")
pids=()

# Ends both nodes by their process ids and waits: they drain first, which takes a second or two.
cleanup() {
    trap - EXIT INT TERM
    if [ ${#pids[@]} -gt 0 ]; then
        say "stopping both nodes"
        kill "${pids[@]}" 2>/dev/null || true
        wait "${pids[@]}" 2>/dev/null || true
    fi
    if [ "$1" = 0 ]; then
        rm -rf "$dir"
    else
        say "the logs are left in $dir"
    fi
    exit "$1"
}
trap 'cleanup $?' EXIT
# Stopping is a success only once there is something to stop.
on_signal=130
trap 'cleanup $on_signal' INT TERM

# Whether a TCP or UDP port is in use, by the kernel's own tables.
in_use() {
    local hex
    hex=$(printf ':%04X' "$1")
    awk -v port="$hex" 'substr($2, length($2) - 4) == port { found = 1 } END { exit !found }' \
        /proc/net/tcp /proc/net/tcp6 /proc/net/udp /proc/net/udp6 2>/dev/null
}

# Puts the first port from $2 on that is free, and that this script has not given away, into the
# variable $1.
given=" "
take_port() {
    local port=$2
    while in_use "$port" || [[ $given == *" $port "* ]]; do port=$((port + 1)); done
    given+="$port "
    printf -v "$1" %s "$port"
}

# The services open a moment after the RPC, and the relay has to find the super-node: so a few tries.
try() {
    local what=$1 tries=0
    shift
    until output=$("$@" 2>"$dir/last-error"); do
        tries=$((tries + 1))
        if [ $tries -gt 150 ]; then
            cat "$dir/last-error" >&2
            die "$what failed" "The logs are $dir/validator.log and $dir/relay.log."
        fi
        sleep 0.2
    done
}

# Waits for a line in a log; says what was waited for if it does not come.
wait_log() {
    local name=$1 text=$2 pid=$3 tries=0
    until grep -q "$text" "$dir/$name.log"; do
        tries=$((tries + 1))
        if ! kill -0 "$pid" 2>/dev/null || [ $tries -gt 1200 ]; then
            tail -n 20 "$dir/$name.log" >&2
            die "the $name did not come up" "Its log, above, says why."
        fi
        sleep 0.05
    done
}

take_port v_rpc 9944
take_port v_p2p 30333
take_port v_prom 9615
take_port v_overlay 9000
take_port v_shards 9003
take_port r_rpc 9945
take_port r_p2p 30334
take_port r_prom 9616
take_port r_overlay 9010
take_port r_shards 9013

"$node" key generate-node-key --file "$dir/validator.key" 2>/dev/null
"$node" key generate-node-key --file "$dir/relay.key" 2>/dev/null
v_peer=$("$node" key inspect-node-key --file "$dir/validator.key")
r_peer=$("$node" key inspect-node-key --file "$dir/relay.key")

say "starting the validator, which is the super-node too"
"$node" --chain dev --alice --validator --force-authoring --super-node --name validator \
    --base-path "$dir/validator" --node-key-file "$dir/validator.key" \
    --port "$v_p2p" --rpc-port "$v_rpc" --prometheus-port "$v_prom" --no-mdns --no-telemetry \
    --overlay-listen-addr "/ip4/127.0.0.1/udp/$v_overlay/quic-v1" \
    --overlay-listen-addr "/ip4/127.0.0.1/tcp/$v_overlay" \
    --shard-listen-addr "127.0.0.1:$v_shards" >"$dir/validator.log" 2>&1 &
pids+=($!)
# One after the other: each compiles the runtime first, which takes both cores for a second or two.
wait_log validator "Running JSON-RPC server" "${pids[0]}"
rpc="http://127.0.0.1:$v_rpc"
try "the first JSON-RPC call" "$node" content list --rpc-url "$rpc"
say "it answers JSON-RPC $(passed) s after the start; starting the relay"
"$node" --chain dev --relay --name relay \
    --base-path "$dir/relay" --node-key-file "$dir/relay.key" \
    --port "$r_p2p" --rpc-port "$r_rpc" --prometheus-port "$r_prom" --no-mdns --no-telemetry \
    --overlay-listen-addr "/ip4/127.0.0.1/udp/$r_overlay/quic-v1" \
    --overlay-listen-addr "/ip4/127.0.0.1/tcp/$r_overlay" \
    --shard-listen-addr "127.0.0.1:$r_shards" \
    --bootnodes "/ip4/127.0.0.1/tcp/$v_p2p/p2p/$v_peer" \
    --overlay-bootnodes "/ip4/127.0.0.1/udp/$v_overlay/quic-v1/p2p/$v_peer" \
    >"$dir/relay.log" 2>&1 &
pids+=($!)

wait_log relay "Running JSON-RPC server" "${pids[1]}"

from="/ip4/127.0.0.1/udp/$r_shards/quic-v1/p2p/$r_peer"
say "publishing the sample video on the validator"
try "publishing" "$node" content publish "$sample" --rpc-url "$rpc"
id=$(printf '%s\n' "$output" | tail -n 1)
say "fetching it back through the relay"
try "fetching" "$node" content get "$id" --from "$from" -o "$dir/fetched.mp4"
cmp "$sample" "$dir/fetched.mp4" || die "the bytes differ" "This must never happen: please report it."

cat <<EOT

It works: the video came back through the relay, byte for byte ($(wc -c <"$sample") bytes), $(passed) s after the start.

  validator and super-node   JSON-RPC http://127.0.0.1:$v_rpc   metrics http://127.0.0.1:$v_prom/metrics
  relay                      JSON-RPC http://127.0.0.1:$r_rpc   metrics http://127.0.0.1:$r_prom/metrics
  the video                  $dir/fetched.mp4
                             content $id
  logs                       $dir/validator.log, $dir/relay.log

Try next:
  $node content publish YOUR_VIDEO --rpc-url $rpc
  $node content get $id --from $from -o again.mp4
  $node content list --rpc-url $rpc
EOT
[ $once = no ] || exit 0
on_signal=0
printf '\nBoth nodes go on running. Ctrl-C stops them and removes %s.\n' "$dir"
wait -n "${pids[@]}" || true
die "a node ended by itself" "Its log, in $dir, says why."
