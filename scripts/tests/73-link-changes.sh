#!/usr/bin/env bash
# The interface under a running program: the link goes down and comes up, its MTU changes,
# it is removed and made again. Connections survive what is short, and a server serves on.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"
SIZE=3000000

server_starts() {
    mkdir "$TAP_DIR/served"
    bytes "$SIZE" 5 "$TAP_DIR/served/data"
    LAB_DEADLINE=120 lab_start ours /usr/bin/python3 -m http.server -d "$TAP_DIR/served" 4701
    retry 10 serves
}

serves() {
    lab_peer curl -sS -m 5 -o "$TAP_DIR/got" "http://$T_LOCAL:4701/data" &&
        same_data "$TAP_DIR/served/data" "$TAP_DIR/got"
}

# A connection that sends each line that is appended to a file, and notes the answer.
client_starts() {
    : >"$TAP_DIR/questions"
    LAB_DEADLINE=120 lab_start ours /usr/bin/python3 -c '
import socket, sys, time
connection = socket.create_connection((sys.argv[1], 4700))
connection.settimeout(20)
questions, answers = open(sys.argv[2], "rb"), open(sys.argv[3], "wb", buffering=0)
while True:
    line = questions.readline()
    if not line:
        time.sleep(0.05)
        continue
    connection.sendall(line)
    heard = b""
    while not heard.endswith(b"\n"):
        heard += connection.recv(65536)
    answers.write(heard)' "$T_PEER" "$TAP_DIR/questions" "$TAP_DIR/answers"
    asks "at first"
}

answered() {
    grep -qx "$1" "$TAP_DIR/answers"
}

asks() {
    printf '%s\n' "$1" >>"$TAP_DIR/questions"
    retry 15 answered "$1"
}

down_and_up() {
    ip -n "$LAB_OURS" link set "$LAB_OURS_IFACE" down
    sleep 0.3
    ip -n "$LAB_OURS" link set "$LAB_OURS_IFACE" up
    if [ "$LAB_MODE" = kernel ]; then
        lab_kernel_mode
    fi
    retry 15 serves
    asks "after down and up"
}

# The peer accepts what our side sends, and a reply as large as the link carries comes in one piece.
mtu_is_noticed() {
    local size
    for size in 1000 1400; do
        ip -n "$LAB_OURS" link set "$LAB_OURS_IFACE" mtu "$size"
        ip -n "$LAB_PEER" link set "$LAB_PEER_IFACE" mtu "$size"
        # What changes without a word is looked at once a second.
        sleep 1.1
        serves
        serves
        lab_peer ping -n -c 1 -W 2 -M "do" -s $((size - 28)) "$T_LOCAL"
    done
    asks "after another MTU"
}

# Nobody is told of the removal of an interface that was down already.
down_then_made_again() {
    ip -n "$LAB_OURS" link set "$LAB_OURS_IFACE" down
    sleep 0.3
    made_again
}

made_again() {
    ip -n "$LAB_OURS" link del "$LAB_OURS_IFACE"
    sleep 0.3
    ip -n "$LAB_OURS" link add "$LAB_OURS_IFACE" type veth peer name "$LAB_PEER_IFACE" netns "$LAB_PEER"
    ip -n "$LAB_PEER" addr add "$T_PEER/24" dev "$LAB_PEER_IFACE"
    ip -n "$LAB_PEER" link set "$LAB_PEER_IFACE" up
    ip -n "$LAB_OURS" link set "$LAB_OURS_IFACE" up
    if [ "$LAB_MODE" = kernel ]; then
        lab_kernel_mode
    fi
    retry 15 serves
    asks "after the interface was made again"
}

lab_up
peer_server tcp 4700 socat -t 20 TCP-LISTEN:4700,reuseaddr,fork EXEC:cat
ok "a server starts" server_starts
ok "a client starts" client_starts
ok "down and up again" down_and_up
ok "another MTU" mtu_is_noticed
ok "removed and made again" made_again
ok "removed while it was down, and made again" down_then_made_again
tap_end
