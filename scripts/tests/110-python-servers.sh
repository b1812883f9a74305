#!/usr/bin/env bash
# Python's server classes on our side: ForkingTCPServer, ForkingUDPServer, a pool of
# processes that accept on one listener, asyncio with 60 connections at once, selectors,
# multiprocessing with a connection per task. The clients are the kernel's.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"

# A line with a length and a seed; the answer are so many bytes and then "PID\n".
common='
import os, random, socket, sys
address, port = sys.argv[1], int(sys.argv[2])
def body(line):
    length, seed = map(int, line.split())
    return random.Random(seed).randbytes(length)
'
forking="$common"'
import socketserver
class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(body(line) + b"%d\n" % os.getpid())
class Server(socketserver.ForkingTCPServer):
    allow_reuse_address = True
    request_queue_size = 64
Server((address, port), Handler).serve_forever()
'
forking_udp="$common"'
import socketserver
class Handler(socketserver.DatagramRequestHandler):
    def handle(self):
        self.wfile.write(body(self.rfile.read()) + b"%d\n" % os.getpid())
socketserver.ForkingUDPServer((address, port), Handler).serve_forever()
'
prefork="$common"'
import signal
listener = socket.create_server((address, port), backlog=64)
children = []
for number in range(4):
    child = os.fork()
    if child == 0:
        while True:
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as stream:
                for line in stream:
                    connection.sendall(body(line) + b"%d\n" % os.getpid())
    children.append(child)
def end(*_):
    for child in children:
        os.kill(child, signal.SIGTERM)
    sys.exit()
signal.signal(signal.SIGTERM, end)
while True:
    os.wait()
'
streams="$common"'
import asyncio
async def serve(reader, writer):
    while line := await reader.readline():
        writer.write(body(line) + b"%d\n" % os.getpid())
        await writer.drain()
    writer.close()
async def main():
    server = await asyncio.start_server(serve, address, port, backlog=128)
    await server.serve_forever()
asyncio.run(main())
'
selecting="$common"'
import selectors
selector = selectors.PollSelector() if sys.argv[3] == "poll" else selectors.SelectSelector()
listener = socket.create_server((address, port), backlog=64)
listener.setblocking(False)
selector.register(listener, selectors.EVENT_READ, None)
waiting = {}
while True:
    for key, mask in selector.select():
        if key.data is None:
            connection, _ = listener.accept()
            connection.setblocking(False)
            selector.register(connection, selectors.EVENT_READ, [b"", b""])
            continue
        state = key.data
        if mask & selectors.EVENT_READ:
            piece = key.fileobj.recv(4096)
            if not piece:
                selector.unregister(key.fileobj)
                key.fileobj.close()
                continue
            state[0] += piece
            while b"\n" in state[0]:
                line, state[0] = state[0].split(b"\n", 1)
                state[1] += body(line) + b"%d\n" % os.getpid()
        if state[1]:
            try:
                state[1] = state[1][key.fileobj.send(state[1]):]
            except BlockingIOError:
                pass
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if state[1] else 0)
        selector.modify(key.fileobj, events, state)
'

# CONNECTIONS at once, three requests on each, every byte compared. At least PIDS processes answered.
client='
import random, socket, sys, threading
address, port, connections, least = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
faults, pids = [], set()
def talk(number):
    with socket.create_connection((address, port), timeout=20) as sock, sock.makefile("rb") as stream:
        for turn in range(3):
            length, seed = (7, 20000, 300000)[(turn + number) % 3], number * 10 + turn
            sock.sendall(b"%d %d\n" % (length, seed))
            assert stream.read(length) == random.Random(seed).randbytes(length), "data"
            pids.add(int(stream.readline()))
        sock.shutdown(socket.SHUT_WR)
        assert stream.read() == b"", "more than was asked for"
def guarded(number):
    try:
        talk(number)
    except BaseException as fault:
        faults.append((number, repr(fault)))
threads = [threading.Thread(target=guarded, args=(n,)) for n in range(connections)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert not faults, faults
assert len(pids) >= least, pids
'
udp_client='
import random, socket, sys
pids = set()
for number in range(20):
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.connect((sys.argv[1], int(sys.argv[2])))
        sock.send(b"%d %d" % (50 * number, number))
        data = sock.recv(2000)
        assert data.startswith(random.Random(number).randbytes(50 * number)), number
        pids.add(data[50 * number:])
assert len(pids) == 20, pids
'

# A datagram that comes before the socket is lost, or refused.
udp_answers() {
    lab_peer /usr/bin/python3 -c '
import socket, sys
with socket.socket(type=socket.SOCK_DGRAM) as sock:
    sock.settimeout(0.5)
    sock.connect((sys.argv[1], int(sys.argv[2])))
    sock.send(b"0 0")
    sock.recv(2000)
' "$T_LOCAL" "$1" 2>/dev/null
}

talk() { lab_peer /usr/bin/python3 -c "$client" "$T_LOCAL" "$@"; }

# serve PORT PROGRAM WORD...: the server, ready.
serve() {
    local port="$1" program="$2"
    shift 2
    our_server "$port" /usr/bin/python3 -c "$program" "$T_LOCAL" "$port" "$@" || true
}

multiprocessing_client() {
    lab_ours /usr/bin/python3 - "$T_PEER" <<'PYTHON'
import multiprocessing, sys, urllib.request

def fetch(number):
    with urllib.request.urlopen(f"http://{sys.argv[1]}:8080/bytes/{number * 10000}", timeout=20) as answer:
        return len(answer.read())

if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert pool.map(fetch, range(1, 25)) == [number * 10000 for number in range(1, 25)]
PYTHON
}

lab_up
peer_http 8080
serve 4501 "$forking"
ok "ForkingTCPServer: 30 connections, a process each" talk 4501 30 30
lab_stop "$LAB_PID"
lab_start ours /usr/bin/python3 -c "$forking_udp" "$T_LOCAL" 4502 >"$TAP_DIR/udp.log" 2>&1
retry 15 udp_answers 4502
ok "ForkingUDPServer: 20 datagrams, a process each" lab_peer /usr/bin/python3 -c "$udp_client" "$T_LOCAL" 4502
lab_stop "$LAB_PID"
serve 4503 "$prefork"
ok "four processes accept on one listener, 40 connections" talk 4503 40 2
lab_stop "$LAB_PID"
serve 4504 "$streams"
ok "asyncio: 60 connections" talk 4504 60 1
lab_stop "$LAB_PID"
serve 4505 "$selecting" poll
ok "poll: 40 connections" talk 4505 40 1
lab_stop "$LAB_PID"
serve 4506 "$selecting" select
ok "select: 40 connections" talk 4506 40 1
lab_stop "$LAB_PID"
ok "a pool of four processes as clients" multiprocessing_client
tap_end
