#!/usr/bin/env bash
# wget against the kernel's stack: GET, POST, several URLs over one connection, and the
# ways in which a connect fails.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"
URL="http://$LAB_NET.2:8080"

fetch() { lab_ours wget -nv -t 1 -T 20 "$@"; }

get_bytes() {
    bytes 10000000 21 "$TAP_DIR/want"
    fetch -O "$TAP_DIR/got" "$URL/bytes/10000000?seed=21"
    same_data "$TAP_DIR/want" "$TAP_DIR/got"
}

post_file() {
    bytes 2000000 22 "$TAP_DIR/body"
    fetch -O "$TAP_DIR/answer" --post-file="$TAP_DIR/body" "$URL/hash"
    equal "2000000 $(sum_of "$TAP_DIR/body")" "$(cat "$TAP_DIR/answer")" answer
}

keep_alive() {
    local before after
    before="$(lab_peer curl -sS "$URL/connections")"
    fetch -O "$TAP_DIR/got" "$URL/bytes/50000" "$URL/bytes/50000" "$URL/bytes/50000"
    after="$(lab_peer curl -sS "$URL/connections")"
    equal 150000 "$(stat -c %s "$TAP_DIR/got")" bytes
    equal 2 "$((after - before))" connections
}

not_found() {
    exits 8 fetch -O "$TAP_DIR/none" "$URL/nothing"
}

refused() {
    exits 4 fetch -O /dev/null "http://$T_PEER:1/" 2>"$TAP_DIR/err"
    says 'Connection refused' "$TAP_DIR/err"
}

connect_timeout() {
    exits 4 fetch --connect-timeout=2 -O /dev/null "http://$T_BLACKHOLE/" 2>"$TAP_DIR/err"
    says 'timed out' "$TAP_DIR/err"
}

read_timeout() {
    exits 4 fetch --read-timeout=2 -O /dev/null "$URL/silent" 2>"$TAP_DIR/err"
    says 'timed out' "$TAP_DIR/err"
}

lab_up
peer_http 8080
lab_capture_start "$TAP_DIR/peer.pcap" 160
ok "GET 10 MB" get_bytes
ok "POST 2 MB" post_file
ok "three URLs over one connection" keep_alive
ok "an error of the server" not_found
ok "connection refused" refused
ok "connect timeout" connect_timeout
ok "read timeout" read_timeout
tap_end
