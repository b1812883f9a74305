#!/usr/bin/env bash
# apache2 on our side, first with the prefork and then with the event MPM: static files,
# keep-alive, parallel transfers, graceful restart in the middle of a transfer, stop.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"
SITE="$TAP_DIR/site"
MODULES=/usr/lib/apache2/modules

configure() {
    local user=www-data
    # In a user namespace there is no other user to become.
    [ "${LAB_UNSHARED:-}" != 1 ] || user=root
    cat >"$TAP_DIR/apache.conf" <<CONF
ServerRoot $TAP_DIR
ServerName $T_LOCAL
Listen 0.0.0.0:$PORT
PidFile $TAP_DIR/$MPM.pid
ErrorLog $TAP_DIR/$MPM-error.log
LoadModule mpm_${MPM}_module $MODULES/mod_mpm_$MPM.so
LoadModule authz_core_module $MODULES/mod_authz_core.so
LoadModule headers_module $MODULES/mod_headers.so
LoadModule ratelimit_module $MODULES/mod_ratelimit.so
LoadModule alias_module $MODULES/mod_alias.so
DocumentRoot $SITE
User $user
Group $user
EnableSendfile On
EnableMMAP Off
KeepAliveTimeout 5
MaxKeepAliveRequests 0
GracefulShutdownTimeout 20
Header set X-Generation $1
<IfModule mpm_prefork_module>
    StartServers 3
    MinSpareServers 2
    MaxSpareServers 6
    MaxRequestWorkers 30
</IfModule>
<IfModule mpm_event_module>
    StartServers 2
    ThreadsPerChild 16
    MinSpareThreads 8
    MaxSpareThreads 48
    MaxRequestWorkers 64
</IfModule>
Alias /slow $SITE
<Location /slow>
    SetOutputFilter RATE_LIMIT
    SetEnv rate-limit 400
</Location>
CONF
    # SetEnv is mod_env's.
    sed -i "/^LoadModule alias/a LoadModule env_module $MODULES/mod_env.so" "$TAP_DIR/apache.conf"
}

httpd() { lab_ours apache2 -f "$TAP_DIR/apache.conf" "$@"; }
parent() { cat "$TAP_DIR/$MPM.pid"; }
fetch() { lab_peer curl -sS -m 30 "$@"; }

starts() {
    configure 1
    httpd -k start
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
    same_data "$SITE/large" "$TAP_DIR/two"
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
    lab_peer ab -q -k -n 2000 -c 10 "$URL/small" >"$TAP_DIR/ab"
    says '^Failed requests: +0$' "$TAP_DIR/ab"
}

generation_is() { fetch -I "$URL/small" | grep -i "^X-Generation: $1" >/dev/null; }

graceful() {
    lab_start peer curl -sS -m 30 -o "$TAP_DIR/slow-$MPM" "$URL/slow/large"
    local transfer=$LAB_PID
    retry 5 test -s "$TAP_DIR/slow-$MPM"
    configure 2
    kill -USR1 "$(parent)"
    retry 10 generation_is 2
    lab_wait "$transfer" 30
    same_data "$SITE/large" "$TAP_DIR/slow-$MPM"
}

stops() {
    local pid
    pid="$(parent)"
    kill -TERM "$pid"
    retry 15 lab_has_ended "$pid"
    exits 7 fetch -o /dev/null "$URL/small"
    says 'caught SIGTERM, shutting down' "$TAP_DIR/$MPM-error.log"
    ! grep -E ':(emerg|alert|crit|error)\]' "$TAP_DIR/$MPM-error.log"
}

lab_up
chmod 755 "$TAP_DIR"
mkdir "$SITE"
printf 'small\n' >"$SITE/small"
bytes 800000 1 "$SITE/large"
PORT=8101
for MPM in prefork event; do
    URL="http://$LAB_NET.1:$PORT"
    ok "$MPM: starts as a daemon" starts
    ok "$MPM: static files, keep-alive" static_files
    ok "$MPM: 20 transfers in parallel" parallel
    ok "$MPM: ab without a failure" many_requests
    ok "$MPM: graceful restart in the middle of a transfer" graceful
    ok "$MPM: SIGTERM ends it and its log is clean" stops
    PORT=$((PORT + 1))
done
tap_end
