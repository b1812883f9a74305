#!/usr/bin/env bash
# Sockets over exec into programs that run under the library too: as input and output
# (inetd), by number in the environment (a server that replaces itself, systemd), through
# shells, by SCM_RIGHTS, and bash's own /dev/tcp. What passes is compared byte for byte.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"
SIZE=5000000

# Accepts ROUNDS connections and gives each to the command, as 0 and 1, in a child.
inetd='
import os, socket, sys
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("0.0.0.0", int(sys.argv[1])))
listener.listen(8)
for round in range(int(sys.argv[2])):
    connection, peer = listener.accept()
    if os.fork() == 0:
        listener.close()
        os.dup2(connection.fileno(), 0)
        os.dup2(connection.fileno(), 1)
        connection.close()
        os.execvp(sys.argv[3], sys.argv[3:])
    connection.close()
for round in range(int(sys.argv[2])):
    pid, status = os.wait()
    assert status == 0, status
'

# One connection after another, so that no port is asked for before it is there.
ask_peer() {
    lab_peer socat -t 20 - "TCP:$T_LOCAL:$1,retry=$((LAB_PATIENCE * 10)),interval=0.1" 2>"$TAP_DIR/socat.err"
}

as_cat() {
    lab_start ours /usr/bin/python3 -c "$inetd" "$1" 2 "${@:2}"
    local number
    for number in 1 2; do
        ask_peer "$1" <"$TAP_DIR/data" >"$TAP_DIR/back-$number"
        same_data "$TAP_DIR/data" "$TAP_DIR/back-$number"
    done
    lab_wait "$LAB_PID" 20
}

as_script() {
    # shellcheck disable=SC2016 # the inner shell expands it
    lab_start ours /usr/bin/python3 -c "$inetd" 4702 1 sh -c 'read -r word; echo "heard $word"; read -r word; printf "%s" "$word" | tr a-z A-Z'
    printf 'one\ntwo\n' | ask_peer 4702 >"$TAP_DIR/answer"
    equal "$(printf 'heard one\nTWO')" "$(cat "$TAP_DIR/answer")" answer
    lab_wait "$LAB_PID" 20
}

as_python() {
    lab_start ours /usr/bin/python3 -c "$inetd" 4703 1 /usr/bin/python3 -c '
import socket, sys
connection = socket.socket(fileno=0)
assert connection.family == socket.AF_INET and connection.getpeername()[0] == sys.argv[1]
assert connection.getsockname()[1] == 4703
while data := connection.recv(65536):
    connection.sendall(data)
connection.shutdown(socket.SHUT_WR)' "$T_PEER"
    ask_peer 4703 <"$TAP_DIR/data" >"$TAP_DIR/back"
    same_data "$TAP_DIR/data" "$TAP_DIR/back"
    lab_wait "$LAB_PID" 20
}

# Replaces itself after each connection; the listener goes on by its number.
replaces_itself() {
    cat >"$TAP_DIR/again.py" <<'PYTHON'
import os, socket, sys
port, left = int(sys.argv[1]), int(sys.argv[2])
if "LISTENER" in os.environ:
    listener = socket.socket(fileno=int(os.environ["LISTENER"]))
    assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
    assert listener.getsockname()[1] == port
else:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("0.0.0.0", port))
    listener.listen(16)
    os.set_inheritable(listener.fileno(), True)
connection, peer = listener.accept()
data = connection.recv(100)
connection.sendall(data + b" " + str(left).encode())
connection.close()
if left > 1:
    os.environ["LISTENER"] = str(listener.fileno())
    os.execv(sys.executable, [sys.executable, sys.argv[0], sys.argv[1], str(left - 1)])
PYTHON
    lab_start ours /usr/bin/python3 "$TAP_DIR/again.py" 4704 3
    local left
    for left in 3 2 1; do
        printf 'hello' | ask_peer 4704 >"$TAP_DIR/answer"
        equal "hello $left" "$(cat "$TAP_DIR/answer")" answer
    done
    lab_wait "$LAB_PID" 20
}

# A connection that comes while nobody runs but the next image: it waits in the queue.
activated() {
    # shellcheck disable=SC2016 # the shell that python starts expands it
    lab_start ours /usr/bin/python3 -c '
import os, select, socket, sys
listener = socket.socket()
listener.bind(("0.0.0.0", 4705))
listener.listen(8)
select.select([listener], [], [])
spare = os.dup(listener.fileno())
os.close(3)
os.dup2(spare, 3)
os.environ["LISTEN_FDS"], os.environ["LISTEN_PID"] = "1", str(os.getpid())
os.execvp("sh", ["sh", "-c", "exec \"$0\" \"$@\""] + [sys.executable, "-c", """
import os, socket
assert os.environ["LISTEN_FDS"] == "1" and os.environ["LISTEN_PID"] == str(os.getpid())
listener = socket.socket(fileno=3)
connection, peer = listener.accept()
connection.sendall(connection.recv(100))
"""])'
    printf 'waited' | ask_peer 4705 >"$TAP_DIR/answer"
    equal waited "$(cat "$TAP_DIR/answer")" answer
    lab_wait "$LAB_PID" 20
}

