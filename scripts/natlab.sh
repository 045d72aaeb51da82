#!/usr/bin/env bash
# A lab of real NATs on one machine: network namespaces, NATs of nftables, coturn and miniupnpd. It
# proves that each NAT is what it says, and runs nodes behind them.
#
#   scripts/natlab.sh COMMAND
#
#   selftest            measures every kind of NAT, STUN, TURN, UPnP and the faults: one JSON object
#                       a line, and what failed in words; under a minute
#   matrix [CELL ...] [--no-stun] [--turn] [--json] [--must arrive|best] [--parallel N]
#                       for each pair of kinds, moves 1 MiB of video from a node behind the one to
#                       a node behind the other, and says how and how fast: a table, or JSON. A CELL
#                       is A.B, such as open.symmetric, or A alone for its row. --no-stun: all STUN
#                       servers are dead; --turn: the nodes are given the lab's TURN server, and
#                       where no hole can be punched it is waited for that they meet there; --must
#                       arrive: fails where a cell did not come over within 20 s; --must best: and
#                       where one is slower than its target, or relayed although its NATs allow better;
#                       --parallel: N cells of a row at once; --keep: leaves the logs. With NSN_NODE in
#                       the environment that program is taken instead of one built here
#
#   times [cold_start] [rebind] [--kinds KIND,KIND...] [--json] [--strict] [--keep]
#                       for each kind of NAT: how soon a new node has its first connection, and how
#                       soon two nodes are connected again when one's address on the internet changed;
#                       --strict: fails where one missed its target
#
#   up SITE=KIND ...    makes a lab and leaves it there; prints its name. A site is a host behind a
#                       NAT of the kind: open, full_cone, port_restricted, symmetric, double,
#                       udp_blocked, upnp
#   down                takes it down again, with all that runs in it
#   exec SITE COMMAND   runs a command on the host of a site, on its NAT (SITE.nat), or on `boot`
#   sites               the sites, their kinds and their addresses on the internet
#   counters            what the NATs and the faults have counted, as JSON
#
#   rebind SITE         gives the site another address; its NAT forgets all mappings
#   rebind SITE mapping only the mappings
#   kill-stun, revive-stun
#                       the STUN servers fall silent, or speak again
#   loss SITE PERCENT   packets lost, each way
#   rate SITE KBIT      kbit/s, each way
#   delay SITE MS       milliseconds more, each way
#
# Where there are several labs, --lab NAME goes first. Each has `boot` at 11.200.0.1 with STUN and
# TURN on port 3478. Wants root and Linux; installs what it runs (scripts/setup.sh --natlab).
# Nothing leaves the lab, and the machine's own network is left alone. Where it cannot run,
# `selftest`, `matrix` and `times` say why and pass; with NSN_REQUIRE_NATLAB=1 they fail.
set -euo pipefail
natlab=$(realpath "${BASH_SOURCE[0]}")
cd "$(dirname "$natlab")/.."
. scripts/lib.sh
. scripts/natlab/lab.sh
. scripts/natlab/nats.sh
. scripts/natlab/servers.sh
PATH="$PATH:/usr/sbin:/sbin"
# No compiled Python in the checkout.
export PYTHONDONTWRITEBYTECODE=1

usage() {
    sed -n '2,44s/^# \{0,1\}//p' "$natlab"
}

# Whether this machine can make a lab; sets `reason` if not.
can_run() {
    reason=
    if [ "$(uname -s)" != Linux ]; then
        reason="network namespaces are of Linux, and this is $(uname -s)"
    elif [ "$(id -u)" != 0 ]; then
        reason="making network namespaces needs root"
    elif ! have ip || ! have nft; then
        reason="ip or nft is not there (scripts/setup.sh --natlab installs them)"
    else
        local probe="nsnlab-$$-probe"
        if ! ip netns add "$probe" 2>/dev/null; then
            reason="this process may not make network namespaces (a container needs --privileged)"
        else
            # One rule of each sort that the lab needs of the kernel.
            ip netns exec "$probe" nft -f - 2>/dev/null <<RULES ||
                table inet probe {
                    chain postrouting {
                        type nat hook postrouting priority srcnat;
                        meta l4proto udp masquerade fully-random
                    }
                }
                table bridge probe {
                    chain forward {
                        type filter hook forward priority filter;
                        numgen random mod 100 < 1 drop
                    }
                }
RULES
                reason="the kernel lacks NAT by nftables, or nftables for bridges"
            ip link add name a netns "$probe" type veth peer name b netns "$probe" 2>/dev/null ||
                reason="the kernel lacks veth"
            ip netns delete "$probe"
        fi
    fi
    [ -z "$reason" ]
}

# Ends a test that cannot run: a failure only where it must run.
skip_or_fail() {
    [ "${NSN_REQUIRE_NATLAB:-}" != 1 ] ||
        die "the NAT lab cannot run here: $reason" "NSN_REQUIRE_NATLAB=1 makes that a failure."
    say "SKIPPED, nothing was tested: the NAT lab cannot run here: $reason"
    exit 0
}

# Runs a program that measures, so that a signal does not have to wait for its end.
measuring=
measure() {
    local status=0
    python3 "$@" &
    measuring=$!
    wait "$measuring" || status=$?
    measuring=
    return $status
}

