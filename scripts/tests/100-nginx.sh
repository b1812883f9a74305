#!/usr/bin/env bash
# nginx as a daemon on our side, its master and two workers in one family: static files
# with sendfile, keep-alive, parallel transfers, reload by HUP, graceful quit, two masters
# on one port, and as a reverse proxy with both of its sides in the stack. The peer's curl, ab and wrk are the kernel's.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"
PORT=8100
URL="http://$LAB_NET.1:$PORT"
SITE="$TAP_DIR/site"
WORKER=root
# In a user namespace there is no other user to become.
[ "${LAB_UNSHARED:-}" = 1 ] || WORKER=www-data

configure() {
    cat >"$TAP_DIR/nginx.conf" <<CONF
user $WORKER;
daemon on;
worker_processes 2;
pid $TAP_DIR/nginx.pid;
error_log $TAP_DIR/error.log info;
worker_shutdown_timeout 10s;
events { worker_connections 256; }
http {
    access_log $TAP_DIR/access.log;
    client_body_temp_path $TAP_DIR/body;
    proxy_temp_path $TAP_DIR/proxy;
    fastcgi_temp_path $TAP_DIR/fastcgi;
    uwsgi_temp_path $TAP_DIR/uwsgi;
    scgi_temp_path $TAP_DIR/scgi;
    sendfile on;
    tcp_nopush on;
    keepalive_timeout 30s;
    keepalive_requests 100000;
    client_max_body_size 20m;
    upstream behind { server $T_PEER:8080; keepalive 8; }
    server {
        listen 0.0.0.0:$PORT;
        root $SITE;
        add_header X-Generation $1;
        location /slow/ { alias $SITE/; limit_rate 400k; }
        location /behind/ {
            proxy_pass http://behind/;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }
    }
}
CONF
}

master() { cat "$TAP_DIR/nginx.pid"; }
workers() { ps -o pid= --ppid "$(master)" | sort; }
fetch() { lab_peer curl -sS -m 30 "$@"; }

daemon_starts() {
    lab_ours nginx -p "$TAP_DIR" -c "$TAP_DIR/nginx.conf"
    retry 10 ours_answers "$PORT"
    equal 2 "$(workers | wc -l)" workers
}

static_files() {
    local name
    for name in small large; do
        fetch -o "$TAP_DIR/got" "$URL/$name"
        same_data "$SITE/$name" "$TAP_DIR/got"
    done
    fetch -r 1000000-1000099 -o "$TAP_DIR/got" "$URL/large"
    dd if="$SITE/large" bs=100 skip=10000 count=1 status=none | cmp - "$TAP_DIR/got"
    equal 404 "$(fetch -o /dev/null -w '%{http_code}' "$URL/nothing")" status
}

keep_alive() {
    local number
    local -a words=()
    for number in 1 2 3 4 5; do
        words+=(-o "$TAP_DIR/kept-$number" "$URL/small")
    done
    fetch -w '%{num_connects}\n' "${words[@]}" >"$TAP_DIR/connects"
    equal "1 0 0 0 0" "$(paste -sd' ' "$TAP_DIR/connects")" "connections of five fetches"
    cmp "$SITE/small" "$TAP_DIR/kept-5"
}

parallel() {
    local number
    local -a words=()
    for number in $(seq 40); do
        words+=(-o "$TAP_DIR/parallel-$number" "$URL/large")
    done
    fetch -Z --parallel-immediate --parallel-max 40 "${words[@]}"
    for number in $(seq 40); do
        cmp "$SITE/large" "$TAP_DIR/parallel-$number"
        rm "$TAP_DIR/parallel-$number"
    done
}

many_requests() {
    lab_peer ab -q -n 2000 -c 20 "$URL/small" >"$TAP_DIR/ab"
    says '^Complete requests: +2000$' "$TAP_DIR/ab"
    says '^Failed requests: +0$' "$TAP_DIR/ab"
    lab_peer ab -q -k -n 4000 -c 20 "$URL/small" >"$TAP_DIR/ab"
    says '^Failed requests: +0$' "$TAP_DIR/ab"
    says '^Keep-Alive requests: +4000$' "$TAP_DIR/ab"
}

wrk_finds_no_error() {
    lab_peer wrk -t 2 -c 40 -d 1 "$URL/small" >"$TAP_DIR/wrk"
    cat "$TAP_DIR/wrk"
    says 'requests in' "$TAP_DIR/wrk"
    ! grep -E 'Socket errors|Non-2xx' "$TAP_DIR/wrk"
}

# Both workers serve: the access log of each connection is written by its worker.
# A transfer under way goes on through the reload; what comes after sees the new file.
reload() {
    local old
    old="$(workers | paste -sd' ')"
    lab_start peer curl -sS -m 30 -o "$TAP_DIR/slow" "$URL/slow/large"
    local transfer=$LAB_PID
    retry 5 test -s "$TAP_DIR/slow"
    configure 2
    kill -HUP "$(master)"
    retry 10 generation_is 2
    lab_wait "$transfer" 30
    same_data "$SITE/large" "$TAP_DIR/slow"
    retry 15 workers_changed "$old"
}

generation_is() { fetch -I "$URL/small" | grep -i "^X-Generation: $1" >/dev/null; }

# shellcheck disable=SC2086  # a list of numbers
workers_changed() {
    local pid
    for pid in $1; do
        if kill -0 "$pid" 2>/dev/null; then
            return 1
        fi
    done
    [ "$(workers | wc -l)" -eq 2 ]
}

proxied() {
    bytes 3000000 5 "$TAP_DIR/want"
    fetch -o "$TAP_DIR/got" "$URL/behind/bytes/3000000?seed=5"
    same_data "$TAP_DIR/want" "$TAP_DIR/got"
    fetch -H 'Expect:' --data-binary "@$TAP_DIR/want" -o "$TAP_DIR/echoed" "$URL/behind/echo"
    same_data "$TAP_DIR/want" "$TAP_DIR/echoed"
}

proxied_in_parallel() {
    local number
    local -a words=()
    for number in $(seq 20); do
        words+=(-o "$TAP_DIR/behind-$number" "$URL/behind/bytes/300000?seed=6")
    done
    bytes 300000 6 "$TAP_DIR/want"
    fetch -Z --parallel-immediate --parallel-max 20 "${words[@]}"
    for number in $(seq 20); do
        cmp "$TAP_DIR/want" "$TAP_DIR/behind-$number"
    done
}

backend_is_gone() {
    lab_stop "$PEER_HTTP"
    equal 502 "$(fetch -o /dev/null -w '%{http_code}' "$URL/behind/")" status
}

# Quit: the listener closes at once, the transfer under way is finished, then all end.
graceful_quit() {
    local pid
    pid="$(master)"
    lab_start peer curl -sS -m 30 -o "$TAP_DIR/last" "$URL/slow/large"
    local transfer=$LAB_PID
    retry 5 test -s "$TAP_DIR/last"
    kill -QUIT "$pid"
    retry 10 refused
    lab_wait "$transfer" 30
    same_data "$SITE/large" "$TAP_DIR/last"
    retry 10 lab_has_ended "$pid"
}

refused() {
    local status=0
    fetch -o /dev/null "$URL/small" 2>/dev/null || status=$?
    [ "$status" -eq 7 ]
}

# reuseport_master NAME: an nginx of its own, which says its name.
reuseport_master() {
    cat >"$TAP_DIR/$1.conf" <<CONF
user $WORKER;
daemon on;
worker_processes 1;
pid $TAP_DIR/$1.pid;
error_log $TAP_DIR/error.log info;
events { worker_connections 64; }
http {
    access_log off;
    client_body_temp_path $TAP_DIR/body;
    proxy_temp_path $TAP_DIR/proxy;
    fastcgi_temp_path $TAP_DIR/fastcgi;
    uwsgi_temp_path $TAP_DIR/uwsgi;
    scgi_temp_path $TAP_DIR/scgi;
    server {
        listen 0.0.0.0:$((PORT + 1)) reuseport;
        return 200 $1;
    }
}
CONF
    lab_ours nginx -p "$TAP_DIR" -c "$TAP_DIR/$1.conf"
}

# Two masters that know nothing of each other share a port.
two_masters() {
    local number
    reuseport_master one
    reuseport_master two
    retry 10 ours_answers $((PORT + 1))
    for number in $(seq 40); do
        fetch "http://$T_LOCAL:$((PORT + 1))/"
        printf '\n'
    done >"$TAP_DIR/names"
    sort "$TAP_DIR/names" | uniq -c
    equal "one two" "$(sort -u "$TAP_DIR/names" | tr '\n' ' ' | sed 's/ $//')" "who has answered"
    number="$(cat "$TAP_DIR/one.pid")"
    kill -QUIT "$number"
    retry 10 lab_has_ended "$number"
    for number in $(seq 20); do
        equal two "$(fetch "http://$T_LOCAL:$((PORT + 1))/")" "answer $number"
    done
    number="$(cat "$TAP_DIR/two.pid")"
    kill -QUIT "$number"
    retry 10 lab_has_ended "$number"
}

nothing_alarming() {
    ! grep -E '\[(alert|crit|emerg)\]' "$TAP_DIR/error.log"
}

lab_up
chmod 755 "$TAP_DIR"
mkdir "$SITE"
printf 'small\n' >"$SITE/small"
bytes 1000200 1 "$SITE/large"
peer_http 8080
PEER_HTTP=$LAB_PID
configure 1
ok "the daemon starts with two workers" daemon_starts
ok "static files, a range, an error" static_files
ok "five fetches over one connection" keep_alive
ok "40 transfers of 1 MB in parallel" parallel
ok "ab: 2,000 connections and 4,000 kept-alive requests" many_requests
ok "wrk: 40 connections without an error" wrk_finds_no_error
ok "reload by HUP in the middle of a transfer" reload
ok "the new workers serve" parallel
ok "reverse proxy, both ways" proxied
ok "20 proxied transfers in parallel" proxied_in_parallel
ok "a backend that is gone is a 502" backend_is_gone
ok "graceful quit finishes the transfer under way" graceful_quit
ok "two masters share a port by reuseport" two_masters
ok "nothing alarming in its log" nothing_alarming
tap_end
