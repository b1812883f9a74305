#!/usr/bin/env bash
# Names: libc's resolver (getaddrinfo, gethostby*, getnameinfo, res_*) of unmodified
# programs asks a DNS server on the peer. Our side's kernel has no address and no route, so
# every answer has come through the stack.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"
PORT=8080

# resolv LINE...: what /etc/resolv.conf says in `named`.
resolv() { printf '%s\n' "$@" >"$TAP_DIR/resolv.conf"; }

# named CMD...: CMD on our side with that resolv.conf, in a mount namespace of its own.
named() {
    local -a words
    lab_argv ours
    words=("${LAB_ARGV[@]}")
    # What enters the namespace is in front of env.
    while [ "${words[0]}" != env ]; do
        words=("${words[@]:1}")
    done
    # shellcheck disable=SC2016  # the words are sh's own
    lab_bare unshare -m sh -c 'mount --bind "$1" /etc/resolv.conf && mount --bind "$2" /etc/nsswitch.conf &&
        mount --bind "$3" /etc/hosts && shift 3 && exec "$@"' sh \
        "$TAP_DIR/resolv.conf" "$TAP_DIR/nsswitch.conf" "$TAP_DIR/hosts" \
        "${words[@]}" "$@"
}

# asked PATTERN: how many queries the peer's server has had.
asked() { grep -cE -- "$1" "$TAP_DIR/server-53.log" || true; }

server() {
    local user=nobody number
    [ "${LAB_UNSHARED:-}" != 1 ] || user=root
    for number in $(seq 60); do
        printf '192.0.2.%d many.names.test\n' "$number"
    done >"$TAP_DIR/zone"
    printf '%s www.names.test\n198.51.100.9 other.names.test\n' "$T_PEER" >>"$TAP_DIR/zone"
    chmod 755 "$TAP_DIR"
    chmod 644 "$TAP_DIR/zone"
    peer_server udp 53 dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts \
        --log-facility=- --log-queries=extra --port=53 --listen-address="$T_PEER" --bind-interfaces \
        --pid-file= --user="$user" --group= --addn-hosts="$TAP_DIR/zone" --local=/test/ \
        --txt-record=text.names.test,"in words" --edns-packet-max=4096
}

by_curl() {
    equal "<h1>remora</h1>" "$(named curl -sS -m 20 "http://www.names.test:$PORT/")" page
    grep -qE "from $T_LOCAL|$T_LOCAL/[0-9]+ query\[A\] www.names.test" "$TAP_DIR/server-53.log"
}

by_getent() {
    equal "$T_PEER" "$(named getent ahostsv4 www.names.test | awk 'NR == 1 { print $1 }')" "getaddrinfo"
    equal "198.51.100.9" "$(named getent hosts other.names.test | awk '{ print $1 }')" "gethostbyname2"
    equal "other.names.test" "$(named getent hosts 198.51.100.9 | awk '{ print $2 }')" "gethostbyaddr"
    exits 2 named getent hosts nothing.names.test
}

by_python() {
    named /usr/bin/python3 - >"$TAP_DIR/python" <<'PYTHON'
import ctypes, socket, threading
print(socket.gethostbyname("other.names.test"))
print(socket.gethostbyaddr("198.51.100.9")[0])
print(socket.getnameinfo(("198.51.100.9", 80), 0)[0])
print(socket.getaddrinfo("other.names.test", 80, socket.AF_INET, socket.SOCK_STREAM, 0, socket.AI_ADDRCONFIG)[0][4][0])
libc = ctypes.CDLL("libc.so.6")
room = ctypes.create_string_buffer(4096)
program = ctypes.CDLL(None)
for call in (program.res_query, program.res_search):
    length = call(b"text.names.test", 1, 16, room, len(room))
    print(b"in words" in room.raw[:max(length, 0)])
query = ctypes.create_string_buffer(512)
length = program.res_mkquery(0, b"text.names.test", 1, 16, None, 0, None, query, 512)
print(b"in words" in room.raw[:max(0, program.res_send(query, length, room, len(room)))])
state = ctypes.create_string_buffer(1024)
program.__getattr__("__res_ninit")(state)
print(b"in words" in room.raw[:max(0, program.res_nquery(state, b"text.names.test", 1, 16, room, len(room)))])
found = []
def look():
    for _ in range(5):
        found.append(socket.gethostbyname("other.names.test"))
threads = [threading.Thread(target=look) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(found), set(found) == {"198.51.100.9"})
PYTHON
    cat "$TAP_DIR/python"
    printf '%s\n' 198.51.100.9 other.names.test other.names.test 198.51.100.9 True True True True '40 True' |
        cmp - "$TAP_DIR/python"
}

