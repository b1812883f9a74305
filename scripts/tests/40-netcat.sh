#!/usr/bin/env bash
# Both netcats of Debian, as client and as listener, TCP with several MB each way and UDP,
# against socat on the kernel's stack; port scans with -z.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"
SIZE=5000000

# --- the far side ---

peer_sink() {
    peer_server tcp "$1" socat -u "TCP-LISTEN:$1,reuseaddr" "CREATE:$TAP_DIR/sink-$1"
    SINK_PID=$LAB_PID
}

peer_source() {
    peer_server tcp "$1" socat -u "FILE:$TAP_DIR/data" "TCP-LISTEN:$1,reuseaddr"
}

peer_echo() {
    peer_server tcp "$1" socat -t 20 "TCP-LISTEN:$1,reuseaddr,fork" EXEC:cat
}

# The listener may not be there yet: only the connect is repeated, never the transfer.
peer_connects() {
    lab_peer socat "${@:2}" "TCP:$T_LOCAL:$1,retry=$((LAB_PATIENCE * 10)),interval=0.1"
}

# --- TCP client ---

# The first words of a netcat: it ends when its input has ended and all was sent.
netcat() {
    case "$1" in
    openbsd) NETCAT=(nc.openbsd -N) ;;
    traditional) NETCAT=(nc.traditional -q 5) ;;
    esac
}

client_sends() {
    netcat "$1"
    peer_sink "$2"
    lab_ours "${NETCAT[@]}" "$T_PEER" "$2" <"$TAP_DIR/data"
    lab_wait "$SINK_PID" 20
    same_data "$TAP_DIR/data" "$TAP_DIR/sink-$2"
}

client_receives() {
    peer_source "$2"
    lab_ours "nc.$1" "$T_PEER" "$2" </dev/null >"$TAP_DIR/got-$2"
    same_data "$TAP_DIR/data" "$TAP_DIR/got-$2"
}

client_both_ways() {
    netcat "$1"
    peer_echo "$2"
    lab_ours "${NETCAT[@]}" "$T_PEER" "$2" <"$TAP_DIR/data" >"$TAP_DIR/got-$2"
    same_data "$TAP_DIR/data" "$TAP_DIR/got-$2"
}

# --- TCP listener ---

listener() {
    case "$1" in
    openbsd) NETCAT=(nc.openbsd -N -l "$2") ;;
    traditional) NETCAT=(nc.traditional -q 5 -l -p "$2") ;;
    esac
}

listener_receives() {
    listener "$1" "$2"
    lab_start ours "${NETCAT[@]}" </dev/null >"$TAP_DIR/got-$2"
    peer_connects "$2" -u "FILE:$TAP_DIR/data" 2>/dev/null
    lab_wait "$LAB_PID" 20
    same_data "$TAP_DIR/data" "$TAP_DIR/got-$2"
}

listener_sends() {
    listener "$1" "$2"
    lab_start ours "${NETCAT[@]}" <"$TAP_DIR/data" >/dev/null
    peer_connects "$2" -U "CREATE:$TAP_DIR/got-$2" 2>/dev/null
    same_data "$TAP_DIR/data" "$TAP_DIR/got-$2"
}

listener_with_address() {
    lab_start ours nc.openbsd -N -l "$T_LOCAL" "$1" </dev/null >"$TAP_DIR/got-$1"
    peer_connects "$1" -u "FILE:$TAP_DIR/data" 2>/dev/null
    lab_wait "$LAB_PID" 20
    same_data "$TAP_DIR/data" "$TAP_DIR/got-$1"
}

# --- scans ---

scan_open() {
    exits 0 lab_ours "nc.$1" -v -n -z -w 5 "$T_PEER" 4090 2>"$TAP_DIR/err"
    says 'succeeded|open' "$TAP_DIR/err"
}

scan_closed() {
    exits 1 lab_ours "nc.$1" -v -n -z -w 5 "$T_PEER" 1 2>"$TAP_DIR/err"
    says 'refused' "$TAP_DIR/err"
}

scan_silent() {
    exits 1 lab_ours "nc.$1" -v -n -z -w 1 "$T_BLACKHOLE" 80 2>"$TAP_DIR/err"
    says 'timed out' "$TAP_DIR/err"
}

# --- UDP ---

udp_client() {
    case "$1" in
    openbsd) NETCAT=(nc.openbsd -u -w 1) ;;
    traditional) NETCAT=(nc.traditional -u -q 1) ;;
    esac
    printf 'a datagram' >"$TAP_DIR/question"
    lab_ours "${NETCAT[@]}" -n "$T_PEER" 4091 <"$TAP_DIR/question" >"$TAP_DIR/answer"
    equal 'a datagram' "$(cat "$TAP_DIR/answer")" answer
}

# A datagram that comes before the socket is lost: ask until one arrives.
udp_ask() {
    printf 'to a listener\n' | lab_peer socat -u - "UDP-SENDTO:$T_LOCAL:$1"
    grep -q 'to a listener' "$TAP_DIR/got-$1"
}

udp_listener() {
    case "$1" in
    openbsd) NETCAT=(nc.openbsd -u -l "$2") ;;
    traditional) NETCAT=(nc.traditional -u -l -p "$2") ;;
    esac
    lab_start ours "${NETCAT[@]}" </dev/null >"$TAP_DIR/got-$2"
    retry 15 udp_ask "$2"
    lab_stop "$LAB_PID"
}

lab_up
bytes "$SIZE" 11 "$TAP_DIR/data"
lab_capture_start "$TAP_DIR/peer.pcap" 160
peer_server tcp 4090 socat -u TCP-LISTEN:4090,reuseaddr,fork OPEN:/dev/null
peer_server udp 4091 socat UDP-RECVFROM:4091,fork EXEC:cat

base=4100
for kind in openbsd traditional; do
    ok "nc.$kind sends 5 MB" client_sends "$kind" "$((base + 1))"
    ok "nc.$kind receives 5 MB" client_receives "$kind" "$((base + 2))"
    ok "nc.$kind sends and receives 5 MB at once" client_both_ways "$kind" "$((base + 3))"
    ok "nc.$kind listens and receives 5 MB" listener_receives "$kind" "$((base + 4))"
    ok "nc.$kind listens and sends 5 MB" listener_sends "$kind" "$((base + 5))"
    ok "nc.$kind -z finds an open port" scan_open "$kind"
    ok "nc.$kind -z finds a closed port" scan_closed "$kind"
    ok "nc.$kind -z gives up on a silent host" scan_silent "$kind"
    ok "nc.$kind -u asks and is answered" udp_client "$kind"
    ok "nc.$kind -u listens" udp_listener "$kind" "$((base + 6))"
    base=$((base + 20))
done
ok "nc.openbsd listens on a given address" listener_with_address 4150
tap_end
