# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # names are shared with the other parts
# What each NAT does, as rules of nftables, and the faults of the network. To be sourced by
# scripts/natlab.sh.
#
# Words are those of RFC 4787: how a NAT maps (does one inside socket look the same to everybody?)
# and how it filters (who may answer?). All are built on Linux's masquerading, which drops what
# nobody asked for without an answer: a reset would end the other side's attempt to punch.
#
#   kind             maps                           filters                        ports
#   full_cone        the same to everybody          everybody may answer           the host's own
#   port_restricted  the same to everybody          only the socket that was asked other ones
#   symmetric        another to each socket asked   only the socket that was asked by chance
#   double           two port_restricted, one behind the other
#   udp_blocked      TCP as port_restricted         no UDP passes at all
#   upnp             port_restricted, with a miniupnpd that speaks UPnP, NAT-PMP and PCP

kinds="open full_cone port_restricted symmetric double udp_blocked upnp"

# Where a port_restricted NAT maps to. Not where programs listen, so no inside port is ever kept,
# and nobody is reached by guessing it.
mapped_ports=20000-29999

# How long a full cone's mapping lives without traffic from inside: what RFC 4787 REQ-5 asks for.
cone_lifetime=2m

# Loads the rules of the kind $2 into the namespace $1, whose interfaces are `wan` and `lan`.
nat_rules() {
    local outward="" first="" masquerade="masquerade to :$mapped_ports"
    case "$2" in
        full_cone)
            # Who has sent from a port keeps it, and everybody may answer to it. The inside port is
            # kept (there is one host, so it is free), which is why the map can be written before.
            masquerade=masquerade
            outward="
                meta l4proto udp update @cone_udp { udp sport : ip saddr }
                meta l4proto tcp update @cone_tcp { tcp sport : ip saddr }"
            first="
                iifname wan meta l4proto udp counter name asked_nobody \
                    dnat ip to udp dport map @cone_udp
                iifname wan meta l4proto tcp dnat ip to tcp dport map @cone_tcp"
            ;;
        symmetric) masquerade="masquerade fully-random" ;;
        udp_blocked) outward="meta l4proto udp counter name blocked_udp drop" ;;
    esac
    in_ns "$1" nft -f - <<RULES
        table inet lab {
            counter translated { }
            counter asked_nobody { }
            counter blocked_udp { }
            counter unsolicited_udp { }
            counter unsolicited_tcp { }

            map cone_udp {
                type inet_service : ipv4_addr
                flags dynamic,timeout
                timeout $cone_lifetime
                size 65535
            }
            map cone_tcp {
                type inet_service : ipv4_addr
                flags dynamic,timeout
                timeout $cone_lifetime
                size 65535
            }

            # What miniupnpd writes its mappings into.
            chain miniupnpd { }
            chain prerouting_miniupnpd { }
            chain postrouting_miniupnpd { }

            chain from_inside {
                $outward
                accept
            }
            chain from_internet {
                meta l4proto udp counter name unsolicited_udp drop
                meta l4proto tcp counter name unsolicited_tcp drop
                drop
            }

            chain forward {
                type filter hook forward priority filter; policy drop;
                iifname lan oifname wan goto from_inside
                ct state established,related accept
                ct status dnat accept
                jump miniupnpd
                iifname wan goto from_internet
            }
            chain input {
                type filter hook input priority filter; policy accept;
                ct state established,related accept
                iifname wan goto from_internet
            }
            chain prerouting {
                type nat hook prerouting priority dstnat; policy accept;
                jump prerouting_miniupnpd
                $first
            }
            chain postrouting {
                type nat hook postrouting priority srcnat; policy accept;
                oifname wan jump postrouting_miniupnpd
                oifname wan meta l4proto { tcp, udp } counter name translated $masquerade
                oifname wan masquerade
            }
        }
RULES
}

# The internet's router: everything that is sent to it, or to an address that nobody has any more,
# ends there.
internet_rules() {
    in_ns wan nft -f - <<RULES
        table inet lab {
            counter black_hole { }
            chain input {
                type filter hook input priority filter; policy drop;
                iifname lo accept
                counter name black_hole
            }
        }
RULES
}

