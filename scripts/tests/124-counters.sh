#!/usr/bin/env bash
# Counters, sockets, neighbours and routes of a running program by `remora counters` and its
# like, and the counters at exit.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"

# says_within SECONDS PATTERN COMMAND: `remora COMMAND` has the line before long.
shows() { lab_bare "$REMORA_BIN" "${@:2}" >"$TAP_DIR/out" 2>&1 && grep -qE -- "$1" "$TAP_DIR/out"; }

within() {
    retry 10 shows "$@" || says "$1" "$TAP_DIR/out"
}

while_it_runs() {
    our_server 4240 socat -t 20 TCP-LISTEN:4240,reuseaddr,fork EXEC:cat
    lab_start peer socat "TCP:$T_LOCAL:4240" "SYSTEM:sleep 20"
    within "^tcp +ESTAB +0 +0 +$T_LOCAL:4240 +$T_PEER:[0-9]+" sockets
    within 'rto:[0-9]+ rtt:.* cwnd:[1-9]' sockets --info
    within "^$T_PEER lladdr [0-9a-f:]+ (REACHABLE|STALE|DELAY|PROBE)$" neighbours
    within "^default via $T_PEER( |$)" routes
    within "^local $T_LOCAL( |$)" routes
    within '^tcp +LISTEN +.*:4240' sockets
    within '^TcpPassiveOpens +[1-9]' counters
    within '^TcpCurrEstab +1$' counters
    within '^IpInReceives +[1-9]' counters
    within '^TcpExtTCPTimeouts +0$' counters --all
    says "^# .*socat\[[0-9]+\].* $T_LOCAL/24" "$TAP_DIR/out"
}

at_exit() {
    REMORA_COUNTERS=1 lab_ours env -u REMORA_LOG_FILE -u REMORA_LOG nc.openbsd -z "$T_PEER" 1 2>"$TAP_DIR/err" || true
    says 'nc.openbsd\[[0-9]+\] TcpActiveOpens 1$' "$TAP_DIR/err"
    says 'nc.openbsd\[[0-9]+\] TcpAttemptFails 1$' "$TAP_DIR/err"
}

nobody() {
    exits 2 lab_peer "$REMORA_BIN" counters 1 2>"$TAP_DIR/err"
    says 'process 1 has no stack' "$TAP_DIR/err"
}

lab_up
#= test REF C-19
ok_remora "remora sockets, counters, neighbours and routes" while_it_runs
ok_remora "REMORA_COUNTERS: counters at exit" at_exit
ok_remora "a process without a stack" nobody
tap_end
