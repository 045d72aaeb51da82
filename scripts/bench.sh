#!/usr/bin/env bash
# Builds the benchmarks in release and runs them: one JSON object a line on standard output, progress
# on standard error.
#
#   scripts/bench.sh [GROUP] [NAME ...] [--quick] [--compare FILE]
#
#   GROUP           chain, overlay, dht, relay, nat, or all; the default is all
#   NAME            only the benchmarks whose name begins with one of these, such as chain.feed
#   --quick         smaller numbers of everything, under two minutes a group
#   --compare FILE  afterwards, on standard error, each number beside that of an earlier run
#
# overlay.slots_missed floods a whole node: the one that NSN_NODE names, or one that is built with the
# benchmarks. nat.matrix and nat.nostun run nodes in the NAT lab (scripts/natlab.sh), which wants root;
# with --quick six cells of it, in which each kind of NAT is once on either side.
#
# It never fails because of a number: 1 means that a benchmark could not run, 2 that there is none of
# that group or name. BENCHMARKS.md says what the numbers mean.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

# Each group's programs: package, target, and what the names of its results begin with.
chain="nsn-node:chain:chain.feed,chain.snapshot,chain.slash_to_score_ms
    pallet-audits:liars:chain.liars nsn-runtime:report_weight:chain.report_block_weight"
overlay="nsn-p2p:overlay:overlay."
dht="nsn-p2p:dht:dht."
relay="nsn-relay:relay:relay."
nat="nsn-p2p:nat:nat.leak,nat.dial100_s"
groups="chain overlay dht relay nat"

# What --quick runs of the NAT lab's 36 cells.
quick_cells="open.symmetric full_cone.double port_restricted.port_restricted symmetric.full_cone
    double.udp_blocked udp_blocked.open"

# A number that became worse by more than this many percent is marked. Two runs on the same machine
# differ by less.
tolerance=10

usage() {
    sed -n '2,17s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
}

group=all
names=()
quick=()
compare=
[ $# -eq 0 ] || case "$1" in
    chain | overlay | dht | relay | nat | all)
        group=$1
        shift
        ;;
esac
while [ $# -gt 0 ]; do
    case "$1" in
        --quick) quick=(--quick) ;;
        --compare)
            compare=${2:?"--compare wants a file"}
            [ -r "$compare" ] || die "cannot read $compare" "It is what an earlier run printed."
            shift
            ;;
        -h | --help)
            usage
            exit
            ;;
        chain.* | overlay.* | dht.* | relay.* | nat.*) names+=("$1") ;;
        *)
            say "no benchmark and no option is named $1"
            usage >&2
            exit 2
            ;;
    esac
    shift
done

