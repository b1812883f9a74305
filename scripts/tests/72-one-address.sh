#!/usr/bin/env bash
# Several families use one address at once: two downloads in processes of their own beside
# a server in a third, connections that linger in the keepers of programs that have gone,
# and a port that opens right after it was refused. A family hears only its own ports.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"
SIZE=20000000
URL="http://$LAB_NET.2:4500/bytes/$SIZE?seed"

# Times that a process has gone to sleep.
sleeps_of() {
    sed -n 's/^voluntary_ctxt_switches:\s*//p' "/proc/$1/status"
}

# The keepers on our side.
keepers() {
    local pid
    for pid in $(ip netns pids "$LAB_OURS"); do
        if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = remora-keeper ]; then
            printf '%s\n' "$pid"
        fi
    done
}

server_starts() {
    mkdir "$TAP_DIR/served"
    cp "$TAP_DIR/want-3" "$TAP_DIR/served/data"
    lab_start ours /usr/bin/python3 -m http.server -d "$TAP_DIR/served" 4501
    retry 10 lab_peer curl -sS -m 5 -o /dev/null "http://$T_LOCAL:4501/"
}

# Two downloads by our side and one from it, all at the same time.
downloads() {
    local -a waiting=()
    local number
    for number in 1 2; do
        lab_start ours curl -sS -m 50 -o "$TAP_DIR/got-$number" "$URL=$number"
        waiting+=("$LAB_PID")
    done
    lab_start peer curl -sS -m 50 -o "$TAP_DIR/got-3" "http://$T_LOCAL:4501/data"
    waiting+=("$LAB_PID")
    for number in 0 1 2; do
        lab_wait "${waiting[$number]}" 50
    done
    for number in 1 2 3; do
        same_data "$TAP_DIR/want-$number" "$TAP_DIR/got-$number"
    done
}

# The keeper of a program that only holds a connection is not woken by another's download.
bystander_sleeps() {
    local before after keeper known
    known=" $(keepers | tr '\n' ' ') "
    lab_start ours /usr/bin/python3 -c '
import signal, socket, sys
connection = socket.create_connection((sys.argv[1], 4502))
connection.sendall(b"x")
connection.recv(1)
open(sys.argv[2], "w").close()
signal.pause()' "$T_PEER" "$TAP_DIR/holds"
    retry 10 test -e "$TAP_DIR/holds"
    for keeper in $(keepers); do
        if [[ "$known" != *" $keeper "* ]]; then
            break
        fi
    done
    # Its last look around comes a few milliseconds after the program has gone to sleep.
    sleep 0.2
    before="$(sleeps_of "$keeper")"
    lab_ours curl -sS -m 50 -o "$TAP_DIR/got-1" "$URL=1"
    after="$(sleeps_of "$keeper")"
    same_data "$TAP_DIR/want-1" "$TAP_DIR/got-1"
    printf 'keeper %s slept %s times before and %s after\n' "$keeper" "$before" "$after"
    # ARP is for all to hear.
    [ "$((after - before))" -le 6 ]
    lab_stop "$LAB_PID"
}

# A refused port is known as open as soon as somebody listens, whoever refused it.
opens_after_refusal() {
    local port
    for port in 4510 4511 4512 4513 4514 4515; do
        exits 7 lab_peer curl -sS -m 5 "http://$T_LOCAL:$port/"
        lab_start ours /usr/bin/python3 -c '
import socket, sys
listener = socket.socket()
listener.bind(("0.0.0.0", int(sys.argv[1])))
listener.listen()
open(sys.argv[2], "w").close()
connection, peer = listener.accept()
connection.sendall(b"here\n")
connection.close()' "$port" "$TAP_DIR/listens-$port"
        retry 10 test -e "$TAP_DIR/listens-$port"
        lab_peer socat -u "TCP:$T_LOCAL:$port,connect-timeout=5" - >"$TAP_DIR/word"
        equal here "$(cat "$TAP_DIR/word")" "word from port $port"
        lab_wait "$LAB_PID" 10
        # What is left there is in TIME_WAIT, and refuses what is new.
        exits 7 lab_peer curl -sS -m 5 "http://$T_LOCAL:$port/"
    done
}

lab_up
for number in 1 2 3; do
    bytes "$SIZE" "$number" "$TAP_DIR/want-$number"
done
lab_capture_start "$TAP_DIR/peer.pcap" 96
peer_http 4500
peer_server tcp 4502 socat -t 20 TCP-LISTEN:4502,reuseaddr,fork EXEC:cat
ok "a server starts" server_starts
ok "two downloads and one from a server share an address" downloads
ok_remora "a bystander's keeper sleeps through another's download" bystander_sleeps
ok "a port is open as soon as somebody listens" opens_after_refusal
tap_end
