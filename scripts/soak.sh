#!/usr/bin/env bash
# The whole job under load and churn for hours, and what it does to memory, descriptors and latency.
#
#   scripts/soak.sh [--hours H]
#
# A validator that is the super-node, a relay with a small cache, and a second relay that is killed and
# started again all the time. Viewers come, play, seek and go; new content is published every few
# minutes. Prints one JSON object a line on standard output, in the form of scripts/bench.sh, and progress
# on standard error. A number never makes it fail; it fails when a node dies that nobody killed, or
# when the job stops being done. `--hours 0.2` is a try; what counts is an hour and more.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

hours=1
while [ $# -gt 0 ]; do
    case "$1" in
        --hours)
            hours=${2:?"--hours wants a number"}
            [[ $hours =~ ^[0-9]+(\.[0-9]+)?$ ]] || die "--hours wants a number, not $hours"
            shift
            ;;
        -h | --help)
            sed -n '2,11s/^# \{0,1\}//p' "$0"
            exit
            ;;
        *) die "unknown argument $1" "Usage: scripts/soak.sh [--hours H]" ;;
    esac
    shift
done

# Seconds of one round: viewers play through it, and at its end the second relay is ended.
round=60
# Every how many rounds there is something new to watch.
publish_every=3
# What a relay may cache on disk and in memory. The contents are larger after some rounds, so it evicts;
# and what fills memory on purpose is full long before growth counts.
cache=256MiB
memory=$((64 * 1024 * 1024))
content_bytes=$((24 * 1024 * 1024))
# Contents to choose from.
newest=16
# From here on, growth counts: a third of it all, at least two rounds and at most half an hour.
seconds=$(awk -v h="$hours" 'BEGIN { printf "%d", h * 3600 }')
warm=$((seconds / 3))
[ $warm -le 1800 ] || warm=1800
[ $warm -ge $((2 * round)) ] || warm=$((2 * round))
[ "$seconds" -ge $((6 * round)) ] || die "that is too short to say anything" "0.1 hours at least."

scripts/setup.sh
nsn_env
node=${NSN_NODE:-}
load=${NSN_LOAD:-}
if [ -z "$node" ] || [ -z "$load" ]; then
    step "building in release (cold: about 25 minutes on 2 cores)"
    cargo build --locked --release -p nsn-node -p nsn-relay --bin nsn-node --bin nsn-load
    node="$CARGO_TARGET_DIR/release/nsn-node"
    load="$CARGO_TARGET_DIR/release/nsn-load"
fi
[ -x "$node" ] || die "there is no program $node"
[ -x "$load" ] || die "there is no program $load"

dir=$(mktemp -d "${TMPDIR:-/tmp}/nsn-soak.XXXXXX")
declare -A pid=()
viewers=

