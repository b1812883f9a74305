#!/usr/bin/env bash
# python3: http.server on our side fetched by a kernel curl, one by one and in parallel;
# urllib, http.client and asyncio as clients; socketserver with a thread per connection.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"
URL="http://$LAB_NET.2:8080"

ours_python() { lab_ours /usr/bin/python3 "$@"; }

serve() {
    lab_start ours /usr/bin/python3 -m http.server "$@" --directory "$TAP_DIR/site" \
        >"$TAP_DIR/server.log" 2>&1
    SERVER=$LAB_PID
}

kernel_fetch() {
    lab_peer curl -sS -m 30 "$@"
}

first_fetch() {
    retry 15 kernel_fetch -o "$TAP_DIR/first" "http://$T_LOCAL:$1/small"
    same_data "$TAP_DIR/site/small" "$TAP_DIR/first"
}

several_fetches() {
    local number
    for number in 1 2 3; do
        kernel_fetch -o "$TAP_DIR/got-$number" "http://$T_LOCAL:$1/large"
        same_data "$TAP_DIR/site/large" "$TAP_DIR/got-$number"
    done
}

parallel_fetches() {
    local number
    local -a words=()
    for number in $(seq 10); do
        words+=(-o "$TAP_DIR/parallel-$number" "http://$T_LOCAL:$1/large")
    done
    kernel_fetch -Z --parallel-immediate "${words[@]}"
    for number in $(seq 10); do
        same_data "$TAP_DIR/site/large" "$TAP_DIR/parallel-$number"
    done
}

# The kernel's own curl in our namespace, which has its loopback.
fetched_on_loopback() {
    lab_bare curl -sS -m 30 -o "$TAP_DIR/loopback" "http://127.0.0.1:$1/large"
    same_data "$TAP_DIR/site/large" "$TAP_DIR/loopback"
    says "^(::ffff:)?127.0.0.1 - - .*GET /large" "$TAP_DIR/server.log"
}

not_found() {
    equal 404 "$(kernel_fetch -o /dev/null -w '%{http_code}' "http://$T_LOCAL:$1/nothing")" status
}

logged_the_peer() {
    says "^$T_PEER - - .*GET /large" "$TAP_DIR/server.log"
}

logged_the_mapped_peer() {
    says "^(::ffff:)?$T_PEER - - .*GET /large" "$TAP_DIR/server.log"
}

cannot_fetch() {
    ! kernel_fetch --connect-timeout 1 -o /dev/null "http://$T_LOCAL:$1/small"
}

listener_is_gone() {
    # It was there before.
    same_data "$TAP_DIR/site/small" "$TAP_DIR/first"
    retry 15 cannot_fetch "$1"
}

urllib_get() {
    ours_python - "$URL" >"$TAP_DIR/got" <<'PYTHON'
import sys, urllib.request
with urllib.request.urlopen(sys.argv[1] + "/bytes/3000000?seed=41", timeout=20) as answer:
    sys.stdout.buffer.write(answer.read())
PYTHON
    bytes 3000000 41 "$TAP_DIR/want"
    same_data "$TAP_DIR/want" "$TAP_DIR/got"
}

urllib_post() {
    ours_python - "$URL" <<'PYTHON'
import hashlib, sys, urllib.request
body = bytes(range(256)) * 4000
answer = urllib.request.urlopen(sys.argv[1] + "/hash", data=body, timeout=20).read().split()
assert answer == [b"%d" % len(body), hashlib.sha256(body).hexdigest().encode()], answer
PYTHON
}

keep_alive() {
    ours_python - "$T_PEER" <<'PYTHON'
import http.client, sys
connection = http.client.HTTPConnection(sys.argv[1], 8080, timeout=20)
for length in (1, 1000, 100000, 0, 5):
    connection.request("GET", f"/bytes/{length}")
    port = connection.sock.getsockname()[1]
    first = port if length == 1 else first
    assert port == first, "another connection"
    assert len(connection.getresponse().read()) == length
PYTHON
}