# subprocess uses vfork and exec; pass_fds and stdin are the ways to hand a socket on.
by_subprocess() {
    lab_ours /usr/bin/python3 - "$T_PEER" <<'PYTHON'
import os, socket, subprocess, sys
connection = socket.create_connection((sys.argv[1], 4700), timeout=10)
connection.settimeout(None)
connection.sendall(b"one\n")
got = subprocess.run(["head", "-n", "1"], stdin=connection, capture_output=True, timeout=20)
assert got.stdout == b"one\n", got
number = connection.fileno()
child = "import socket, sys; s = socket.socket(fileno=int(sys.argv[1])); s.sendall(b'two'); print(s.recv(3).decode())"
got = subprocess.run([sys.executable, "-c", child, str(number)], pass_fds=[number], capture_output=True, timeout=20)
assert got.stdout == b"two\n", got
os.set_inheritable(number, True)
assert os.system("printf three >&%d" % number) == 0
assert connection.recv(5, socket.MSG_WAITALL) == b"three"
got = subprocess.run("printf four >&%d; head -c 4 <&%d" % (number, number), shell=True, close_fds=False, capture_output=True)
assert got.stdout == b"four", got
connection.sendall(b"five")
assert connection.recv(4, socket.MSG_WAITALL) == b"five"
PYTHON
}

dev_tcp() {
    # shellcheck disable=SC2016 # bash expands it on our side
    lab_ours bash -c 'exec 3<>"/dev/tcp/$0/4701"; cat <&3' "$T_PEER" >"$TAP_DIR/back"
    same_data "$TAP_DIR/data" "$TAP_DIR/back"
    # shellcheck disable=SC2016
    lab_ours bash -c 'exec 3<>"/dev/tcp/$0/4700"; printf hello >&3; head -c 5 <&3; (printf more; sleep 0.1) >&3; head -c 4 <&3' \
        "$T_PEER" >"$TAP_DIR/answer"
    equal hellomore "$(cat "$TAP_DIR/answer")" answer
}

# To an unrelated program under the library, over a named socket: a connection with data
# that waits, and a listener.
passed_on() {
    cat >"$TAP_DIR/takes.py" <<'PYTHON'
import socket, sys
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen(1)
peer, _ = server.accept()
_, numbers, _, _ = socket.recv_fds(peer, 1, 4)
connection, listener = (socket.socket(fileno=number) for number in numbers)
assert connection.getpeername() == (sys.argv[2], 4700), connection.getpeername()
assert connection.recv(7, socket.MSG_WAITALL) == b"waiting"
connection.sendall(b"by another\n")
assert connection.recv(11, socket.MSG_WAITALL) == b"by another\n"
peer.sendall(b"done")
client, name = listener.accept()
assert name[0] == sys.argv[2], name
client.sendall(client.recv(100))
PYTHON
    lab_start ours /usr/bin/python3 "$TAP_DIR/takes.py" "$TAP_DIR/passing" "$T_PEER"
    retry 10 test -S "$TAP_DIR/passing"
    lab_ours /usr/bin/python3 -c '
import select, socket, sys
connection = socket.create_connection((sys.argv[1], 4700), timeout=10)
connection.settimeout(None)
connection.sendall(b"waiting")
select.select([connection], [], [])
listener = socket.create_server(("0.0.0.0", 4712))
other = socket.socket(socket.AF_UNIX)
other.connect(sys.argv[2])
socket.send_fds(other, [b"x"], [connection.fileno(), listener.fileno()])
assert other.recv(4, socket.MSG_WAITALL) == b"done"' "$T_PEER" "$TAP_DIR/passing"
    printf passed | ask_peer 4712 >"$TAP_DIR/answer"
    equal passed "$(cat "$TAP_DIR/answer")" answer
    lab_wait "$LAB_PID" 20
}

# The kernel's loopback reaches a listener of a later image as it did before.
loopback() {
    lab_start ours /usr/bin/python3 "$TAP_DIR/again.py" 4713 2
    local left
    for left in 2 1; do
        printf 'hello' | lab_bare socat -t 20 - TCP:127.0.0.1:4713,retry=200,interval=0.1 >"$TAP_DIR/answer"
        equal "hello $left" "$(cat "$TAP_DIR/answer")" answer
    done
    lab_wait "$LAB_PID" 20
}

lab_up
bytes "$SIZE" 76 "$TAP_DIR/data"
peer_server tcp 4700 socat -t 20 TCP-LISTEN:4700,reuseaddr,fork EXEC:cat
peer_server tcp 4701 socat -u "FILE:$TAP_DIR/data" TCP-LISTEN:4701,reuseaddr
ok "inetd: cat echoes 5 MB as 0 and 1" as_cat 4710 cat
ok "inetd: through a shell" as_cat 4711 sh -c 'cat; exit $?'
ok "inetd: a shell script talks by lines" as_script
ok "inetd: python finds its names" as_python
ok "a server replaces itself and keeps its listener" replaces_itself
ok "its listener hears the loopback too" loopback
ok "a listener is handed on as LISTEN_FDS with a connection waiting" activated
ok "subprocess and system" by_subprocess
ok "bash: /dev/tcp" dev_tcp
ok "a connection and a listener are passed to an unrelated program" passed_on
tap_end
