#!/usr/bin/env bash
# memcached on our side, TCP and UDP, four threads: values set and read back by a kernel
# client, 50 connections at once, statistics; then a client of ours against a kernel server.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"
PORT=11311

# Its protocol by hand: what libraries for it do, with every byte checked.
client='
import random, socket, sys, threading
address, seed = (sys.argv[1], int(sys.argv[2])), int(sys.argv[3])
connections, rounds = int(sys.argv[4]), int(sys.argv[5])
faults = []

def talk(number):
    source = random.Random(seed + number)
    with socket.create_connection(address, timeout=20) as sock:
        stream = sock.makefile("rb")
        for turn in range(rounds):
            key = b"k%d.%d" % (number, turn % 5)
            value = source.randbytes(source.choice((1, 100, 5000, 200000)))
            sock.sendall(b"set %s %d 0 %d\r\n%s\r\n" % (key, turn, len(value), value))
            assert stream.readline() == b"STORED\r\n"
            sock.sendall(b"get %s\r\n" % key)
            assert stream.readline() == b"VALUE %s %d %d\r\n" % (key, turn, len(value))
            assert stream.read(len(value) + 7) == value + b"\r\nEND\r\n"
        sock.sendall(b"quit\r\n")
        assert stream.read() == b""

def guarded(number):
    try:
        talk(number)
    except BaseException as fault:
        faults.append((number, repr(fault)))

threads = [threading.Thread(target=guarded, args=(n,)) for n in range(connections)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert not faults, faults
'

# A frame header of eight bytes goes before the text protocol (its protocol.txt).
udp_client='
import socket, struct, sys
with socket.socket(type=socket.SOCK_DGRAM) as sock:
    sock.settimeout(10)
    sock.connect((sys.argv[1], int(sys.argv[2])))
    for number in range(200):
        sock.send(struct.pack("!HHHH", number, 0, 1, 0) + b"set u%d 0 0 4\r\n%04d\r\n" % (number, number))
        assert sock.recv(2000) == struct.pack("!HHHH", number, 0, 1, 0) + b"STORED\r\n"
        sock.send(struct.pack("!HHHH", number, 0, 1, 0) + b"get u%d\r\n" % number)
        assert sock.recv(2000)[8:] == b"VALUE u%d 0 4\r\n%04d\r\nEND\r\n" % (number, number)
'

memcached_words() {
    local user=nobody
    [ "${LAB_UNSHARED:-}" != 1 ] || user=root
    MEMCACHED=(memcached -u "$user" -l "$1" -p "$2" -U "$2" -t 4 -m 64 -v)
}

statistics() {
    printf 'stats\r\nquit\r\n' | lab_peer nc.openbsd -w 5 "$T_LOCAL" "$PORT" | tr -d '\r' >"$TAP_DIR/stats"
    says '^STAT threads 4$' "$TAP_DIR/stats"
    says '^STAT get_hits [1-9]' "$TAP_DIR/stats"
    says '^STAT get_misses 0$' "$TAP_DIR/stats"
}

tools() {
    bytes 100000 5 "$TAP_DIR/value"
    lab_peer memccp --servers="$T_LOCAL:$PORT" "$TAP_DIR/value"
    lab_peer memccat --servers="$T_LOCAL:$PORT" value | head -c -1 >"$TAP_DIR/got"
    same_data "$TAP_DIR/value" "$TAP_DIR/got"
}

ends() {
    lab_stop "$SERVER"
    lab_has_ended "$SERVER"
    exits 1 lab_peer nc.openbsd -z -w 2 "$T_LOCAL" "$PORT"
}

lab_up
memcached_words "$T_LOCAL" "$PORT"
our_server "$PORT" "${MEMCACHED[@]}"
SERVER=$LAB_PID
ok "one connection, 200 values" lab_peer /usr/bin/python3 -c "$client" "$T_LOCAL" "$PORT" 1 1 200
ok "50 connections, 20 values each" lab_peer /usr/bin/python3 -c "$client" "$T_LOCAL" "$PORT" 2 50 20
ok "UDP: 200 values" lab_peer /usr/bin/python3 -c "$udp_client" "$T_LOCAL" "$PORT"
ok "its statistics" statistics
ok "memccp and memccat" tools
ok "SIGTERM ends it" ends

memcached_words "$T_PEER" "$PORT"
peer_server tcp "$PORT" "${MEMCACHED[@]}"
ok "a client of ours, 50 threads" lab_ours /usr/bin/python3 -c "$client" "$T_PEER" "$PORT" 3 50 20
ok "a client of ours, UDP" lab_ours /usr/bin/python3 -c "$udp_client" "$T_PEER" "$PORT"
tap_end
