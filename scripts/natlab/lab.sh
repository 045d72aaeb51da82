# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # names are shared with the other parts
# The lab's namespaces, links and life. To be sourced by scripts/natlab.sh.
#
# Everything is in network namespaces of the lab's own: a bridge that plays the internet, `boot`
# with the servers that everybody knows, and for each site its host and, where its kind has one, its
# NAT. The machine's own network has no part in it, so nothing leaves.
#
#   11.0.0.0/8      the internet: one network, on which everybody is reached directly. Addresses of
#                   it look globally routable (miniupnpd and libp2p refuse what does not), and each
#                   site has a /16 of its own, since nodes count networks by /16
#   11.0.0.1        its router, which answers and forwards nothing
#   11.200.0.1, 11.201.0.1
#                   boot: STUN with both addresses (RFC 5780), TURN
#   11.250.0.0/16   a black hole: takes everything, answers nothing
#   11.N.0.1        site N, as the internet sees it; 11.N.0.2 and so on after a rebind
#   192.168.N.0/24  the network behind a NAT: .1 is the NAT, .2 the host
#   100.64.N.0/24   between the two NATs of a double one

# A folder for each lab: who made it, its sites, the processes it started and their logs.
lab_root=/run/nsn-natlab

# Sites have the numbers 1 to 99.
max_sites=99

boot_address=11.200.0.1
boot_second=11.201.0.1
# The second port of RFC 5780 is the next one.
stun_port=3478
# Not secret: it opens nothing outside of the lab.
turn_user=lab
turn_password=natlab

# ---- namespaces ---------------------------------------------------------------------------------

ns() {
    echo "nsnlab-$lab-$1"
}

in_ns() {
    local where=$1
    shift
    ip netns exec "$(ns "$where")" "$@"
}

# `ip` for the namespace $1.
ip_in() {
    local where=$1
    shift
    ip -n "$(ns "$where")" "$@"
}

# Makes the namespace $1; with "forward" as $2, a router. IPv4 alone: the NATs are of IPv4.
make_ns() {
    local forwards=0
    [ "${2:-}" != forward ] || forwards=1
    ip netns add "$(ns "$1")"
    ip_in "$1" link set lo up
    # The bridge's own frames are not to be filtered by rules for IP.
    in_ns "$1" sh -c "
        echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6
        echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6
        echo $forwards >/proc/sys/net/ipv4/ip_forward
        ! [ -e /proc/sys/net/bridge/bridge-nf-call-iptables ] ||
            echo 0 >/proc/sys/net/bridge/bridge-nf-call-iptables"
}

# Links namespace $1, interface $2, with namespace $3, interface $4.
link_ns() {
    ip link add name "$2" netns "$(ns "$1")" type veth peer name "$4" netns "$(ns "$3")"
    ip_in "$1" link set "$2" up
    ip_in "$3" link set "$4" up
}

# Puts interface $2 of namespace $1 on the internet, as the site with number $3, under its first
# address.
join_internet() {
    link_ns "$1" "$2" wan "port$3"
    ip_in wan link set "port$3" master internet
    ip_in "$1" address add "11.$3.0.1/8" dev "$2"
    ip_in "$1" route add default via 11.0.0.1
}

# Gives the namespace $1, on its interface $5, a network with its router $2, there on interface $3:
# network $4 of /24.
join_network() {
    local interface=${5:-eth0}
    link_ns "$1" "$interface" "$2" "$3"
    ip_in "$2" address add "$4.1/24" dev "$3"
    ip_in "$1" address add "$4.2/24" dev "$interface"
    ip_in "$1" route add default via "$4.1"
}

make_internet() {
    make_ns wan
    ip_in wan link add name internet type bridge
    ip_in wan link set internet up
    ip_in wan address add 11.0.0.1/8 dev internet
    # Answers ARP for all of it, so that who sends there waits, instead of hearing that nobody is.
    ip_in wan route add local 11.250.0.0/16 dev lo
    internet_rules
    make_ns boot
    join_internet boot eth0 200
    ip_in boot address add $boot_second/8 dev eth0
}

# ---- sites --------------------------------------------------------------------------------------

# Adds the site $1 of the kind $2.
add_site() {
    local name=$1 kind=$2 number
    number=$(($(wc -l <"$lab_dir/sites") + 1))
    [[ $name =~ ^[a-z][a-z0-9_]{0,30}$ ]] || die "a site cannot be named $name" \
        "Small letters, digits and underscores, 31 at most, a letter first."
    [ "$name" != wan ] && [ "$name" != boot ] && [ -z "$(site_kind "$name")" ] ||
        die "the lab has a $name already"
    [ "$number" -le $max_sites ] || die "a lab has at most $max_sites sites"
    case "$kind" in
        open)
            make_ns "$name"
            join_internet "$name" eth0 "$number"
            ;;
        full_cone | port_restricted | symmetric | udp_blocked | upnp)
            make_ns "$name.nat" forward
            make_ns "$name"
            join_internet "$name.nat" wan "$number"
            join_network "$name" "$name.nat" lan "192.168.$number"
            nat_rules "$name.nat" "$kind"
            ;;
        double)
            # The provider's NAT and the one at home, both as careful as most are.
            make_ns "$name.nat" forward
            make_ns "$name.home" forward
            make_ns "$name"
            join_internet "$name.nat" wan "$number"
            join_network "$name.home" "$name.nat" lan "100.64.$number" wan
            join_network "$name" "$name.home" lan "192.168.$number"
            nat_rules "$name.nat" port_restricted
            nat_rules "$name.home" port_restricted
            ;;
        *) die "there is no kind of site named $kind" "There are: $kinds" ;;
    esac
    echo "$name $kind $number 1" >>"$lab_dir/sites"
    [ "$kind" != upnp ] || start_miniupnpd "$name.nat" "192.168.$number.1"
}

