#!/usr/bin/env bash
# lighttpd on our side: static files by sendfile, keep-alive, parallel transfers, an upload
# through its proxy module, with one process and with two workers, graceful stop.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"
SITE="$TAP_DIR/site"

configure() {
    cat >"$TAP_DIR/lighttpd.conf" <<CONF
server.document-root = "$SITE"
server.bind = "0.0.0.0"
server.port = $PORT
server.pid-file = "$TAP_DIR/lighttpd.pid"
server.errorlog = "$TAP_DIR/error.log"
server.upload-dirs = ( "$TAP_DIR" )
server.max-worker = $1
server.network-backend = "sendfile"
server.modules = ( "mod_proxy" )
\$HTTP["url"] =~ "^/(echo|bytes|hash)" {
    proxy.server = ( "" => (( "host" => "$T_PEER", "port" => 8080 )) )
}
CONF
}

fetch() { lab_peer curl -sS -m 30 "$@"; }

starts() {
    configure "$1"
    lab_ours lighttpd -f "$TAP_DIR/lighttpd.conf"
    retry 10 ours_answers "$PORT"
}

static_files() {
    local name
    for name in small large; do
        fetch -o "$TAP_DIR/got" "$URL/$name"
        same_data "$SITE/$name" "$TAP_DIR/got"
    done
    equal 404 "$(fetch -o /dev/null -w '%{http_code}' "$URL/nothing")" status
    fetch -w '%{num_connects}\n' -o "$TAP_DIR/one" "$URL/small" -o "$TAP_DIR/two" "$URL/large" \
        >"$TAP_DIR/connects"
    equal "1 0" "$(paste -sd' ' "$TAP_DIR/connects")" "connections of two fetches"
}

parallel() {
    local number
    local -a words=()
    for number in $(seq 20); do
        words+=(-o "$TAP_DIR/parallel-$number" "$URL/large")
    done
    fetch -Z --parallel-immediate --parallel-max 20 "${words[@]}"
    for number in $(seq 20); do
        cmp "$SITE/large" "$TAP_DIR/parallel-$number"
        rm "$TAP_DIR/parallel-$number"
    done
}

many_requests() {
    lab_peer ab -q -n 600 -c 10 "$URL/small" >"$TAP_DIR/ab"
    says '^Complete requests: +600$' "$TAP_DIR/ab"
    says '^Failed requests: +0$' "$TAP_DIR/ab"
}

proxied() {
    fetch -H 'Expect:' --data-binary "@$SITE/large" -o "$TAP_DIR/echoed" "$URL/echo"
    same_data "$SITE/large" "$TAP_DIR/echoed"
    bytes 500000 6 "$TAP_DIR/want"
    fetch -o "$TAP_DIR/got" "$URL/bytes/500000?seed=6"
    same_data "$TAP_DIR/want" "$TAP_DIR/got"
}

stops() {
    local pid
    pid="$(cat "$TAP_DIR/lighttpd.pid")"
    kill -INT "$pid"
    retry 10 lab_has_ended "$pid"
    retry 5 exits 7 fetch -o /dev/null "$URL/small"
}

lab_up
mkdir "$SITE"
printf 'small\n' >"$SITE/small"
bytes 1000000 1 "$SITE/large"
peer_http 8080
PORT=8107
for WORKERS in 0 2; do
    URL="http://$LAB_NET.1:$PORT"
    NAME="one process"
    [ "$WORKERS" = 0 ] || NAME="$WORKERS workers"
    ok "$NAME: starts as a daemon" starts "$WORKERS"
    ok "$NAME: static files, keep-alive" static_files
    ok "$NAME: 20 transfers in parallel" parallel
    ok "$NAME: ab without a failure" many_requests
    ok "$NAME: its proxy module, both ways" proxied
    ok "$NAME: SIGINT stops it gracefully" stops
    PORT=$((PORT + 1))
done
tap_end