finish() {
    trap - EXIT
    # Whoever is impatient would leave half a lab.
    trap '' INT TERM HUP
    [ -z "$measuring" ] || kill "$measuring" 2>/dev/null || true
    end_lab
    [ -z "$measuring" ] || wait "$measuring" || true
    exit "$1"
}

# Makes the lab of this process, to be taken down when it ends, with the sites $@ (NAME=KIND).
make_lab() {
    local site
    remove_leftovers
    trap 'finish $?' EXIT
    trap 'exit 130' INT TERM HUP
    begin_lab "$owned"
    make_internet
    for site in "$@"; do
        [[ $site == *=* ]] || die "a site is NAME=KIND, not $site" "Kinds: $kinds"
        add_site "${site%%=*}" "${site#*=}"
    done
    start_coturn
}

# What a lab must not change of the machine's own network.
machine() {
    ip -o link show | cut -d: -f2
    ip -o -4 address show | awk '{ print $2, $4 }'
    ip route show table all
    nft list ruleset
    cat /proc/sys/net/ipv4/ip_forward
}

owned=
named=
if [ "${1:-}" = --lab ]; then
    named=${2:?"--lab wants a name"}
    shift 2
fi
command=${1:-}
[ $# -eq 0 ] || shift

case "$command" in
    selftest | matrix | times)
        # What is missing may only have to be installed.
        can_run || [ "$(id -u)" != 0 ] || { scripts/setup.sh --natlab && can_run; } || true
        [ -z "$reason" ] || skip_or_fail
        scripts/setup.sh --natlab
        ;;
    up)
        scripts/setup.sh --natlab
        can_run || die "the NAT lab cannot run here: $reason"
        ;;
    down | exec | sites | counters | machine | rebind | kill-stun | revive-stun | loss | rate | \
        delay)
        [ "$(id -u)" = 0 ] || die "the NAT lab needs root"
        choose_lab "$named"
        ;;
    -h | --help | help)
        usage
        exit
        ;;
    *) die "unknown command ${command:-(none)}" "$(usage)" ;;
esac

case "$command" in
    selftest)
        [ $# -eq 0 ] || die "selftest takes nothing, and was given $1"
        step "making a lab with two sites of each kind of NAT (seconds)"
        before=$(machine)
        sites=()
        for kind in $kinds; do sites+=("${kind}_1=$kind" "${kind}_2=$kind"); done
        make_lab "${sites[@]}"
        printf '%s\n' "$before" >"$lab_dir/machine"
        step "measuring (about half a minute)"
        measure scripts/natlab/selftest.py "$lab_dir" "$natlab" "$lab_dir/machine"
        ;;
    matrix | times)
        # Wrong arguments before anything is made.
        python3 "scripts/natlab/$command.py" --check "$@"
        nsn_env
        if [ -z "${NSN_NODE:-}" ]; then
            step "building nsn-node (cold: about 15 minutes on 2 cores, warm: seconds)"
            cargo build --locked -p nsn-node
            NSN_NODE="$CARGO_TARGET_DIR/debug/nsn-node"
        fi
        [ -x "$NSN_NODE" ] || die "there is no program $NSN_NODE"
        export NSN_NODE
        step "making a lab with two sites of each kind of NAT (seconds)"
        sites=()
        for kind in $kinds; do
            [ "$kind" = upnp ] || sites+=("a_$kind=$kind" "b_$kind=$kind")
        done
        make_lab "${sites[@]}"
        case "$command" in
            matrix) step "moving video (about a quarter of a minute a cell)" ;;
            times) step "starting nodes and moving them (about ten minutes, a minute a kind)" ;;
        esac
        measure "scripts/natlab/$command.py" "$lab_dir" "$natlab" "$@"
        ;;
    up)
        [ $# -gt 0 ] || die "up wants sites, such as: a=symmetric b=open" "Kinds: $kinds"
        owned=kept
        make_lab "$@"
        trap - EXIT
        echo "$lab"
        ;;
    down) end_lab ;;
    exec)
        [ $# -ge 2 ] || die "exec wants a site and a command"
        where=$(ns "$1")
        # The NATs too, for whoever looks into them: a.nat, a.home.
        [ -e "/run/netns/$where" ] || need_site "$1"
        shift
        exec ip netns exec "$where" "$@"
        ;;
    sites)
        while read -r name kind number generation; do
            echo "$name $kind 11.$number.0.$generation"
        done <"$lab_dir/sites"
        ;;
    rebind)
        need_site "${1:-}"
        case "${2:-}" in
            "" | mapping) rebind "$@" ;;
            *) die "rebind takes nothing more than 'mapping', and was given $2" ;;
        esac
        ;;
    kill-stun) kill_stun ;;
    revive-stun) revive_stun ;;
    loss | rate | delay)
        need_site "${1:-}"
        [[ ${2:-} =~ ^[0-9]{1,7}$ ]] || die "$command wants a site and a whole number"
        case "$command" in
            loss)
                [ "$2" -le 100 ] || die "no more than 100 percent can be lost"
                lose "$1" "$2"
                ;;
            rate) limit_rate "$1" "$2" ;;
            delay) delay "$1" "$2" ;;
        esac
        ;;
    counters) counters ;;
    machine) machine ;;
esac
