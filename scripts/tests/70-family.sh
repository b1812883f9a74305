#!/usr/bin/env bash
# A family of processes shares one stack: a listener opened before a double fork serves
# after the first process has exited, and a child and its parent use one connection in
# turns. Python forks without exec, so nothing but fork is at work.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"
ours_python() { lab_ours /usr/bin/python3 "$@"; }

# The listener, two forks, and three answers by the grandchild after its ancestors' end.
daemon_program='
import os, socket, sys
directory, port = sys.argv[1], int(sys.argv[2])
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("0.0.0.0", port))
listener.listen(8)
if os.fork():
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
with open(directory + "/daemon.pid", "w") as file:
    file.write(str(os.getpid()))
listener.settimeout(40)
for number in range(3):
    connection, peer = listener.accept()
    connection.settimeout(10)
    request = b""
    while b"\r\n\r\n" not in request:
        request += connection.recv(65536)
    body = b"d" * 200000
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
    connection.close()
'

first_process_ends() {
    ours_python -c "$daemon_program" "$TAP_DIR" 4401
    retry 10 test -s "$TAP_DIR/daemon.pid"
}

grandchild_serves() {
    local number
    for number in 1 2 3; do
        retry 10 lab_peer curl -sS -m 20 -o "$TAP_DIR/got" "http://$T_LOCAL:4401/"
        equal 200000 "$(stat -c %s "$TAP_DIR/got")" "bytes of answer $number"
    done
}

grandchild_ends() {
    retry 15 lab_has_ended "$(cat "$TAP_DIR/daemon.pid")"
}

in_turns() {
    ours_python - "$T_PEER" <<'PYTHON'
import os, socket, sys

def say(who, number):
    word = b"%s says %d\n" % (who, number)
    connection.sendall(word)
    heard = b""
    while not heard.endswith(b"\n"):
        piece = connection.recv(1)
        assert piece, "the connection ended"
        heard += piece
    assert heard == word, (heard, word)

connection = socket.create_connection((sys.argv[1], 4400), timeout=10)
to_child, to_parent = os.pipe(), os.pipe()
child = os.fork()
for number in range(50):
    if child == 0:
        assert os.read(to_child[0], 1) == b"."
        say(b"child", number)
        os.write(to_parent[1], b".")
    else:
        say(b"parent", number)
        os.write(to_child[1], b".")
        assert os.read(to_parent[0], 1) == b"."
if child == 0:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
say(b"parent after the child's end", 0)
PYTHON
}

# The peer sees the end only when the last holder has closed.
last_close_counts() {
    ours_python - "$T_PEER" <<'PYTHON'
import os, socket, sys
connection = socket.create_connection((sys.argv[1], 4400), timeout=10)
ready = os.pipe()
child = os.fork()
if child == 0:
    os.read(ready[0], 1)
    connection.sendall(b"still here\n")
    assert connection.recv(100) == b"still here\n"
    os._exit(0)
connection.close()
os.write(ready[1], b".")
assert os.waitpid(child, 0)[1] == 0
PYTHON
}

# Four workers accept from one listener that their parent opened.
workers_program='
import os, socket, sys
listener = socket.socket()
listener.bind(("0.0.0.0", 4402))
listener.listen(32)
children = []
for number in range(4):
    child = os.fork()
    if child == 0:
        while True:
            connection, peer = listener.accept()
            connection.settimeout(10)
            while b"\r\n\r\n" not in connection.recv(65536):
                pass
            body = b"%d\n" % os.getpid()
            connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            connection.close()
    children.append(child)
for child in children:
    os.waitpid(child, 0)
'

workers_serve() {
    local number
    local -a words=()
    lab_start ours /usr/bin/python3 -c "$workers_program"
    retry 15 lab_peer curl -sS -m 10 -o /dev/null "http://$T_LOCAL:4402/"
    for number in $(seq 40); do
        words+=(-o "$TAP_DIR/worker-$number" "http://$T_LOCAL:4402/$number")
    done
    lab_peer curl -sS -m 30 -Z --parallel-immediate --parallel-max 40 "${words[@]}"
    cat "$TAP_DIR"/worker-* >"$TAP_DIR/workers"
    equal 40 "$(grep -cE '^[0-9]+$' "$TAP_DIR/workers")" answers
    lab_stop "$LAB_PID"
}

# The program is gone, its last data and FIN arrive all the same.
data_after_exit() {
    peer_server tcp 4403 socat -u TCP-LISTEN:4403,reuseaddr "CREATE:$TAP_DIR/after"
    ours_python - "$T_PEER" <<'PYTHON'
import os, socket, sys
connection = socket.create_connection((sys.argv[1], 4403), timeout=10)
connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
connection.setblocking(False)
sent = connection.send(b"x" * 300000)
with open(os.environ["TAP_DIR"] + "/sent", "w") as file:
    file.write(str(sent))
os._exit(0)
PYTHON
    lab_wait "$LAB_PID" 20
    equal "$(cat "$TAP_DIR/sent")" "$(stat -c %s "$TAP_DIR/after")" "bytes that arrived"
}

lab_up
lab_capture_start "$TAP_DIR/peer.pcap" 160
peer_server tcp 4400 socat -t 20 TCP-LISTEN:4400,reuseaddr,fork EXEC:cat
ok "the first process ends after a double fork" first_process_ends
ok "the grandchild serves from the first one's listener" grandchild_serves
ok "the grandchild ends" grandchild_ends
ok "a child and its parent use one connection in turns" in_turns
ok "a connection lives until its last holder closes it" last_close_counts
ok "four workers serve from one listener" workers_serve
ok "data written before _exit arrives" data_after_exit
tap_end
