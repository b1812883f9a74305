#!/usr/bin/env bash
# Programs beside each other on one interface: with addresses of their own they reach each
# other (TCP, UDP, echo, groups, broadcasts); ports across users; a program and its keeper
# killed; nothing on disk that they would need.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"
SIZE=5000000
OTHER="$LAB_NET.3"

# other CMD...: in a program with another address on the same interface.
other() { lab_ours env "REMORA_ADDR=$OTHER/24" "$@"; }

# start_server ADDRESS PORT: what is in $TAP_DIR/served, by a program with that address.
start_server() {
    local -a as=(env "REMORA_ADDR=$1/24")
    lab_start ours "${as[@]}" /usr/bin/python3 -m http.server -d "$TAP_DIR/served" "$2" >"$TAP_DIR/server-$2.log" 2>&1
    retry 10 lab_peer curl -sS -m 5 -o /dev/null "http://$1:$2/small"
}

tcp() {
    local server
    start_server "$OTHER" 4601
    server="$LAB_PID"
    lab_ours curl -sS -m 40 -o "$TAP_DIR/got" "http://$OTHER:4601/data"
    same_data "$TAP_DIR/served/data" "$TAP_DIR/got"
    start_server "$T_LOCAL" 4602
    other curl -sS -m 40 -o "$TAP_DIR/back" "http://$T_LOCAL:4602/data"
    same_data "$TAP_DIR/served/data" "$TAP_DIR/back"
    exits 7 other curl -sS -m 10 "http://$T_LOCAL:4609/"
    lab_stop "$LAB_PID"
    lab_stop "$server"
}

# An echo of datagrams, and whether it answers.
datagram_echo='
import socket, sys
echo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
echo.bind((sys.argv[1], int(sys.argv[2])))
open(sys.argv[3], "w").close()
while True:
    word, sender = echo.recvfrom(65536)
    echo.sendto(word, sender)
'
ask_echo='
import socket, sys
asker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asker.settimeout(5)
for size in (0, 1, 1472, 20000):
    word = b"u" * size
    asker.sendto(word, (sys.argv[1], int(sys.argv[2])))
    assert asker.recv(65536) == word, size
'

udp_and_echo() {
    lab_start ours env "REMORA_ADDR=$OTHER/24" /usr/bin/python3 -c "$datagram_echo" "$OTHER" 4603 "$TAP_DIR/echoes"
    retry 10 test -e "$TAP_DIR/echoes"
    lab_ours /usr/bin/python3 -c "$ask_echo" "$OTHER" 4603
    lab_ours ping -n -c 3 -i 0.2 "$OTHER" >"$TAP_DIR/out"
    says '3 packets transmitted, 3 received.* 0% packet loss' "$TAP_DIR/out"
    lab_stop "$LAB_PID"
}

# OWN PORT FILE: joins a group, and writes what it hears of two datagrams.
hearer='
import socket, sys
hears = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
hears.bind(("", int(sys.argv[2])))
hears.setsockopt(socket.SOL_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton("239.7.7.7") + socket.inet_aton(sys.argv[1]))
open(sys.argv[3], "w").close()
words = [hears.recvfrom(100) for _ in range(2)]
with open(sys.argv[3], "w") as file:
    print(*sorted(word.decode() + " from " + sender[0] for word, sender in words), sep=", ", file=file)
'
speaker='
import socket, sys
speaks = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
speaks.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
for word, to in (b"group", "239.7.7.7"), (b"all", sys.argv[1]):
    speaks.sendto(word, (to, int(sys.argv[2])))
'

groups_and_broadcasts() {
    lab_start ours env "REMORA_ADDR=$OTHER/24" /usr/bin/python3 -c "$hearer" "$OTHER" 4604 "$TAP_DIR/heard"
    retry 10 test -e "$TAP_DIR/heard"
    lab_ours /usr/bin/python3 -c "$speaker" "$LAB_NET.255" 4604
    retry 10 test -s "$TAP_DIR/heard"
    says "^all from $T_LOCAL, group from $T_LOCAL\$" "$TAP_DIR/heard"
    lab_stop "$LAB_PID"
}

# FILE PORT: listens with SO_REUSEPORT, says so with its process number, and stays.
holder='
import os, signal, socket, sys
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
try:
    listener.bind(("0.0.0.0", int(sys.argv[2])))
    listener.listen()
    word = "holds %d" % os.getpid()
except OSError as error:
    word = os.strerror(error.errno)
with open(sys.argv[1] + ".new", "w") as file:
    file.write(word)
