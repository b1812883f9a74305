#!/usr/bin/env bash
# stunnel on our side as TLS server before a kernel HTTP server, and as TLS client towards
# a kernel stunnel: both of its sockets are the stack's. Parallel transfers, large bodies.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"

certificate() {
    openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj "/CN=lab" -addext "subjectAltName=IP:$T_LOCAL,IP:$T_PEER" \
        -keyout "$TAP_DIR/key.pem" -out "$TAP_DIR/cert.pem" 2>/dev/null
}

# configure NAME CLIENT ACCEPT CONNECT
configure() {
    cat >"$TAP_DIR/$1.conf" <<CONF
foreground = yes
syslog = no
pid =
debug = 4
[lab]
client = $2
accept = $3
connect = $4
cert = $TAP_DIR/cert.pem
key = $TAP_DIR/key.pem
CAfile = $TAP_DIR/cert.pem
$([ "$2" = no ] || echo "verifyChain = yes")
CONF
}

there_and_back() {
    bytes 3000000 5 "$TAP_DIR/want"
    fetch -o "$TAP_DIR/got" "$1/bytes/3000000?seed=5"
    same_data "$TAP_DIR/want" "$TAP_DIR/got"
    fetch -H 'Expect:' --data-binary "@$TAP_DIR/want" -o "$TAP_DIR/echoed" "$1/echo"
    same_data "$TAP_DIR/want" "$TAP_DIR/echoed"
}

parallel() {
    local number
    local -a words=()
    bytes 300000 7 "$TAP_DIR/want"
    for number in $(seq 15); do
        words+=(-o "$TAP_DIR/parallel-$number" "$1/bytes/300000?seed=7")
    done
    fetch -Z --parallel-immediate --parallel-max 15 "${words[@]}"
    for number in $(seq 15); do
        cmp "$TAP_DIR/want" "$TAP_DIR/parallel-$number"
    done
}

fetch() { "lab_$SIDE" curl -sS -m 30 --cacert "$TAP_DIR/cert.pem" "$@"; }

backend_is_gone() {
    lab_stop "$HTTP"
    ! fetch -o /dev/null "$1/"
}

lab_up
certificate
peer_http 8080
HTTP=$LAB_PID
configure server no "$T_LOCAL:8443" "$T_PEER:8080"
our_server 8443 stunnel4 "$TAP_DIR/server.conf" || true
SIDE=peer
ok "TLS server: 3 MB there and back" there_and_back "https://$T_LOCAL:8443"
ok "TLS server: 15 transfers in parallel" parallel "https://$T_LOCAL:8443"

configure far no "$T_PEER:8444" "$T_PEER:8080"
peer_server tcp 8444 stunnel4 "$TAP_DIR/far.conf"
configure client yes "$T_LOCAL:8081" "$T_PEER:8444"
our_server 8081 stunnel4 "$TAP_DIR/client.conf" || true
ok "TLS client: 3 MB there and back" there_and_back "http://$T_LOCAL:8081"
ok "TLS client: 15 transfers in parallel" parallel "http://$T_LOCAL:8081"
SIDE=ours
ok "curl over TLS on our side: 3 MB there and back" there_and_back "https://$T_PEER:8444"
ok "curl over TLS on our side: 15 transfers in parallel" parallel "https://$T_PEER:8444"
SIDE=peer
ok "a backend that is gone ends the connection" backend_is_gone "https://$T_LOCAL:8443"
tap_end
