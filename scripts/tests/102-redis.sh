#!/usr/bin/env bash
# redis: the server on our side (BGSAVE forks a snapshot child under load), filled and read
# by the kernel's redis-cli and redis-benchmark; then a kernel server with redis-cli and
# redis-benchmark on our side; a replica of ours that copies from a kernel master.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"
PORT=6390

redis_words() {
    REDIS=(redis-server --port "$1" --bind "$2" --protected-mode no --save "" --appendonly no
        --dir "$TAP_DIR" --dbfilename "dump-$1.rdb" --daemonize no --logfile "$TAP_DIR/redis-$1.log")
}

ask() { lab_peer redis-cli -h "$T_LOCAL" -p "$PORT" "$@"; }
ask_ours() { lab_ours redis-cli -h "$T_PEER" -p "$PORT" "$@"; }
answers() { "$@" ping 2>/dev/null | grep PONG >/dev/null; }

pipe_commands() {
    local number
    for number in $(seq 20000); do
        printf 'SET key:%d value:%d:%d\r\n' "$number" "$number" "$((number * number))"
    done
}

fill_and_read() {
    pipe_commands >"$TAP_DIR/commands"
    "$1" --pipe <"$TAP_DIR/commands" >"$TAP_DIR/pipe"
    says 'errors: 0, replies: 20000' "$TAP_DIR/pipe"
    equal 20000 "$("$1" dbsize)" keys
    equal "value:777:603729" "$("$1" get key:777)" "value of key:777"
}

large_value() {
    bytes 5000000 3 "$TAP_DIR/value"
    "$1" -x set large <"$TAP_DIR/value"
    "$1" --raw get large | head -c -1 >"$TAP_DIR/got"
    same_data "$TAP_DIR/value" "$TAP_DIR/got"
}

snapshot_is_done() {
    "$1" info persistence >"$TAP_DIR/info"
    grep '^rdb_bgsave_in_progress:0' "$TAP_DIR/info" >/dev/null
}

# The child that forks off for the snapshot is a member of the family while it writes.
snapshot_under_load() {
    lab_start peer redis-benchmark -h "$T_LOCAL" -p "$PORT" -c 20 -n 30000 -r 10000 -t set,get -q \
        >"$TAP_DIR/load" 2>&1
    local load=$LAB_PID number
    for number in 1 2 3; do
        ask bgsave
        retry 10 snapshot_is_done ask
        says '^rdb_last_bgsave_status:ok' "$TAP_DIR/info"
    done
    lab_wait "$load" 30
    tr '\r' '\n' <"$TAP_DIR/load" >"$TAP_DIR/load.lines"
    says '^GET: .* requests per second' "$TAP_DIR/load.lines"
    redis-check-rdb "$TAP_DIR/dump-$PORT.rdb" >"$TAP_DIR/rdb"
    says 'RDB looks OK' "$TAP_DIR/rdb"
}

benchmark() {
    "$1" redis-benchmark -h "$2" -p "$PORT" -c 30 -P 16 -n 60000 -t set,get,lrange_100 -q >"$TAP_DIR/bench"
    tr '\r' '\n' <"$TAP_DIR/bench" >"$TAP_DIR/bench.lines"
    equal 4 "$(grep -c 'requests per second' "$TAP_DIR/bench.lines")" "results of the benchmark"
    ! grep -iE 'error|could not' "$TAP_DIR/bench.lines"
}

subscriber() {
    lab_start "$1" redis-cli -h "$2" -p "$PORT" subscribe news >"$TAP_DIR/news"
    local listener=$LAB_PID
    retry 10 has_subscriber "$3"
    "$3" publish news 'it works'
    retry 10 grep 'it works' "$TAP_DIR/news"
    lab_stop "$listener"
}

has_subscriber() { "$1" pubsub numsub news | grep -x 1 >/dev/null; }

shutdown() {
    ask shutdown nosave || true
    retry 10 lab_has_ended "$SERVER"
    says 'ready to exit' "$TAP_DIR/redis-$PORT.log"
}

in_step() {
    lab_peer redis-cli -h "$T_LOCAL" -p $((PORT + 1)) info replication | grep '^master_link_status:up' >/dev/null &&
        [ "$(lab_peer redis-cli -h "$T_LOCAL" -p $((PORT + 1)) get late)" = yes ]
}

replica() {
    redis_words $((PORT + 1)) "$T_LOCAL"
    lab_start ours "${REDIS[@]}" --replicaof "$T_PEER $PORT" --enable-debug-command yes --repl-diskless-load swapdb
    local server=$LAB_PID
    ask_ours set late yes
    retry 15 in_step
    equal "$(ask_ours debug digest)" \
        "$(lab_peer redis-cli -h "$T_LOCAL" -p $((PORT + 1)) debug digest)" "digest of all data"
    lab_stop "$server"
}

lab_up
redis_words "$PORT" "$T_LOCAL"
lab_start ours "${REDIS[@]}"
SERVER=$LAB_PID
ok "the server answers" retry 10 answers ask
ok "20,000 keys in one pipe" fill_and_read ask
ok "a value of 5 MB" large_value ask
ok "three BGSAVEs under load" snapshot_under_load
ok "redis-benchmark, 30 connections, pipelined" benchmark lab_peer "$T_LOCAL"
ok "publish and subscribe" subscriber peer "$T_LOCAL" ask
ok "shutdown" shutdown

# What the first server saved is not for the second one.
rm -f "$TAP_DIR/dump-$PORT.rdb"
redis_words "$PORT" "$T_PEER"
lab_start peer "${REDIS[@]}" --enable-debug-command yes
retry 10 answers ask_ours || true
ok "redis-cli on our side: 20,000 keys in one pipe" fill_and_read ask_ours
ok "redis-cli on our side: a value of 5 MB" large_value ask_ours
ok "redis-benchmark on our side" benchmark lab_ours "$T_PEER"
ok "a subscriber on our side" subscriber ours "$T_PEER" ask_ours
ok "a replica on our side" replica
tap_end