os.rename(sys.argv[1] + ".new", sys.argv[1])
if word.startswith("holds"):
    signal.pause()
'

# hold FILE CMD...: starts it and waits for what it says.
hold() {
    local file="$1"
    shift
    rm -f "$file"
    lab_start ours "$@"
    retry 10 test -e "$file"
}

# The process that holds; fails when it could not.
pid_in() {
    cat "$1" >&2
    sed -n 's/^holds //p' "$1" | grep .
}

# Two users do not share a port; when the one is killed it is free for the other at once.
across_users() {
    local as_other=(setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=+net_raw --ambient-caps=+net_raw)
    local root
    hold "$TAP_DIR/open/root" /usr/bin/python3 -c "$holder" "$TAP_DIR/open/root" 4604
    root="$(pid_in "$TAP_DIR/open/root")"
    hold "$TAP_DIR/open/other" "${as_other[@]}" /usr/bin/python3 -c "$holder" "$TAP_DIR/open/other" 4604
    equal "Address already in use" "$(cat "$TAP_DIR/open/other")" "the other user"
    kill -KILL "$root"
    retry 10 lab_has_ended "$root"
    hold "$TAP_DIR/open/other" "${as_other[@]}" /usr/bin/python3 -c "$holder" "$TAP_DIR/open/other" 4604
    pid_in "$TAP_DIR/open/other"
    lab_stop "$LAB_PID"
}

keeper_of() {
    local pid known="$1"
    for pid in $(ip netns pids "$LAB_OURS"); do
        if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = remora-keeper ] && [[ "$known" != *" $pid "* ]]; then
            printf '%s\n' "$pid"
        fi
    done
}

# A program and its keeper are killed in the middle of transfers of others, which go on;
# the port is free.
killed_with_its_keeper() {
    local known keeper pid transfer
    start_server "$T_LOCAL" 4605
    lab_start peer curl -sS -m 40 --limit-rate 4M -o "$TAP_DIR/during" "http://$T_LOCAL:4605/data"
    transfer="$LAB_PID"
    known=" $(keeper_of '' | tr '\n' ' ') "
    hold "$TAP_DIR/open/killed" /usr/bin/python3 -c "$holder" "$TAP_DIR/open/killed" 4606
    pid="$(pid_in "$TAP_DIR/open/killed")"
    keeper="$(keeper_of "$known")"
    for keeper in $keeper; do
        kill -KILL "$keeper"
    done
    kill -KILL "$pid"
    retry 10 lab_has_ended "$pid"
    hold "$TAP_DIR/open/next" /usr/bin/python3 -c "$holder" "$TAP_DIR/open/next" 4606
    pid_in "$TAP_DIR/open/next"
    lab_peer socat -u OPEN:/dev/null "TCP:$T_LOCAL:4606,connect-timeout=5"
    lab_stop "$LAB_PID"
    lab_wait "$transfer" 40
    same_data "$TAP_DIR/served/data" "$TAP_DIR/during"
}

# Agreement needs no directory: everything but the pipe is read-only, and /run is empty.
nothing_on_disk() {
    # shellcheck disable=SC2016  # the inner shell expands it
    lab_ours unshare -m sh -c 'mount -t tmpfs none /run && mount -o remount,ro /run && mount --bind / / &&
        mount -o remount,bind,ro / && exec env -u REMORA_LOG_FILE curl -sS -m 20 "$0"' \
        "http://$T_PEER:8080/" >"$TAP_DIR/page" 2>"$TAP_DIR/err"
    equal "<h1>remora</h1>" "$(cat "$TAP_DIR/page")" page
    equal "" "$(grep -v '^remora: INFO' "$TAP_DIR/err" || true)" stderr
}

lab_up
[ "$LAB_MODE" != kernel ] || ip -n "$LAB_OURS" address add "$OTHER/24" dev "$LAB_OURS_IFACE"
chmod 755 "$TAP_DIR"
mkdir "$TAP_DIR/served" "$TAP_DIR/open"
chmod 777 "$TAP_DIR/open"
bytes "$SIZE" 71 "$TAP_DIR/served/data"
printf 'small\n' >"$TAP_DIR/served/small"
peer_http 8080
ok "TCP between two programs with an address each, both ways" tcp
ok "UDP and echo between them" udp_and_echo
ok "groups and broadcasts between them" groups_and_broadcasts
ok "a port of another user is not shared, and free when that one is killed" across_users
ok_remora "a program and its keeper are killed: others go on, the port is free" killed_with_its_keeper
ok "no directory is needed" nothing_on_disk
tap_end
