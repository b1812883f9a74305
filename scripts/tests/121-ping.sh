#!/usr/bin/env bash
# ping (iputils) on our side, over ping sockets and over raw ones: sizes, patterns, flood,
# fragments, record of times, ICMP errors from the way, nobody there.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"

answers() { says "$1 packets transmitted, $1 received.* 0% packet loss" "$TAP_DIR/out"; }

echoes() {
    lab_ours ping -n -c 3 -i 0.2 "$T_PEER" >"$TAP_DIR/out"
    answers 3
    says "64 bytes from $T_PEER: icmp_seq=3 ttl=[0-9]+ time=" "$TAP_DIR/out"
}

# Without CAP_NET_RAW of its own ping takes a ping socket; -N and others take a raw one.
by_ping_socket() {
    nsenter "--net=/run/netns/$LAB_OURS" sysctl -qw net.ipv4.ping_group_range="0 2147483647"
    lab_ours ping -n -c 2 -i 0.2 -s 100 "$T_PEER" >"$TAP_DIR/out"
    answers 2
}

# The data are compared by ping itself, which complains of a wrong byte.
sizes() {
    local size
    for size in 0 1 56 1472 1473 4000 20000; do
        lab_ours ping -n -c 2 -i 0.2 -s "$size" -p a55a "$T_PEER" >"$TAP_DIR/out"
        answers 2
        equal 0 "$(grep -c 'wrong data' "$TAP_DIR/out")" "lines of wrong data"
    done
}

flood() {
    lab_ours ping -n -q -f -c 500 "$T_PEER" >"$TAP_DIR/out"
    answers 500
}

options() {
    lab_ours ping -n -c 2 -i 0.2 -t 7 -Q 0x10 -I "$T_LOCAL" -w 10 "$T_PEER" >"$TAP_DIR/out"
    answers 2
    lab_ours ping -n -c 2 -i 0.2 -M "do" -s 1472 "$T_PEER" >"$TAP_DIR/out"
    answers 2
    lab_ours ping -n -c 2 -i 0.2 -D -U -O "$T_PEER" >"$TAP_DIR/out"
    answers 2
}

too_long() {
    exits 1 lab_ours ping -n -c 1 -W 2 -M "do" -s 1473 "$T_PEER" >"$TAP_DIR/out" 2>&1
    says 'message too long|Frag needed' "$TAP_DIR/out"
}

unreachable() {
    exits 1 lab_ours ping -n -c 2 -i 0.2 -W 2 "$T_UNREACH" >"$TAP_DIR/out" 2>&1
    says "From $T_PEER icmp_seq=1 Destination Host Unreachable" "$TAP_DIR/out"
    exits 1 lab_ours ping -n -c 2 -i 0.2 -W 2 "$T_PROHIBIT" >"$TAP_DIR/out" 2>&1
    says "From $T_PEER icmp_seq=1 Packet filtered" "$TAP_DIR/out"
}

# The peer forwards: a packet of one hop ends there.
time_exceeded() {
    exits 1 lab_ours ping -n -c 1 -W 2 -t 1 "$T_BEHIND" >"$TAP_DIR/out" 2>&1
    says "From $T_PEER icmp_seq=1 Time to live exceeded" "$TAP_DIR/out"
}

nobody() {
    exits 1 lab_ours ping -n -c 1 -W 1 "$T_BLACKHOLE" >"$TAP_DIR/out" 2>&1
    says '1 packets transmitted, 0 received' "$TAP_DIR/out"
}

# Options of the IP header: the way there and back, and when it was passed.
record_route() {
    lab_ours ping -n -c 2 -i 0.2 -R "$T_PEER" >"$TAP_DIR/out"
    answers 2
    says "RR:.*$T_LOCAL" "$TAP_DIR/out"
    equal "$T_PEER $T_PEER $T_LOCAL" "$(grep -A 3 'RR:' "$TAP_DIR/out" | grep -o '^[[:space:]]*[0-9.]*$' | head -n 3 | xargs)" \
        "stations after ours"
    says 'same route' "$TAP_DIR/out"
}

timestamps() {
    local kind
    for kind in tsonly tsandaddr; do
        lab_ours ping -n -c 2 -i 0.2 -T "$kind" "$T_PEER" >"$TAP_DIR/out"
        answers 2
        says 'TS:' "$TAP_DIR/out"
    done
    says "$T_PEER" "$TAP_DIR/out"
}

# Our address answers as long as a program has it.
from_peer() {
    our_server 4220 socat TCP-LISTEN:4220,reuseaddr,fork EXEC:cat
    lab_peer ping -n -c 3 -i 0.2 -s 2000 "$T_LOCAL" >"$TAP_DIR/out"
    answers 3
    # With the way recorded: two stations each way.
    lab_peer ping -n -c 1 -R "$T_LOCAL" >"$TAP_DIR/out"
    answers 1
    equal "$T_LOCAL $T_LOCAL $T_PEER" "$(grep -A 3 'RR:' "$TAP_DIR/out" | grep -o '^[[:space:]]*[0-9.]*$' | head -n 3 | xargs)" \
        "stations after the peer"
    lab_stop "$LAB_PID"
}

lab_up
# A network behind the peer that it forwards to and that nobody is in.
T_BEHIND="$LAB_OUTER.9.1"
lab_peer ip link add behind type veth peer name beyond
lab_peer ip link set beyond up
lab_peer ip addr add "$LAB_OUTER.9.2/24" dev behind
lab_peer ip link set behind up
ok "3 echoes" echoes
ok "a ping socket" by_ping_socket
ok "sizes from 0 to 20,000 bytes" sizes
ok "flood of 500" flood
ok "TTL, TOS, source, path MTU, time stamps" options
ok "record route" record_route
ok "timestamps of the way" timestamps
ok "larger than the path" too_long
ok "unreachable, prohibited" unreachable
ok "time exceeded" time_exceeded
ok "nobody there" nobody
ok "the peer pings us" from_peer
tap_end