cleanup() {
    local status=$1
    trap - EXIT INT TERM
    [ -z "$viewers" ] || kill "$viewers" 2>/dev/null || true
    if [ ${#pid[@]} -gt 0 ]; then
        kill "${pid[@]}" 2>/dev/null || true
        wait "${pid[@]}" 2>/dev/null || true
    fi
    if [ "$status" = 0 ]; then
        rm -rf "$dir"
    else
        say "logs and samples are left in $dir"
    fi
    exit "$status"
}
trap 'cleanup $?' EXIT
trap 'cleanup 130' INT TERM

in_use() {
    local hex
    hex=$(printf ':%04X' "$1")
    awk -v port="$hex" 'substr($2, length($2) - 4) == port { found = 1 } END { exit !found }' \
        /proc/net/tcp /proc/net/tcp6 /proc/net/udp /proc/net/udp6 2>/dev/null
}

next_port=21000
take_port() {
    while in_use "$next_port"; do next_port=$((next_port + 1)); done
    printf -v "$1" %s "$next_port"
    next_port=$((next_port + 1))
}

declare -A rpc=() p2p=() overlay=() shards=() peer=()
for name in validator relay second; do
    for kind in rpc p2p overlay shards; do take_port "$kind[$name]"; done
    "$node" key generate-node-key --file "$dir/$name.key" 2>/dev/null
    peer[$name]=$("$node" key inspect-node-key --file "$dir/$name.key")
done

# Starts the node $1 with the flags that follow. Its log goes on where it was. What Substrate caches is
# small, so that it is full before growth counts too.
start() {
    local name=$1
    shift
    "$node" --chain dev --name "$name" --base-path "$dir/$name" --node-key-file "$dir/$name.key" \
        --port "${p2p[$name]}" --rpc-port "${rpc[$name]}" --no-prometheus --no-mdns --no-telemetry \
        --detailed-log-output --trie-cache-size $((16 * 1024 * 1024)) --db-cache 16 \
        --overlay-listen-addr "/ip4/127.0.0.1/udp/${overlay[$name]}/quic-v1" \
        --overlay-listen-addr "/ip4/127.0.0.1/tcp/${overlay[$name]}" \
        --shard-listen-addr "127.0.0.1:${shards[$name]}" "$@" >>"$dir/$name.log" 2>&1 &
    pid[$name]=$!
}

start_relay() {
    start "$1" --relay --relay-cache-size "$cache" --nsn-config "$dir/relay.toml" \
        --bootnodes "/ip4/127.0.0.1/tcp/${p2p[validator]}/p2p/${peer[validator]}" \
        --overlay-bootnodes "/ip4/127.0.0.1/udp/${overlay[validator]}/quic-v1/p2p/${peer[validator]}"
}

# The services open a moment after the node has started, so a few tries.
try() {
    local what=$1 tries=0
    shift
    until output=$("$@" 2>"$dir/last-error"); do
        tries=$((tries + 1))
        if [ $tries -gt 150 ]; then
            cat "$dir/last-error" >&2
            die "$what failed" "The logs are in $dir."
        fi
        sleep 0.2
    done
}

publish() {
    head -c "$content_bytes" /dev/urandom >"$dir/new.bin"
    try "publishing" "$node" content publish "$dir/new.bin" --rpc-url "http://127.0.0.1:${rpc[validator]}"
    contents+=("$(printf '%s\n' "$output" | tail -n 1)")
    [ ${#contents[@]} -le $newest ] || contents=("${contents[@]: -$newest}")
}

at() {
    printf '/ip4/127.0.0.1/udp/%s/quic-v1/p2p/%s' "${shards[$1]}" "${peer[$1]}"
}

# Anonymous memory in MB and open descriptors of the long-lived nodes.
sample() {
    local name anon fds
    for name in validator relay; do
        kill -0 "${pid[$name]}" 2>/dev/null || die "the $name has died" "Its log is $dir/$name.log."
        anon=$(awk '/^RssAnon/ { printf "%.2f", $2 / 1024 }' "/proc/${pid[$name]}/status")
        fds=$(find "/proc/${pid[$name]}/fd" -maxdepth 1 2>/dev/null | wc -l)
        printf '%s %s %s\n' $((SECONDS - began)) "$anon" "$fds" >>"$dir/$name.samples"
    done
}

# The slope of column $2 of the file $1 over its first column, in so much an hour, by least squares,
# from the second $3 on.
slope() {
    awk -v column="$2" -v from="$3" '
        $1 >= from { n++; x += $1; y += $column; xx += $1 * $1; xy += $1 * $column }
        END {
            d = n * xx - x * x
            if (d > 0) slope = (n * xy - x * y) / d * 3600
            printf "%.3f", slope
        }' "$1"
}

# The largest of column $2 of the file $1 from the second $3 on.
largest() {
    awk -v column="$2" -v from="$3" '$1 >= from && $column > m { m = $column } END { print m + 0 }' "$1"
}

printf '[shards.cache]\nmemory = %s\n' "$memory" >"$dir/relay.toml"
step "starting a validator, a relay and a second relay"
start validator --alice --validator --force-authoring --super-node
try "the first JSON-RPC call" "$node" content list --rpc-url "http://127.0.0.1:${rpc[validator]}"
start_relay relay
start_relay second
contents=()
publish
try "the first fetch" "$node" content get "${contents[0]}" --from "$(at relay)" -o "$dir/fetched.bin"
cmp "$dir/new.bin" "$dir/fetched.bin" || die "the bytes differ" "This must never happen: please report it."

began=$SECONDS
rounds=0
kills=0
while [ $((SECONDS - began)) -lt "$seconds" ]; do
    rounds=$((rounds + 1))
    if [ $((rounds % publish_every)) = 0 ]; then publish; fi
    content=${contents[$((RANDOM % ${#contents[@]}))]}
    step "round $rounds of about $(((seconds + round - 1) / round))"
    round_at=$((SECONDS - began))
    "$load" view --against "$(at relay)" --content "$content" --viewers 40 --ramp 10 --rate 1 \
        --seek-every 5 --duration $((round - 8)) --sources 20 --seed "$rounds" \
        >"$dir/load.jsonl" 2>>"$dir/load.err" &
    viewers=$!
    while kill -0 "$viewers" 2>/dev/null; do
        sample
        sleep 5
    done
    wait "$viewers" || die "the viewers could not play" "$dir/load.err says why."
    viewers=
    tail -n 1 "$dir/load.jsonl" | jq -r --arg at "$round_at" \
        '[$at, .rest.first_byte_ms.p50, .rest.first_byte_ms.p99, .counts.stalls, .counts.lost] | map(. // 0) | join(" ")' \
        >>"$dir/rounds"
    # What was fetched through the second relay is right, and then that is ended, now so, now so.
    try "fetching through the second relay" \
        "$node" content get "$content" --from "$(at second)" -o "$dir/second.bin"
    rm -f "$dir/second.bin"
    signal=TERM
    [ $((rounds % 2)) = 0 ] || signal=KILL
    kill -"$signal" "${pid[second]}"
    wait "${pid[second]}" 2>/dev/null || true
    kills=$((kills + 1))
    start_relay second
done
sample

# What a person would be shown as an error: by level, of the two that were never ended, and panics of
# any of them.
errors=$(cat "$dir/validator.log" "$dir/relay.log" | grep -cE ' ERROR | panicked at ' || true)
panics=$(grep -c ' panicked at ' "$dir/second.log" || true)
warnings=$({ grep -h ' WARN ' "$dir/validator.log" "$dir/relay.log" || true; } |
    sed -E 's/^[^W]*WARN +//; s/[0-9a-zA-Z]{20,}/ID/g; s/[0-9.]+/N/g' | sort | uniq -c | sort -rn |
    head -n 10 | jq -R . | jq -sc .)

result() {
    jq -cn --arg bench "$1" --argjson value "$2" --arg unit "$3" --argjson target "$4" --argjson detail "$5" \
        '{bench: $bench, value: $value, unit: $unit, better: "lower", target: $target, detail: $detail}'
}

for name in validator relay; do
    samples=$dir/$name.samples
    detail=$(jq -cn --argjson hours "$hours" --argjson warm "$warm" \
        --argjson most "$(largest "$samples" 2 0)" \
        --argjson last "$(tail -n 1 "$samples" | cut -d' ' -f2)" --argjson rounds "$rounds" \
        '{hours: $hours, warm_up_s: $warm, most_mb: $most, last_mb: $last, rounds: $rounds}')
    result "soak.memory.$name" "$(slope "$samples" 2 "$warm")" "MB/h" 10 "$detail"
    detail=$(jq -cn --argjson most "$(largest "$samples" 3 "$warm")" '{most: $most}')
    result "soak.descriptors.$name" "$(slope "$samples" 3 "$warm")" "descriptors/h" null "$detail"
done
detail=$(jq -cn --argjson p50 "$(slope "$dir/rounds" 2 "$warm")" --argjson most "$(largest "$dir/rounds" 3 0)" \
    '{p50_slope_ms_per_h: $p50, largest_p99_ms: $most}')
result soak.latency "$(slope "$dir/rounds" 3 "$warm")" "ms/h of the rounds' time to first byte, p99" null "$detail"
result soak.stalls "$(awk '{ sum += $4 } END { print sum + 0 }' "$dir/rounds")" "stalls" 0 \
    "$(awk '{ lost += $5 } END { printf "{\"lost\": %d}", lost }' "$dir/rounds")"
result soak.errors "$((errors + panics))" "errors in the logs" 0 \
    "$(jq -cn --argjson warnings "$warnings" --argjson kills "$kills" '{restarts_of_the_second_relay: $kills, warnings: $warnings}')"
