#!/usr/bin/env bash
# socat on our side, as TCP client, TCP listener with a child per connection, and UDP
# both ways, against socat on the kernel's stack.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"
SIZE=5000000

client_sends() {
    peer_server tcp 4201 socat -u TCP-LISTEN:4201,reuseaddr "CREATE:$TAP_DIR/sink"
    lab_ours socat -u "FILE:$TAP_DIR/data" "TCP:$T_PEER:4201"
    lab_wait "$LAB_PID" 20
    same_data "$TAP_DIR/data" "$TAP_DIR/sink"
}

client_both_ways() {
    lab_ours socat -t 20 - "TCP:$T_PEER:4200" <"$TAP_DIR/data" >"$TAP_DIR/echoed"
    same_data "$TAP_DIR/data" "$TAP_DIR/echoed"
}

client_options() {
    printf ping | lab_ours socat -t 5 - "TCP:$T_PEER:4200,nodelay,keepalive,sndbuf=65536,rcvbuf=65536,linger=5" \
        >"$TAP_DIR/echoed"
    equal ping "$(cat "$TAP_DIR/echoed")" answer
}

client_bound() {
    peer_server tcp 4203 socat TCP-LISTEN:4203,reuseaddr "SYSTEM:echo \$SOCAT_PEERADDR \$SOCAT_PEERPORT"
    lab_ours socat -u "TCP:$T_PEER:4203,bind=$T_LOCAL:5555,reuseaddr" "CREATE:$TAP_DIR/seen"
    equal "$T_LOCAL 5555" "$(cat "$TAP_DIR/seen")" "address seen by the peer"
}

refused() {
    exits 1 lab_ours socat -u OPEN:/dev/null "TCP:$T_PEER:1" 2>"$TAP_DIR/err"
    says 'Connection refused' "$TAP_DIR/err"
}

connect_timeout() {
    exits 1 lab_ours socat -u OPEN:/dev/null "TCP:$T_BLACKHOLE:80,connect-timeout=1" 2>"$TAP_DIR/err"
    says 'timed out' "$TAP_DIR/err"
}

peer_asks() {
    lab_peer socat -t 20 - "TCP:$T_LOCAL:4210,retry=$((LAB_PATIENCE * 10)),interval=0.1" <"$TAP_DIR/$1" >"$TAP_DIR/$1.back" 2>/dev/null
    same_data "$TAP_DIR/$1" "$TAP_DIR/$1.back"
}

several_at_once() {
    local number pid
    local -a pids=()
    for number in 1 2 3 4; do
        bytes 500000 "$number" "$TAP_DIR/several-$number"
        peer_asks "several-$number" &
        pids+=("$!")
    done
    for pid in "${pids[@]}"; do
        wait "$pid"
    done
}

udp_client() {
    printf 'a datagram' | lab_ours socat -t 1 - "UDP:$T_PEER:4202" >"$TAP_DIR/answer"
    equal 'a datagram' "$(cat "$TAP_DIR/answer")" answer
}

udp_ask() {
    printf 'question' | lab_peer socat -t 0.5 - "UDP:$T_LOCAL:4211" >"$TAP_DIR/answer" || true
    [ "$(cat "$TAP_DIR/answer")" = question ]
}

udp_server() {
    lab_start ours socat UDP-RECVFROM:4211,fork EXEC:cat
    retry 15 udp_ask
    lab_stop "$LAB_PID"
}

# EXEC gives cat a pair of the kernel's: the connection itself stays with socat's child.
lab_up
bytes "$SIZE" 31 "$TAP_DIR/data"
lab_capture_start "$TAP_DIR/peer.pcap" 160
peer_server tcp 4200 socat -t 20 TCP-LISTEN:4200,reuseaddr,fork EXEC:cat
peer_server udp 4202 socat UDP-RECVFROM:4202,fork EXEC:cat
ok "TCP client sends 5 MB" client_sends
ok "TCP client sends and receives 5 MB at once" client_both_ways
ok "TCP client with options" client_options
ok "TCP client bound to its address and a port" client_bound
ok "connection refused" refused
ok "connect timeout" connect_timeout
ok "UDP client" udp_client
lab_start ours socat -t 20 TCP-LISTEN:4210,reuseaddr,fork EXEC:cat
ok "TCP listener echoes 5 MB" peer_asks data
ok "TCP listener serves four at once" several_at_once
lab_stop "$LAB_PID"
ok "UDP server with a child per datagram" udp_server
tap_end