errors() {
    ours_python - "$T_PEER" "$T_BLACKHOLE" "$T_UNREACH" <<'PYTHON'
import errno, socket, sys
peer, silent, unreachable = sys.argv[1:]
for address, port, want in ((peer, 1, errno.ECONNREFUSED), (unreachable, 80, errno.EHOSTUNREACH)):
    with socket.socket() as client:
        assert client.connect_ex((address, port)) == want, (address, port)
try:
    socket.create_connection((silent, 80), timeout=1)
    raise SystemExit("connected to a silent host")
except TimeoutError:
    pass
with socket.create_connection((peer, 8080), timeout=10) as client:
    assert client.getpeername() == (peer, 8080)
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    client.settimeout(0.2)
    try:
        client.recv(1)
        raise SystemExit("a byte that nobody sent")
    except TimeoutError:
        pass
PYTHON
}

asyncio_client() {
    ours_python - "$T_PEER" <<'PYTHON'
import asyncio, sys

async def fetch(number):
    reader, writer = await asyncio.open_connection(sys.argv[1], 8080)
    writer.write(b"GET /bytes/%d HTTP/1.1\r\nHost: peer\r\nConnection: close\r\n\r\n" % (number * 1000))
    data = await reader.read(-1)
    writer.close()
    await writer.wait_closed()
    return len(data.split(b"\r\n\r\n", 1)[1])

async def main():
    lengths = await asyncio.wait_for(asyncio.gather(*(fetch(n) for n in range(1, 21))), 30)
    assert lengths == [n * 1000 for n in range(1, 21)], lengths

asyncio.run(main())
PYTHON
}

udp_round_trip() {
    ours_python - "$T_PEER" <<'PYTHON'
import socket, sys
with socket.socket(type=socket.SOCK_DGRAM) as client:
    client.settimeout(10)
    for length in (0, 1, 1000):
        client.sendto(b"u" * length, (sys.argv[1], 4301))
        data, sender = client.recvfrom(2000)
        assert (len(data), sender) == (length, (sys.argv[1], 4301)), (len(data), sender)
PYTHON
}

udp_echo='
import socket, sys
server = socket.socket(type=socket.SOCK_DGRAM)
server.bind((sys.argv[1], 4301))
while True:
    server.sendto(*server.recvfrom(65536))
'

lab_up
mkdir "$TAP_DIR/site"
printf 'small\n' >"$TAP_DIR/site/small"
bytes 5000000 42 "$TAP_DIR/site/large"
lab_capture_start "$TAP_DIR/peer.pcap" 160
peer_http 8080
LAB_DEADLINE=300 peer_server udp 4301 /usr/bin/python3 -c "$udp_echo" "$T_PEER"

serve 8081 --bind 0.0.0.0
ok "http.server on 0.0.0.0 is fetched" first_fetch 8081
ok "three fetches of 5 MB" several_fetches 8081
ok "ten fetches of 5 MB in parallel" parallel_fetches 8081
ok "an error of the server" not_found 8081
ok "it sees the peer's address" logged_the_peer
ok "a kernel curl beside it is served on 127.0.0.1" fetched_on_loopback 8081
ok "the server still runs" kill -0 "$SERVER"
lab_stop "$SERVER"
ok "its listener ends with it" listener_is_gone 8081

serve 8082
ok "http.server on :: is fetched" first_fetch 8082
ok "ten fetches in parallel over ::" parallel_fetches 8082
ok "it sees the peer's mapped address" logged_the_mapped_peer
ok "and a server on :: too" fetched_on_loopback 8082
lab_stop "$SERVER"

serve 8083 --bind "$T_LOCAL"
ok "http.server on our own address is fetched" first_fetch 8083
lab_stop "$SERVER"

ok "urllib GET" urllib_get
ok "urllib POST" urllib_post
ok "http.client keeps its connection" keep_alive
ok "errors of connect and receive" errors
ok "asyncio with 20 connections" asyncio_client
ok "UDP there and back" udp_round_trip
tap_end
