#!/usr/bin/env bash
# postgresql: the server on our side, a process per connection, with 20 kernel pgbench
# clients, a large COPY each way, cancel, immediate disconnects; then psql, pgbench and
# pg_dump on our side against a kernel server. The server refuses root, so it also is a
# family of another user.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"
PORT=5499
DATA="$TAP_DIR/data"
BIN="$(find /usr/lib/postgresql -maxdepth 2 -name bin 2>/dev/null | sort -V | tail -n 1)"
export PGUSER=postgres PGDATABASE=postgres PGCONNECT_TIMEOUT=10
AS=(setpriv --reuid=postgres --regid=postgres --clear-groups)
# The right to open packet sockets, kept through the change of user.
WITH=(setpriv --reuid=postgres --regid=postgres --clear-groups --inh-caps=+net_raw --ambient-caps=+net_raw)

make_cluster() {
    chmod 755 "$TAP_DIR"
    mkdir "$DATA"
    chown postgres: "$DATA"
    : >"$REMORA_LOG_FILE"
    chmod 666 "$REMORA_LOG_FILE"
    "${AS[@]}" "$BIN/initdb" -D "$DATA" -A trust --no-sync -E UTF8 --locale=C >"$TAP_DIR/initdb.log"
    printf 'host all all %s/24 trust\n' "$LAB_NET.0" >>"$DATA/pg_hba.conf"
    cat >>"$DATA/postgresql.conf" <<CONF
fsync = off
max_connections = 60
unix_socket_directories = '$DATA'
shared_buffers = 32MB
CONF
}

# The words that start the server on an address.
server_words() {
    SERVER_WORDS=("$BIN/postgres" -D "$DATA" -h "$1" -p "$PORT")
}

sql() { lab_peer psql -h "$T_LOCAL" -p "$PORT" -X -q -A -t -v ON_ERROR_STOP=1 "$@"; }
sql_ours() { lab_ours psql -h "$T_PEER" -p "$PORT" -X -q -A -t -v ON_ERROR_STOP=1 "$@"; }

first_query() {
    retry 15 sql -c 'select 1' 2>/dev/null
    equal 5050 "$(sql -c 'select sum(i) from generate_series(1, 100) i')" sum
    equal "$T_PEER" "$(sql -c 'select host(inet_client_addr())')" "address of the client"
    equal "$T_LOCAL" "$(sql -c 'select host(inet_server_addr())')" "address of the server"
}

# What went in by COPY comes out again.
copy() {
    "$1" -c 'drop table if exists numbers; create table numbers(i int, t text)'
    seq 100000 | awk '{ print $1 "\tvalue " $1 * 7 }' >"$TAP_DIR/rows"
    "$1" -c 'copy numbers from stdin' <"$TAP_DIR/rows"
    "$1" -c 'copy (select * from numbers order by i) to stdout' >"$TAP_DIR/got"
    same_data "$TAP_DIR/rows" "$TAP_DIR/got"
}

bench() {
    local side="$1" address="$2"
    "lab_$side" pgbench -h "$address" -p "$PORT" -i -q -s 2 2>"$TAP_DIR/init-$side"
    "lab_$side" pgbench -h "$address" -p "$PORT" -c 20 -j 4 -t 25 -n >"$TAP_DIR/bench-$side" 2>&1
    says '^number of transactions actually processed: 500/500' "$TAP_DIR/bench-$side"
    # A connection per transaction: a fork for each.
    "lab_$side" pgbench -h "$address" -p "$PORT" -c 10 -j 2 -t 8 -n -S -C >"$TAP_DIR/bench-$side" 2>&1
    says '^number of transactions actually processed: 80/80' "$TAP_DIR/bench-$side"
}

# The tellers' and accounts' balances are one sum in any order of transactions.
consistent() {
    "$1" -c 'select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history),
        (select count(*) from pgbench_history)' >"$TAP_DIR/sums"
    equal 't|500' "$(cat "$TAP_DIR/sums")" "sums"
}