# The STUN servers fall silent for Binding requests (RFC 8489, message type 0x0001); TURN on the
# same ports goes on.
kill_stun() {
    in_ns boot nft -f - <<RULES
        table inet stun_dead { }
        delete table inet stun_dead
        table inet stun_dead {
            counter silenced { }
            chain input {
                type filter hook input priority filter; policy accept;
                udp dport { $stun_port, $((stun_port + 1)) } @th,64,16 0x0001 \
                    counter name silenced drop
            }
        }
RULES
}

revive_stun() {
    in_ns boot nft delete table inet stun_dead
}

# Site $1 loses $2 percent of all packets, both ways.
lose() {
    local port
    port=port$(site_number "$1")
    in_ns wan nft -f - <<RULES
        table bridge loss_$1 { }
        delete table bridge loss_$1
        table bridge loss_$1 {
            counter lost { }
            chain forward {
                type filter hook forward priority filter; policy accept;
                iifname $port numgen random mod 100 < $2 counter name lost drop
                oifname $port numgen random mod 100 < $2 counter name lost drop
            }
        }
RULES
}

# Site $1 has $2 kbit/s, each way.
limit_rate() {
    local namespace interface
    read -r namespace interface <<<"$(edge_of "$1")"
    # tbf splits frames that are larger than its burst.
    in_ns wan tc qdisc replace dev "port$(site_number "$1")" root \
        tbf rate "$2kbit" burst 16kb latency 100ms
    in_ns "$namespace" tc qdisc replace dev "$interface" root \
        tbf rate "$2kbit" burst 16kb latency 100ms
}

# Packets of site $1 take $2 milliseconds longer, each way. A pair of interfaces comes between the
# site and its port of the bridge, and a program passes frames on.
delay() {
    local number pid="$lab_dir/pids/delay-$1"
    number=$(site_number "$1")
    if [ -e "$pid" ]; then
        kill "$(cat "$pid")"
    else
        ip_in wan link set "port$number" down
        ip_in wan link set "port$number" nomaster
        ip_in wan link set "port$number" name "edge$number"
        ip_in wan link set "edge$number" up
        link_ns wan "port$number" wan "shim$number"
        ip_in wan link set "port$number" master internet
    fi
    start_server wan "delay-$1" \
        python3 "$PWD/scripts/natlab/delay.py" "edge$number" "shim$number" "$2"
}

# What the site $1 had open is gone: its NAT forgets all mappings and, unless $2 is "mapping", has
# another address from now on. What is sent to the old one is swallowed.
rebind() {
    local namespace interface number generation neighbour
    read -r namespace interface <<<"$(edge_of "$1")"
    number=$(site_number "$1")
    generation=$(site_generation "$1")
    if [ "${2:-}" != mapping ]; then
        [ "$generation" -lt 254 ] || die "the site $1 has had all of its addresses"
        ip_in "$namespace" address delete "11.$number.0.$generation/8" dev "$interface"
        ip_in wan address add "11.$number.0.$generation/32" dev internet
        generation=$((generation + 1))
        ip_in "$namespace" address add "11.$number.0.$generation/8" dev "$interface"
        ip_in "$namespace" route replace default via 11.0.0.1
        sed -i "s/^\($1 [a-z_]* [0-9]*\) .*/\1 $generation/" "$lab_dir/sites"
        # Who still knows the site by the old address asks again, and learns who swallows it.
        for neighbour in $(lab_namespaces); do
            ip -n "$neighbour" neighbour flush to "11.$number.0.$((generation - 1))" \
                2>/dev/null || true
        done
    fi
    [ "$(site_kind "$1")" = open ] || {
        in_ns "$namespace" nft flush map inet lab cone_udp
        in_ns "$namespace" nft flush map inet lab cone_tcp
    }
    in_ns "$namespace" conntrack -F >/dev/null 2>&1 || true
    echo "11.$number.0.$generation"
}

# All counters of the lab, one JSON object a line.
counters() {
    local namespace
    for namespace in $(lab_namespaces); do
        ip netns exec "$namespace" nft -j list counters 2>/dev/null |
            jq -c --arg where "${namespace#"nsnlab-$lab-"}" '
                .nftables[].counter | select(.)
                | { where: $where, table: .table, counter: .name, packets: .packets }'
    done
}