# Sets the run in file $2 beside the one in file $1.
beside() {
    awk -v tolerance=$tolerance '
        # The value of a top-level key: the first of that name, since "detail" comes last.
        function field(key,    at) {
            if (!match($0, "\"" key "\" *: *(\"[^\"]*\"|[-+.0-9eE]+)")) return ""
            at = substr($0, RSTART, RLENGTH)
            sub("^\"" key "\" *: *\"?", "", at)
            sub("\"$", "", at)
            return at
        }
        !/^{/ { next }
        FNR == NR { before[field("bench")] = field("value"); next }
        {
            name = field("bench"); now = field("value"); better = field("better")
            target = field("target"); mark = ""
            missed = better == "higher" ? now + 0 < target + 0 : now + 0 > target + 0
            if (target != "" && missed) mark = "  target missed: " target
            if (!(name in before)) {
                printf "%-40s %14s %14s %9s%s\n", name, "-", now, "new", mark
                next
            }
            was = before[name]
            change = was == 0 ? 0 : (now - was) / (was < 0 ? -was : was) * 100
            worse = better == "higher" ? -change : change
            if (worse > tolerance) mark = "  WORSE" mark
            printf "%-40s %14s %14s %+8.1f%%%s\n", name, was, now, change, mark
            delete before[name]
        }' "$1" "$2"
}

scripts/setup.sh
nsn_env

# Whether one of the names asked for is among those that begin with one of $1, separated by commas.
wanted() {
    local name prefix
    [ ${#names[@]} -gt 0 ] || return 0
    for name in "${names[@]}"; do
        for prefix in ${1//,/ }; do
            [[ $name == "$prefix"* || $prefix == "$name"* ]] && return 0
        done
    done
    return 1
}

# Whether a result of the name $1 was asked for.
asked() {
    local name
    [ ${#names[@]} -gt 0 ] || return 0
    for name in "${names[@]}"; do
        [[ $1 != "$name"* ]] || return 0
    done
    return 1
}

[ "$group" = all ] || groups=$group
results=$(mktemp)
trap 'rm -f "$results"' EXIT
failed=()

# Builds and runs the programs of one group.
run_group() {
    local program package target prints executable built programs=${!1} builds=() any=
    for program in $programs; do
        IFS=: read -r package target prints <<<"$program"
        builds+=(-p "$package" --bench "$target")
        ! wanted "$prints" || any=yes
    done
    [ -n "$any" ] || return 0
    # What is flooded as a whole is built with what floods it.
    [ "$1" != overlay ] || [ -n "${NSN_NODE:-}" ] || builds+=(-p nsn-node --bin nsn-node)
    step "building the benchmarks of $1 in release (cold: about 25 minutes on 2 cores, warm: seconds)"
    # Always all of a group: another selection of packages turns on other features of dependencies, and
    # would build those anew. What was built is run as it is, for the same reason.
    built=$(cargo build --release --locked --message-format json-render-diagnostics "${builds[@]}" |
        jq -r 'select(.executable != null) | "\(.target.kind[0]):\(.target.name):\(.executable)"') ||
        die "the benchmarks could not be built"
    [ "$1" != overlay ] || : "${NSN_NODE:=$(sed -n 's/^bin:nsn-node://p' <<<"$built")}"
    export NSN_NODE
    for program in $programs; do
        IFS=: read -r package target prints <<<"$program"
        wanted "$prints" || continue
        step "running $target of $package"
        executable=$(sed -n "s/^bench:$target://p" <<<"$built")
        "$executable" ${names[@]+"${names[@]}"} ${quick[@]+"${quick[@]}"} | take_results ||
            failed+=("$target of $package")
    done
}

# Some print more than they are asked for, and what is no result goes where progress goes. A line at a
# time: whoever waits twenty minutes wants to see each when it is there.
take_results() {
    local line name
    while IFS= read -r line; do
        [[ $line == {* ]] || { printf '%s\n' "$line" >&2 && continue; }
        name=$(jq -r .bench <<<"$line")
        ! asked "$name" || printf '%s\n' "$line" | tee -a "$results"
    done
}

# Runs nodes in the NAT lab: the whole matrix, or the cells that were asked for, with and without STUN.
run_nat() {
    local series name cells silent
    wanted nat.matrix,nat.nostun,nat.cold_start_s,nat.rebind_s || return 0
    if [ -z "${NSN_NODE:-}" ]; then
        step "building nsn-node in release (cold: about 25 minutes on 2 cores, warm: seconds)"
        cargo build --release --locked -p nsn-node || die "the node could not be built"
        NSN_NODE="$CARGO_TARGET_DIR/release/nsn-node"
    fi
    export NSN_NODE
    for series in matrix nostun; do
        wanted "nat.$series" || continue
        cells=()
        for name in ${names[@]+"${names[@]}"}; do
            # A name is a cell, a row, or the worst of all.
            [[ $name != "nat.$series."* || $name == *.worst_s ]] || cells+=("${name#"nat.$series."}")
        done
        # shellcheck disable=SC2206 # a list of words
        [ ${#cells[@]} -gt 0 ] || [ ${#quick[@]} -eq 0 ] || cells=($quick_cells)
        silent=()
        [ $series = matrix ] || silent=(--no-stun)
        NSN_REQUIRE_NATLAB=1 scripts/natlab.sh matrix --json ${silent[@]+"${silent[@]}"} \
            ${cells[@]+"${cells[@]}"} | take_results || failed+=("nat.$series")
    done
    local measure measures=()
    for measure in cold_start rebind; do
        ! wanted "nat.${measure}_s" || measures+=("$measure")
    done
    [ ${#measures[@]} -eq 0 ] || NSN_REQUIRE_NATLAB=1 scripts/natlab.sh times --json \
        "${measures[@]}" ${quick[@]+--kinds open,port_restricted} | take_results ||
        failed+=(nat.times)
}

for each in $groups; do
    run_group "$each"
    [ "$each" != nat ] || run_nat
done

if [ -n "$compare" ]; then
    printf '\n%-40s %14s %14s %9s\n' benchmark before now change >&2
    beside "$compare" "$results" >&2
fi
[ ${#failed[@]} -eq 0 ] || die "could not run: ${failed[*]}" "Its output, above, says why."
if [ ! -s "$results" ]; then
    say "no benchmark of the group $group is named ${names[*]}"
    exit 2
fi
