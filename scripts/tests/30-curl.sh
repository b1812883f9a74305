#!/usr/bin/env bash
# curl against the kernel's stack: GET, POST, 100 MB each way with offloads on and off,
# parallel transfers, keep-alive, and the ways in which a connect fails.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"
PORT=8080
LARGE=104857600
URL="http://$LAB_NET.2:$PORT"

fetch() { lab_ours curl -sS -m 50 "$@"; }

get_page() {
    equal "<h1>remora</h1>" "$(fetch "$URL/")" page
}

head_only() {
    fetch -I -o "$TAP_DIR/head" "$URL/bytes/1000"
    says '^Content-Length: 1000' "$TAP_DIR/head"
}

get_bytes() {
    bytes "$1" 3 "$TAP_DIR/want"
    fetch -o "$TAP_DIR/got" "$URL/bytes/$1?seed=3"
    same_data "$TAP_DIR/want" "$TAP_DIR/got"
}

post_small() {
    equal "5 $(printf hello | sha256sum | cut -d' ' -f1)" "$(fetch -d hello "$URL/hash")" answer
}

post_echo() {
    bytes 1000000 4 "$TAP_DIR/body"
    fetch --data-binary "@$TAP_DIR/body" -o "$TAP_DIR/echoed" "$URL/echo"
    same_data "$TAP_DIR/body" "$TAP_DIR/echoed"
}

put_chunked() {
    bytes 3000000 5 "$TAP_DIR/body"
    fetch -H 'Transfer-Encoding: chunked' -T "$TAP_DIR/body" -o "$TAP_DIR/answer" "$URL/put"
    equal "3000000 $(sum_of "$TAP_DIR/body")" "$(cat "$TAP_DIR/answer")" answer
}

download() {
    fetch -o "$TAP_DIR/down" -w '%{speed_download} bytes/s\n' "$URL/bytes/$LARGE?seed=9"
    same_data "$TAP_DIR/large" "$TAP_DIR/down"
    rm "$TAP_DIR/down"
}

upload() {
    fetch -H 'Expect:' -T "$TAP_DIR/large" -o "$TAP_DIR/answer" -w '%{speed_upload} bytes/s\n' "$URL/put"
    equal "$LARGE $(sum_of "$TAP_DIR/large")" "$(cat "$TAP_DIR/answer")" answer
}

parallel() {
    local number
    local -a words=()
    bytes 1000000 7 "$TAP_DIR/want"
    for number in $(seq 20); do
        words+=(-o "$TAP_DIR/parallel-$number" "$URL/bytes/1000000?seed=7")
    done
    fetch -Z --parallel-immediate --parallel-max 20 "${words[@]}"
    for number in $(seq 20); do
        same_data "$TAP_DIR/want" "$TAP_DIR/parallel-$number"
    done
}

keep_alive() {
    local before after
    before="$(lab_peer curl -sS "$URL/connections")"
    fetch -o "$TAP_DIR/one" "$URL/" -o "$TAP_DIR/two" "$URL/bytes/100000"
    after="$(lab_peer curl -sS "$URL/connections")"
    # One for curl's two fetches, one for the question itself.
    equal 2 "$((after - before))" "connections"
    equal 100000 "$(stat -c %s "$TAP_DIR/two")" bytes
}

refused() {
    exits 7 fetch -v "http://$T_PEER:1/" 2>"$TAP_DIR/err"
    says 'Connection refused' "$TAP_DIR/err"
}

no_route() {
    exits 7 lab_without_gateway fetch -v "http://$T_NOROUTE/" 2>"$TAP_DIR/err"
    says 'Network is unreachable' "$TAP_DIR/err"
    # That is how every connect ends without a stack; ours, too, reaches its own network.
    lab_without_gateway fetch "$URL/" | grep remora >/dev/null
}

icmp_errors_sent() {
    lab_peer nstat -asz IcmpOutDestUnreachs | awk '/IcmpOutDestUnreachs/ { print $2 }'
}

# It was the peer's message that did it.
unreachable_by_icmp() {
    local before
    before="$(icmp_errors_sent)"
    exits 7 fetch -v "http://$1/" 2>"$TAP_DIR/err"
    says "$2" "$TAP_DIR/err"
    [ "$(icmp_errors_sent)" -gt "$before" ]
}

nobody_there() {
    exits 7 fetch -v "http://$T_NET_DEAD/" 2>"$TAP_DIR/err"
    says 'No route to host' "$TAP_DIR/err"
}

connect_timeout() {
    local start=$SECONDS
    exits 28 fetch --connect-timeout 2 "http://$T_BLACKHOLE/"
    [ "$((SECONDS - start))" -le 10 ]
}

silent_server() {
    exits 28 fetch -m 2 "$URL/silent"
}

lab_up
peer_http "$PORT"
bytes "$LARGE" 9 "$TAP_DIR/large"

lab_capture_start "$TAP_DIR/peer.pcap" 160
ok "GET a page" get_page
ok "HEAD" head_only
ok "GET 1 byte" get_bytes 1
ok "GET 10 MB" get_bytes 10000000
ok "POST a short body" post_small
ok "POST 1 MB and get it back" post_echo
ok "PUT 3 MB in chunks" put_chunked
ok "20 transfers in parallel" parallel
ok "two URLs over one connection" keep_alive
ok "connection refused" refused
ok "no route" no_route
ok "ICMP net unreachable" unreachable_by_icmp "$T_NOROUTE" 'Network is unreachable'
ok "ICMP host unreachable" unreachable_by_icmp "$T_UNREACH" 'No route to host'
ok "ICMP prohibited" unreachable_by_icmp "$T_PROHIBIT" 'No route to host'
ok "nobody answers ARP" nobody_there
ok "connect timeout" connect_timeout
ok "a server that stays silent" silent_server
# The bulk that follows would only fill the disk.
lab_capture_stop || true

for state in on off; do
    ok "offloads go $state" lab_offloads "$state"
    ok "100 MB down, offloads $state" download
    ok "100 MB up, offloads $state" upload
done
tap_end
