# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # names are shared with the other parts
# The servers of the lab: coturn and miniupnpd. To be sourced by scripts/natlab.sh.

# STUN and TURN on both addresses of boot. Its database, which it wants though it is not used, and
# its process file go into the lab's folder, not where a server of the machine's own would have
# them.
start_coturn() {
    start_server boot coturn turnserver -n \
        --listening-ip "$boot_address" --listening-ip "$boot_second" \
        --listening-port "$stun_port" --relay-ip "$boot_address" \
        --min-port 49152 --max-port 50151 --relay-threads 1 \
        --lt-cred-mech --realm natlab --user "$turn_user:$turn_password" \
        --userdb "$lab_dir/turn.db" --pidfile "$lab_dir/turn.pid" \
        --no-tls --no-dtls --no-cli --log-file stdout --simple-log
    local tries=0
    until in_ns boot ss -Hlun "src $boot_second:$((stun_port + 1))" 2>/dev/null | grep -q .; do
        tries=$((tries + 1))
        [ $tries -lt 100 ] || die "coturn did not come up" "Its log is $lab_dir/log/coturn.log"
        sleep 0.05
    done
}

# A daemon on the NAT $1, whose inside address is $2, that maps ports for who asks: UPnP, NAT-PMP
# and PCP.
start_miniupnpd() {
    local name="miniupnpd-$1" config="$lab_dir/miniupnpd-$1.conf" tries=0
    cat >"$config" <<CONFIG
ext_ifname=wan
listening_ip=lan
http_port=5000
enable_natpmp=yes
enable_upnp=yes
ipv6_disable=yes
secure_mode=yes
min_lifetime=10
max_lifetime=86400
system_uptime=yes
upnp_table_name=lab
upnp_nat_table_name=lab
uuid=6e736e00-0000-4000-8000-$(printf %012d "$lab")
allow 1024-65535 ${2%.*}.0/24 1024-65535
deny 0-65535 0.0.0.0/0 0-65535
CONFIG
    start_server "$1" "$name" miniupnpd -d -f "$config" -P "$lab_dir/$name.pid"
    until in_ns "$1" ss -Hltn "src $2:5000 or sport = 5000" 2>/dev/null | grep -q .; do
        tries=$((tries + 1))
        [ $tries -lt 100 ] || die "miniupnpd did not come up" "Its log is $lab_dir/log/$name.log"
        sleep 0.05
    done
}
