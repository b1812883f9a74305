#!/usr/bin/env bash
# Debian's two traceroutes, tracepath and mtr on our side: UDP, ICMP and TCP probes,
# through a router to a host behind it and to the peer itself.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"

# way FILE: the last hop is the one asked for, the first the router.
way() {
    says "^ *1 +$T_PEER " "$1"
    says "^ *2 +$T_FAR " "$1"
}

modern() {
    lab_ours traceroute.db -n -w 3 "$@" "$T_FAR" >"$TAP_DIR/out"
    way "$TAP_DIR/out"
}

one_hop() {
    lab_ours traceroute.db -n -w 3 "$T_PEER" >"$TAP_DIR/out"
    says "^ *1 +$T_PEER " "$TAP_DIR/out"
    equal 0 "$(grep -cE '^ *2 ' "$TAP_DIR/out")" "second hops"
}

mtu() {
    lab_ours traceroute.db -n -w 3 --mtu "$T_FAR" >"$TAP_DIR/out"
    way "$TAP_DIR/out"
    says 'F=1500' "$TAP_DIR/out"
}

inetutils() {
    lab_ours inetutils-traceroute --wait=3 -M "$1" "$T_FAR" >"$TAP_DIR/out"
    says "^ *1 +$T_PEER" "$TAP_DIR/out"
    says "^ *2 +$T_FAR" "$TAP_DIR/out"
}

unreachable() {
    lab_ours traceroute.db -n -w 3 "$T_UNREACH" >"$TAP_DIR/out"
    says '!H' "$TAP_DIR/out"
}

silent() {
    lab_ours traceroute.db -n -w 0.5 -m 2 -q 1 "$T_BLACKHOLE" >"$TAP_DIR/out"
    says '^ *2 +\*' "$TAP_DIR/out"
}

path() {
    lab_ours tracepath -n -m 5 "$T_FAR" >"$TAP_DIR/out"
    says "^ *1: +$T_PEER " "$TAP_DIR/out"
    says "^ *2: +$T_FAR .* reached" "$TAP_DIR/out"
    says 'Resume: pmtu 1500 hops 2' "$TAP_DIR/out"
}

# Of mtr the first and the last hop without a loss.
report() {
    lab_ours mtr -n -r -c 2 -i 0.2 -G 1 "$@" "$T_FAR" >"$TAP_DIR/out"
    says "1\.\|-- $T_PEER +0\.0%" "$TAP_DIR/out"
    says "2\.\|-- $T_FAR +0\.0%" "$TAP_DIR/out"
}

# The far host is a namespace of its own behind the peer.
far_up() {
    FAR="$LAB_PEER-far"
    ip netns add "$FAR"
    LAB_MADE+=("$FAR")
    ip -n "$LAB_PEER" link add behind type veth peer name far netns "$FAR"
    ip -n "$LAB_PEER" addr add "$LAB_OUTER.9.2/24" dev behind
    ip -n "$LAB_PEER" link set behind up
    ip -n "$FAR" addr add "$T_FAR/24" dev far
    ip -n "$FAR" link set far up
    ip -n "$FAR" link set lo up
    ip -n "$FAR" route add default via "$LAB_OUTER.9.2"
    nsenter "--net=/run/netns/$FAR" sysctl -qw net.ipv4.icmp_ratelimit=0
}

lab_up
T_FAR="$LAB_OUTER.9.1"
far_up
nsenter "--net=/run/netns/$LAB_PEER" sysctl -qw net.ipv4.icmp_ratelimit=0
ok "traceroute: UDP" modern
ok "traceroute: UDP to one port" modern -U
ok "traceroute: ICMP" modern -I
ok "traceroute: TCP" modern -T -p 81
ok "traceroute: one hop" one_hop
ok "traceroute: path MTU" mtu
ok "traceroute: unreachable" unreachable
ok "traceroute: nobody answers" silent
ok "inetutils: UDP" inetutils udp
ok "inetutils: ICMP" inetutils icmp
ok "tracepath" path
ok "mtr: ICMP" report
ok "mtr: UDP" report -u
ok "mtr: TCP" report -T -P 81
tap_end
