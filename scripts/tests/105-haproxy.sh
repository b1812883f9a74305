#!/usr/bin/env bash
# haproxy on our side, two threads, in front of two kernel backends: clients and backends
# both reach it through the stack. HTTP with keep-alive, TCP mode, parallel transfers,
# health checks, take-over by a new process (-sf), soft stop.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"
HTTP=8105
RAW=8106
URL="http://$LAB_NET.1:$HTTP"

configure() {
    cat >"$TAP_DIR/haproxy.cfg" <<CONF
global
    nbthread 2
    maxconn 400
    stats socket $TAP_DIR/admin mode 600 level admin
    pidfile $TAP_DIR/haproxy.pid
defaults
    mode http
    timeout connect 5s
    timeout client 20s
    timeout server 20s
    option http-keep-alive
frontend web
    bind 0.0.0.0:$HTTP
    use_backend second if { path_beg /connections }
    default_backend both
backend both
    balance roundrobin
    option httpchk GET /
    default-server inter 300ms fall 2 rise 1
    server one $T_PEER:8080 check
    server two $T_PEER:8081 check
backend second
    server two $T_PEER:8081
listen raw
    mode tcp
    bind 0.0.0.0:$RAW
    server one $T_PEER:8080
CONF
}

fetch() { lab_peer curl -sS -m 30 "$@"; }
answers() { [ "$(fetch "$URL/" 2>/dev/null)" = "<h1>remora</h1>" ]; }
admin() { printf '%s\n' "$1" | socat - "UNIX-CONNECT:$TAP_DIR/admin"; }

there_and_back() {
    bytes 3000000 5 "$TAP_DIR/want"
    fetch -o "$TAP_DIR/got" "http://$T_LOCAL:$1/bytes/3000000?seed=5"
    same_data "$TAP_DIR/want" "$TAP_DIR/got"
    fetch -H 'Expect:' --data-binary "@$TAP_DIR/want" -o "$TAP_DIR/echoed" "http://$T_LOCAL:$1/echo"
    same_data "$TAP_DIR/want" "$TAP_DIR/echoed"
}

parallel() {
    local number
    local -a words=()
    bytes 500000 7 "$TAP_DIR/want"
    for number in $(seq 20); do
        words+=(-o "$TAP_DIR/parallel-$number" "http://$T_LOCAL:$1/bytes/500000?seed=7")
    done
    fetch -Z --parallel-immediate --parallel-max 20 "${words[@]}"
    for number in $(seq 20); do
        cmp "$TAP_DIR/want" "$TAP_DIR/parallel-$number"
    done
}

many_requests() {
    lab_peer ab -q -k -n 1000 -c 10 "$URL/" >"$TAP_DIR/ab"
    says '^Complete requests: +1000$' "$TAP_DIR/ab"
    says '^Failed requests: +0$' "$TAP_DIR/ab"
    ! grep '^Non-2xx' "$TAP_DIR/ab"
}

state_is() {
    admin 'show stat' | awk -F, -v name="$1" '$1 == "both" && $2 == name { print $18 }' | grep "^$2" >/dev/null
}

health_check() {
    retry 5 state_is one UP
    lab_stop "$ONE"
    retry 10 state_is one DOWN
    answers
    answers
    state_is two UP
}

# One request; the old process may close a connection that has asked for nothing yet (52), as haproxy does on the kernel.
one_request() {
    local status=0
    fetch -o "$1" "$URL/" || status=$?
    if [ "$status" -eq 52 ]; then
        fetch -o "$1" "$URL/"
    else
        return "$status"
    fi
}

# A new process takes over while requests come: no connection is refused, reset or left over.
reload() {
    local old number
    old="$(cat "$TAP_DIR/haproxy.pid")"
    bytes 1500000 9 "$TAP_DIR/want"
    lab_start peer curl -sS -m 30 --limit-rate 1M -o "$TAP_DIR/slow" "http://$T_LOCAL:$RAW/bytes/1500000?seed=9"
    local slow="$LAB_PID"
    retry 10 test -s "$TAP_DIR/slow"
    lab_start ours haproxy -D -f "$TAP_DIR/haproxy.cfg" -sf "$old"
    for number in $(seq 40); do
        one_request "$TAP_DIR/reload-$number"
        equal "<h1>remora</h1>" "$(cat "$TAP_DIR/reload-$number")" "request $number"
    done
    lab_wait "$slow" 30
    same_data "$TAP_DIR/want" "$TAP_DIR/slow"
    retry 15 lab_has_ended "$old"
    [ "$(cat "$TAP_DIR/haproxy.pid")" != "$old" ]
    answers
}

soft_stop() {
    local pid
    pid="$(cat "$TAP_DIR/haproxy.pid")"
    kill -USR1 "$pid"
    retry 15 lab_has_ended "$pid"
    exits 7 fetch -o /dev/null "$URL/"
}

lab_up
peer_http 8080
ONE=$LAB_PID
peer_http 8081
configure
lab_ours haproxy -D -f "$TAP_DIR/haproxy.cfg"
ok "it answers for its backends" retry 10 answers
ok "HTTP: 3 MB there and back" there_and_back "$HTTP"
ok "TCP mode: 3 MB there and back" there_and_back "$RAW"
ok "HTTP: 20 transfers in parallel" parallel "$HTTP"
ok "TCP mode: 20 transfers in parallel" parallel "$RAW"
ok "ab: 1,000 requests, kept alive" many_requests
ok "a new process takes over (-sf): nothing is lost" reload
ok "a dead backend is found and left out" health_check
ok "soft stop" soft_stop
tap_end