# getaddrinfo_a: a list that is waited for, then one whose end is told by a signal.
in_background() {
    named /usr/bin/python3 - >"$TAP_DIR/python" <<'PYTHON'
import ctypes, signal, socket
class Request(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("service", ctypes.c_char_p), ("hints", ctypes.c_void_p),
                ("result", ctypes.c_void_p), ("status", ctypes.c_int), ("reserved", ctypes.c_int * 5)]
class Information(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_int), ("family", ctypes.c_int), ("type", ctypes.c_int), ("protocol", ctypes.c_int),
                ("length", ctypes.c_uint), ("address", ctypes.POINTER(ctypes.c_ubyte * 16))]
class Event(ctypes.Structure):
    _fields_ = [("value", ctypes.c_void_p), ("signal", ctypes.c_int), ("kind", ctypes.c_int), ("rest", ctypes.c_ulong * 6)]
program = ctypes.CDLL(None)
def request(name):
    return Request(name=name, service=b"80")
def listed(*requests):
    return (ctypes.POINTER(Request) * len(requests))(*map(ctypes.pointer, requests))
def answer(request):
    status = program.gai_error(ctypes.byref(request))
    if status:
        return status
    return socket.inet_ntoa(bytes(ctypes.cast(request.result, ctypes.POINTER(Information)).contents.address.contents[4:8]))
one, two, three = request(b"other.names.test"), request(b"nothing.names.test"), request(b"www.names.test")
print(program.getaddrinfo_a(0, listed(one, two, three), 3, None))
print(answer(one), answer(two), answer(three))
four = request(b"other.names.test")
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
print(program.getaddrinfo_a(1, listed(four), 1, ctypes.byref(Event(signal=signal.SIGUSR1))))
print(signal.sigwait([signal.SIGUSR1]) == signal.SIGUSR1, answer(four))
PYTHON
    cat "$TAP_DIR/python"
    printf '%s\n' 0 "198.51.100.9 -2 $T_PEER" 0 "True 198.51.100.9" | cmp - "$TAP_DIR/python"
}

# 60 addresses do not fit 512 bytes: the answer is cut, and libc asks again over TCP.
cut_answer() {
    equal 60 "$(named getent ahostsv4 many.names.test | awk '$2 == "STREAM"' | wc -l)" addresses
    if [ "${1:-}" = edns ]; then
        resolv "nameserver $T_PEER" "options edns0"
        equal 60 "$(named getent ahostsv4 many.names.test | awk '$2 == "STREAM"' | wc -l)" "addresses by EDNS"
    fi
}

search_list() {
    resolv "nameserver $T_PEER" "search wrong.test names.test" "options ndots:1"
    equal "198.51.100.9" "$(named getent ahostsv4 other | awk 'NR == 1 { print $1 }')" "address"
    [ "$(asked 'query\[A\] other.wrong.test')" -gt 0 ]
}

hosts_file() {
    local before
    before="$(asked 'query')"
    equal 192.0.2.200 "$(named getent ahostsv4 filed.names.test | awk 'NR == 1 { print $1 }')" "address"
    named getent ahosts "$T_PEER" >/dev/null
    equal "$before" "$(asked 'query')" "queries"
}