# The kind of the site $1; nothing if there is none of that name.
site_kind() {
    awk -v name="$1" '$1 == name { print $2 }' "$lab_dir/sites"
}

site_number() {
    awk -v name="$1" '$1 == name { print $3 }' "$lab_dir/sites"
}

# The host part of the site's present address on the internet: one more with each rebind.
site_generation() {
    awk -v name="$1" '$1 == name { print $4 }' "$lab_dir/sites"
}

# The namespace and interface with which the site $1 is on the internet.
edge_of() {
    if [ "$(site_kind "$1")" = open ]; then
        echo "$1 eth0"
    else
        echo "$1.nat wan"
    fi
}

need_site() {
    [ -n "$(site_kind "$1")" ] ||
        die "the lab has no site $1" "It has: $(cut -d' ' -f1 "$lab_dir/sites" | tr '\n' ' ')"
}

# ---- life ---------------------------------------------------------------------------------------

# What tells a process from a later one with the same id: the id and when it was started.
process_identity() {
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    # The name of the program, in brackets, may hold anything; the start is the twentieth after it.
    stat=${stat##*) }
    # shellcheck disable=SC2086 # a list of words
    set -- "$1" $stat
    echo "$1 ${21}"
}

# Begins a lab, named by the id of this process. With "kept" as $1 it stays until it is taken down,
# otherwise it is a leftover as soon as this process is gone.
begin_lab() {
    lab=$$
    lab_dir=$lab_root/$lab
    mkdir -p "$lab_root"
    mkdir "$lab_dir" 2>/dev/null || die "there is a lab $lab already" \
        "scripts/natlab.sh --lab $lab down removes it."
    mkdir "$lab_dir/pids" "$lab_dir/log"
    : >"$lab_dir/sites"
    if [ "${1:-}" = kept ]; then
        echo kept >"$lab_dir/owner"
    else
        process_identity $$ >"$lab_dir/owner"
    fi
}

# Takes the lab down: its processes, then its namespaces, with which all else goes.
end_lab() {
    local name pids tries=0
    pids=$(lab_pids)
    # shellcheck disable=SC2086 # a list of words
    [ -z "$pids" ] || kill -CONT $pids 2>/dev/null || true
    # shellcheck disable=SC2086 # a list of words
    [ -z "$pids" ] || kill -TERM $pids 2>/dev/null || true
    while pids=$(lab_pids) && [ -n "$pids" ]; do
        tries=$((tries + 1))
        # shellcheck disable=SC2086 # a list of words
        [ $tries -ne 50 ] || kill -KILL $pids 2>/dev/null || true
        [ $tries -lt 100 ] || break
        sleep 0.1
    done
    for name in $(lab_namespaces); do ip netns delete "$name" || true; done
    rm -rf "$lab_dir"
}

lab_namespaces() {
    local path
    for path in /run/netns/"nsnlab-$lab-"*; do
        [ ! -e "$path" ] || basename "$path"
    done
}

# What runs in the lab's own namespaces, and nothing else.
lab_pids() {
    local name
    for name in $(lab_namespaces); do ip netns pids "$name" 2>/dev/null; done
}

# Removes labs whose process is gone without having done it.
remove_leftovers() {
    local owner
    for lab_dir in "$lab_root"/*; do
        [ -d "$lab_dir" ] || continue
        lab=$(basename "$lab_dir")
        owner=$(cat "$lab_dir/owner" 2>/dev/null) || owner=
        [ "$owner" != kept ] || continue
        # A lab that is being made has no owner yet for a moment; its process is there, though.
        [ -n "$owner" ] || ! kill -0 "$lab" 2>/dev/null || continue
        [ -z "$owner" ] || [ "$owner" != "$(process_identity "${owner%% *}")" ] || continue
        say "removing the lab $lab, whose process is gone"
        end_lab
    done
    lab=
    lab_dir=
}

# Chooses the lab $1, or the only one there is.
choose_lab() {
    local all
    if [ -n "${1:-}" ]; then
        [[ $1 =~ ^[0-9]+$ ]] && [ -d "$lab_root/$1" ] || die "there is no lab $1"
        lab=$1
    else
        all=$(ls "$lab_root" 2>/dev/null) || true
        [ -n "$all" ] || die "there is no lab" "scripts/natlab.sh up SITE=KIND ... makes one."
        [ "$(wc -l <<<"$all")" = 1 ] ||
            die "there are several labs" "Say which with --lab: $(tr '\n' ' ' <<<"$all")"
        lab=$all
    fi
    lab_dir=$lab_root/$lab
}

# Starts a server in namespace $1 that stays: its name is $2, and the rest its command.
start_server() {
    local where=$1 name=$2
    shift 2
    ip netns exec "$(ns "$where")" setsid "$@" >"$lab_dir/log/$name.log" 2>&1 </dev/null &
    echo $! >"$lab_dir/pids/$name"
}
