#!/usr/bin/env bash
# Policy rules: what is refused, what the kernel serves, what the stack serves, by call, address,
# port, protocol and program; the lines that explain each decision, and the one at exit.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"
URL="http://$LAB_NET.2:8080"

# ruled RULES COMMAND...: stderr holds nothing but what the library says.
ruled() {
    local rules="$1"
    shift
    lab_ours env -u REMORA_LOG -u REMORA_LOG_FILE REMORA_RULES="$rules" "$@" 2>"$TAP_DIR/err"
}

# Prints the errno's name for each ADDRESS PORT.
probe='
import errno, socket, sys
for host, port in zip(sys.argv[1::2], sys.argv[2::2]):
    client = socket.socket()
    client.settimeout(10)
    code = client.connect_ex((host, int(port)))
    print(errno.errorcode.get(code, "connected"))
'

# answers RULES WANTED ADDRESS PORT...
answers() {
    local rules="$1" wanted="$2"
    shift 2
    equal "$wanted" "$(ruled "$rules" /usr/bin/python3 -c "$probe" "$@" | tr '\n' ' ' | sed 's/ $//')" "answers under '$rules'"
}

denied() {
    answers "deny port=8080" "EACCES" "$T_PEER" 8080
    answers "deny=ECONNREFUSED call=connect protocol=tcp address=$LAB_NET.0/24" "ECONNREFUSED" "$T_PEER" 8080
    answers "deny=110" "ETIMEDOUT" "$T_PEER" 8080
}

not_matched() {
    answers "deny port=8081; deny call=bind; deny protocol=udp; deny address=192.0.2.0/24; deny program=perl" \
        "connected" "$T_PEER" 8080
}

first_match() {
    answers "allow port=8080; deny" "connected EACCES" "$T_PEER" 8080 "$T_PEER" 8081
}

by_program() {
    answers "deny program=python*" "EACCES" "$T_PEER" 8080
    ruled "deny program=python*" curl -sS -m 20 -o "$TAP_DIR/got" "$URL/"
    says remora "$TAP_DIR/got"
}

# The kernel has no route to the peer, and the loopback server is the kernel's.
to_kernel() {
    answers "kernel port=8080" "ENETUNREACH" "$T_PEER" 8080
    answers "stack address=127.0.0.1 port=8090" "ECONNREFUSED" 127.0.0.1 8090
    answers "" "connected" 127.0.0.1 8090
}

listener_denied() {
    local listener='
import errno, socket
server = socket.socket()
try:
    server.bind(("0.0.0.0", 8100))
    server.listen()
    print("listens")
except OSError as error:
    print(errno.errorcode[error.errno])
'
    equal EPERM "$(ruled "deny=EPERM call=bind port=8000-8999" /usr/bin/python3 -c "$listener")" bind
    equal EPERM "$(ruled "deny=EPERM call=listen port=8100" /usr/bin/python3 -c "$listener")" listen
    equal listens "$(ruled "deny=EPERM call=listen port=8101" /usr/bin/python3 -c "$listener")" "another port"
}

datagram_denied() {
    local sender='
import errno, socket, sys
try:
    socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", (sys.argv[1], 9))
    print("sent")
except OSError as error:
    print(errno.errorcode[error.errno])
'
    equal EACCES "$(ruled "deny call=send port=9" /usr/bin/python3 -c "$sender" "$T_PEER")" sendto
    equal sent "$(ruled "deny call=connect port=9" /usr/bin/python3 -c "$sender" "$T_PEER")" sendto
}

from_file() {
    printf 'rules = ["allow port=8080", "deny"]\n' >"$TAP_DIR/rules.toml"
    REMORA_CONFIG="$TAP_DIR/rules.toml" answers "" "connected EACCES" "$T_PEER" 8080 "$T_PEER" 8081
}

bad_rule() {
    ruled "allow; deny port=many" /usr/bin/python3 -c "$probe" 127.0.0.1 8090 >"$TAP_DIR/out"
    equal connected "$(cat "$TAP_DIR/out")" "the program still runs"
    cat "$TAP_DIR/err"
    equal 1 "$(wc -l <"$TAP_DIR/err")" "lines on stderr"
    says 'REMORA_RULES.*rule 2.*many' "$TAP_DIR/err"
}

explained() {
    lab_bare env -u REMORA_LOG -u REMORA_LOG_FILE "$REMORA_BIN" run --explain --summary \
        --rule "deny port=8081" --rule "stack address=$LAB_NET.0/24" -- \
        /usr/bin/python3 -c "$probe" "$T_PEER" 8080 "$T_PEER" 8081 127.0.0.1 8090 192.0.2.1 1 \
        >"$TAP_DIR/out" 2>"$TAP_DIR/err"
    cat "$TAP_DIR/err"
    equal "connected EACCES connected" "$(head -n 3 "$TAP_DIR/out" | tr '\n' ' ' | sed 's/ $//')" stdout
    says "remora: python3.*connect tcp $T_PEER:8080: stack \\(rule 2: stack address=" "$TAP_DIR/err"
    says "connect tcp $T_PEER:8081: deny=EACCES \\(rule 1: deny port=8081\\)" "$TAP_DIR/err"
    says "connect tcp 127.0.0.1:8090: kernel \\(loopback\\)" "$TAP_DIR/err"
    says "connect tcp 192.0.2.1:1: stack \\(default\\)" "$TAP_DIR/err"
    says "1 socket went to the kernel: 1 loopback" "$TAP_DIR/err"
}

if [ "$LAB_MODE" = kernel ]; then
    not_here "policy" "there is no library on the bare kernel"
    tap_end
fi

lab_up
peer_http 8080
lab_start bare /usr/bin/python3 "$LAB_SCRIPTS/peer-http.py" --bind 127.0.0.1 --port 8090 >"$TAP_DIR/loopback.log" 2>&1
lab_retry 15 lab_listens ours tcp 8090

#= test REF C-18
ok "deny, with and without an errno" denied
ok "a rule for another call, port, address, protocol or program is none" not_matched
ok "the first rule that matches wins" first_match
ok "by program" by_program
ok "to the kernel, to the stack" to_kernel
ok "bind and listen" listener_denied
ok "sendto" datagram_denied
ok "rules in the file" from_file
ok "a bad rule is named, and the program runs" bad_rule
ok "--explain and --summary" explained
tap_end