# The first server is silent: libc's own time-out passes, then it asks the second.
silent_server() {
    local start=$SECONDS
    resolv "nameserver $T_BLACKHOLE" "nameserver $T_PEER" "options timeout:1 attempts:2"
    equal "198.51.100.9" "$(named getent ahostsv4 other.names.test | awk 'NR == 1 { print $1 }')" "address"
    [ "$((SECONDS - start))" -le 15 ]
}

# The first server is not there at all: the refusal sends libc to the second at once.
refusing_server() {
    local start=$SECONDS
    resolv "nameserver $T_REFUSING" "nameserver $T_PEER" "options timeout:20 attempts:1"
    equal "198.51.100.9" "$(named getent ahostsv4 other.names.test | awk 'NR == 1 { print $1 }')" "address"
    [ "$((SECONDS - start))" -le 15 ]
}

own_list() {
    resolv "nameserver $T_BLACKHOLE" "options timeout:1 attempts:1"
    export REMORA_DNS="$T_PEER"
    equal "198.51.100.9" "$(named getent ahostsv4 other.names.test | awk 'NR == 1 { print $1 }')" "address"
    REMORA_DNS="$T_PEER:53,$T_BLACKHOLE"
    equal "198.51.100.9" "$(named getent ahostsv4 other.names.test | awk 'NR == 1 { print $1 }')" "address"
}

# The kernel reaches no server here.
switched_off() {
    resolv "nameserver $T_PEER" "options timeout:1 attempts:1"
    local before
    before="$(asked 'query')"
    REMORA_DNS=kernel exits 2 named getent ahostsv4 other.names.test
    REMORA_RULES="kernel port=53" exits 2 named getent ahostsv4 other.names.test
    equal "$before" "$(asked 'query')" "queries"
}

# A server on the kernel's loopback, as systemd-resolved is, stays the kernel's.
loopback_server() {
    local pid
    lab_start bare dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --log-facility=- \
        --port=53 --listen-address=127.0.0.53 --bind-interfaces --pid-file= --user=root --group= \
        --host-record=near.names.test,192.0.2.55
    pid="$LAB_PID"
    retry 10 lab_listens ours udp 53
    resolv "nameserver 127.0.0.53"
    equal "192.0.2.55" "$(named getent ahostsv4 near.names.test | awk 'NR == 1 { print $1 }')" "address"
    lab_stop "$pid"
}

# Nothing listens for a program that has ended, although its TIME_WAITs go on.
relays_end() {
    retry 10 no_relay_listens
}

no_relay_listens() {
    ! nsenter "--net=/run/netns/$LAB_OURS" ss -Hltn "src 127.0.0.1" | grep .
}

lab_up
T_REFUSING="${T_PEER%.*}.3"
ip -n "$LAB_PEER" addr add "$T_REFUSING/24" dev "$LAB_PEER_IFACE"
printf 'hosts: files dns\n' >"$TAP_DIR/nsswitch.conf"
printf '127.0.0.1 localhost\n192.0.2.200 filed.names.test\n' >"$TAP_DIR/hosts"
server
peer_http "$PORT"
resolv "nameserver $T_PEER"
ok "curl http://name/" by_curl
ok "getent: addresses, a reverse name, a name that is not there" by_getent
ok "gethostby*, getnameinfo, getaddrinfo, res_* from Python, 8 threads" by_python
ok "getaddrinfo_a: a list waited for, a signal at its end" in_background
ok "an answer that is cut goes on over TCP; EDNS" cut_answer edns
resolv "nameserver $T_PEER"
ok "/etc/hosts and addresses need no server" hosts_file
ok "search list" search_list
ok "a silent server, then one that answers" silent_server
ok "a server that refuses, then one that answers" refusing_server
ok_remora "REMORA_DNS names the servers" own_list
ok_remora "REMORA_DNS=kernel and a rule switch it off" switched_off
ok "a server on loopback" loopback_server
ok_remora "the way to the servers ends with the program" relays_end
tap_end
