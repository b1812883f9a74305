#!/usr/bin/env bash
# Sockets in the hands of programs without the library: a static program and unhooked ones
# as servers in inetd's style, both ways with half-close; nobody spins or wakes while such a
# program idles or does not read; the connection goes on through chroot and another
# network namespace.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"
SIZE=10000000

# Reads everything, and after the end sends it back; no library could be loaded into it.
build_static() {
    gcc -O1 -static -x c -o "$TAP_DIR/static" - <<'PROGRAM'
#include <stdlib.h>
#include <unistd.h>
int main(void)
{
    static char data[32 << 20];
    size_t length = 0, done = 0;
    ssize_t count;
    while ((count = read(0, data + length, sizeof data - length)) > 0)
        length += (size_t)count;
    if (count != 0)
        return 1;
    while (done < length && (count = write(1, data + done, length - done)) > 0)
        done += (size_t)count;
    return done == length ? 0 : 2;
}
PROGRAM
}

# Accepts one connection after another and gives each to the command, as 0 and 1, by fork
# and exec or by subprocess; without the library when the environment says so.
inetd='
import os, socket, subprocess, sys
port, way, rounds = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
words = sys.argv[4:]
environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("0.0.0.0", port))
listener.listen(8)
for round in range(rounds):
    connection, peer = listener.accept()
    if way == "subprocess":
        child = subprocess.Popen(words, stdin=connection, stdout=connection, env=environment)
        connection.close()
        assert child.wait() == 0
        continue
    child = os.fork()
    if child == 0:
        listener.close()
        os.dup2(connection.fileno(), 0)
        os.dup2(connection.fileno(), 1)
        connection.close()
        os.execvpe(words[0], words, environment)
    connection.close()
    pid, status = os.waitpid(child, 0)
    assert status == 0, status
'

ask() {
    lab_peer socat -t 20 - "TCP:$T_LOCAL:$1,retry=$((LAB_PATIENCE * 10)),interval=0.1" 2>"$TAP_DIR/socat.err"
}

# as_server PORT WAY COMMAND...: two connections, the same data back on each.
as_server() {
    local number port="$1" way="$2"
    shift 2
    lab_start ours /usr/bin/python3 -c "$inetd" "$port" "$way" 2 "$@"
    for number in 1 2; do
        ask "$port" <"$TAP_DIR/data" >"$TAP_DIR/back-$number"
        same_data "$TAP_DIR/data" "$TAP_DIR/back-$number"
    done
    lab_wait "$LAB_PID" 20
}

keeper() {
    local pid
    for pid in $(ip netns pids "$LAB_OURS"); do
        if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = remora-keeper ]; then
            printf '%s\n' "$pid"
        fi
    done
}

sleeps_of() {
    sed -n 's/^voluntary_ctxt_switches:\s*//p' "/proc/$1/status"
}

ticks_of() {
    awk '{ print $14 + $15 }' "/proc/$1/stat"
}

starts_idle() {
    LAB_DEADLINE=60 lab_start ours /usr/bin/python3 -c "$inetd" 4730 exec 1 sleep 50
    # The connection stays open until the step that ends it.
    LAB_DEADLINE=60 lab_start peer socat -u "TCP:$T_LOCAL:4730,retry=$((LAB_PATIENCE * 10)),interval=0.1" "OPEN:/dev/null"
    retry 10 one_keeper
    sleep 1
}

one_keeper() {
    [ -n "$(keeper)" ]
}

idles() {
    local pid before
    pid="$(keeper | tail -n 1)"
    before="$(sleeps_of "$pid")"
    sleep 1
    equal "$before" "$(sleeps_of "$pid")" "times that the keeper slept"
}

# What does not read gets more than it has room for: the keeper waits, it does not spin.
does_not_spin() {
    local pid before after
    LAB_DEADLINE=60 lab_start ours /usr/bin/python3 -c "$inetd" 4731 exec 1 sleep 50
    LAB_DEADLINE=30 lab_start peer socat -u "OPEN:/dev/zero" "TCP:$T_LOCAL:4731,retry=$((LAB_PATIENCE * 10)),interval=0.1"
    sleep 2
    for pid in $(keeper); do
        before="$(ticks_of "$pid")"
        sleep 1
        after="$(ticks_of "$pid")"
        echo "processor ticks of keeper $pid in a second: $((after - before))"
        [ "$((after - before))" -le 10 ]
    done
}

goes_elsewhere() {
    lab_ours /usr/bin/python3 -c '
import ctypes, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
stream = socket.create_connection((sys.argv[1], 4200))
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.connect((sys.argv[1], 4202))
def works():
    stream.sendall(b"stream")
    assert stream.recv(6, socket.MSG_WAITALL) == b"stream"
    datagrams.settimeout(5)
    datagrams.send(b"datagram")
    assert datagrams.recv(100) == b"datagram"
works()
CLONE_NEWNET = 0x40000000
assert libc.unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
works()
os.chroot(sys.argv[2])
os.chdir("/")
works()
child = os.fork()
if child == 0:
    works()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
works()
' "$T_PEER" "$TAP_DIR"
}

lab_up
bytes "$SIZE" 77 "$TAP_DIR/data"
ok "a static program is built" build_static
ok "a static program as server by fork and exec: 10 MB in, half-close, 10 MB back" as_server 4720 exec "$TAP_DIR/static"
ok "the same by subprocess" as_server 4721 subprocess "$TAP_DIR/static"
ok "an unhooked cat by fork and exec: 10 MB both ways at once" as_server 4722 exec cat
ok "an unhooked cat by subprocess" as_server 4723 subprocess cat
ok "peer servers" eval 'peer_server tcp 4200 socat TCP-LISTEN:4200,reuseaddr,fork PIPE &&
    peer_server udp 4202 socat UDP-LISTEN:4202,reuseaddr,fork PIPE'
ok "sockets work on in another network namespace, in a chroot and in a child there" goes_elsewhere
ok_remora "a stranger that idles on a connection" starts_idle
ok_remora "nobody wakes up meanwhile" idles
ok_remora "a stranger that does not read costs no processor time" does_not_spin
tap_end