# The client asks for it over a second connection.
cancel() {
    local start=$SECONDS status=0
    lab_argv "$1"
    timeout -s INT 1 "${LAB_ARGV[@]}" psql -h "$2" -p "$PORT" -X -c 'select pg_sleep(20)' \
        >"$TAP_DIR/cancel" 2>&1 || status=$?
    retry 5 says 'canceling statement due to user request' "$TAP_DIR/cancel"
    [ "$((SECONDS - start))" -lt 10 ]
}

backends_are() {
    [ "$(sql -c "select count(*) from pg_stat_activity where backend_type = 'client backend'")" = "$1" ]
}

# A backend whose client is killed sees it.
client_is_killed() {
    lab_start peer psql -h "$T_LOCAL" -p "$PORT" -X -c 'select pg_sleep(30)'
    retry 5 backends_are 2
    sql -c 'set client_connection_check_interval = 0'
    kill -KILL "$(pgrep -P "$LAB_PID")"
    sql -c "select pg_cancel_backend(pid) from pg_stat_activity where query like '%pg_sleep(30)%' and pid <> pg_backend_pid()"
    retry 10 backends_are 1
}

fast_shutdown() {
    lab_start peer psql -h "$T_LOCAL" -p "$PORT" -X -c 'select pg_sleep(30)' 2>"$TAP_DIR/terminated"
    retry 5 backends_are 2
    kill -INT "$(head -n 1 "$DATA/postmaster.pid")"
    retry 10 says 'terminating connection due to administrator command' "$TAP_DIR/terminated"
    retry 10 lab_has_ended "$SERVER"
    says 'database system is shut down' "$TAP_DIR/server-$PORT.log"
    ! grep -E 'PANIC|crash' "$TAP_DIR/server-$PORT.log"
}

dump() {
    lab_ours pg_dump -h "$T_PEER" -p "$PORT" -t numbers --data-only >"$TAP_DIR/dump"
    sed -n '/^COPY/,/^\\\.$/p' "$TAP_DIR/dump" | sed '1d;$d' | sort -n >"$TAP_DIR/dumped"
    same_data "$TAP_DIR/rows" "$TAP_DIR/dumped"
}

large_object() {
    bytes 3000000 8 "$TAP_DIR/blob"
    # The psql variable LASTOID is the number of the object just made.
    sql_ours -f - >/dev/null <<SQL
\\lo_import '$TAP_DIR/blob'
\\lo_export :LASTOID '$TAP_DIR/blob.out'
SQL
    same_data "$TAP_DIR/blob" "$TAP_DIR/blob.out"
}

if [ "${LAB_UNSHARED:-}" = 1 ] || [ -z "$BIN" ]; then
    not_here "postgresql" "it needs a user of its own, and its programs"
    tap_end
fi
lab_up
make_cluster
server_words "$T_LOCAL"
lab_start ours "${WITH[@]}" "${SERVER_WORDS[@]}" >"$TAP_DIR/server-$PORT.log" 2>&1
SERVER=$LAB_PID
ok "the server answers, and knows both addresses" first_query
ok "100,000 rows in and out by COPY" copy sql
ok "pgbench: 20 clients, then a connection per transaction" bench peer "$T_LOCAL"
ok "no transaction was lost" consistent sql
ok "a query is cancelled over a second connection" cancel peer "$T_LOCAL"
ok "a killed client's backend ends" client_is_killed
ok "fast shutdown tells its clients" fast_shutdown

server_words "$T_PEER"
peer_server tcp "$PORT" "${AS[@]}" "${SERVER_WORDS[@]}"
retry 10 sql_ours -c 'select 1' >/dev/null 2>&1 || true
ok "psql on our side: 100,000 rows in and out" copy sql_ours
ok "pgbench on our side: 20 clients" bench ours "$T_PEER"
ok "no transaction was lost" consistent sql_ours
ok "psql on our side cancels a query" cancel ours "$T_PEER"
ok "pg_dump on our side" dump
ok "a large object there and back" large_object
tap_end
