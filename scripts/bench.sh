#!/usr/bin/env bash
# Builds the benchmarks in release and runs them: one JSON object a line on standard output, progress
# on standard error.
#
#   scripts/bench.sh [GROUP] [NAME ...] [--quick] [--compare FILE]
#
#   GROUP           chain, or all (which is what there is); the default is all
#   NAME            only the benchmarks whose name begins with one of these, such as chain.feed
#   --quick         smaller numbers of everything, under two minutes a group
#   --compare FILE  afterwards, on standard error, each number beside that of an earlier run
#
# It never fails because of a number: 1 means that a benchmark could not run, 2 that there is none of
# that group or name. BENCHMARKS.md says what the numbers mean.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

# Each group's programs: package, target, and what the names of its results begin with.
chain="nsn-node:chain:chain.feed,chain.snapshot,chain.slash_to_score_ms
    pallet-audits:liars:chain.liars nsn-runtime:report_weight:chain.report_block_weight"

# A number that became worse by more than this many percent is marked. Two runs on the same machine
# differ by less.
tolerance=10

usage() {
    sed -n '2,13s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
}

group=all
names=()
quick=()
compare=
[ $# -eq 0 ] || case "$1" in
    chain | all)
        group=$1
        shift
        ;;
    overlay | dht | nat | relay)
        say "there are no benchmarks of the group $1 yet; there is: chain"
        exit 2
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
        chain.*) names+=("$1") ;;
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

builds=()
for program in $chain; do
    IFS=: read -r package target _ <<<"$program"
    builds+=(-p "$package" --bench "$target")
done
step "building the benchmarks of $group in release (cold: about 25 minutes on 2 cores, warm: seconds)"
# Always all of them: another selection of packages turns on other features of dependencies, and
# would build those anew. What was built is run as it is, for the same reason.
built=$(cargo bench --locked --no-run --message-format json-render-diagnostics "${builds[@]}" |
    jq -r 'select(.executable != null and .target.kind == ["bench"]) | "\(.target.name):\(.executable)"') ||
    die "the benchmarks could not be built"

results=$(mktemp)
trap 'rm -f "$results"' EXIT
failed=()
for program in $chain; do
    IFS=: read -r package target prints <<<"$program"
    wanted "$prints" || continue
    step "running $target of $package"
    executable=$(sed -n "s/^$target://p" <<<"$built")
    # Some print more than they are asked for, and what is no result goes where progress goes.
    "$executable" ${names[@]+"${names[@]}"} ${quick[@]+"${quick[@]}"} |
        awk -v results="$results" -v names="${names[*]-}" '
            BEGIN { count = split(names, wanted, " ") }
            /^{/ {
                match($0, "\"bench\" *: *\"[^\"]*"); name = substr($0, RSTART, RLENGTH)
                sub(".*\"", "", name)
                for (i = 1; i <= count && index(name, wanted[i]) != 1; i++);
                if (count == 0 || i <= count) { print; fflush(); print >> results; next }
            }
            { print > "/dev/stderr" }' || failed+=("$target of $package")
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
