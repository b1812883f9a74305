#!/usr/bin/env bash
# The process that stays behind: an idle family sleeps, whether its program is blocked or
# busy with something else, even stopped; what arrives meanwhile is answered (how soon is told
# by scripts/busy.sh); memory is bounded, beside a program of 2 GiB, too; no pipeline waits for
# it; and when TIME_WAIT is over no keeper is left, of fifty short programs no one.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"
# An arena in use (shared) and what a keeper has for itself, in KiB.
PRIVATE_LIMIT=4096

# Times that a process has gone to sleep.
sleeps_of() {
    sed -n 's/^voluntary_ctxt_switches:\s*//p' "/proc/$1/status"
}

field_of() {
    sed -n "s/^$2:\\s*\\([0-9]*\\) kB/\\1/p" "/proc/$1/status"
}

# All processes on our side, or those of one name.
processes() {
    local pid
    for pid in $(ip netns pids "$LAB_OURS"); do
        case "$(cat "/proc/$pid/comm" 2>/dev/null)" in
        timeout | env | '') ;;
        remora-keeper) if [ "$1" != program ]; then printf '%s\n' "$pid"; fi ;;
        *) if [ "$1" != keeper ]; then printf '%s\n' "$pid"; fi ;;
        esac
    done
}

no_keepers() {
    [ -z "$(processes keeper)" ]
}

# Within one second nobody wakes up.
sleeps() {
    local pid
    declare -A before
    for pid in $(processes all); do
        before[$pid]="$(sleeps_of "$pid")"
    done
    sleep 1
    [ "${#before[@]}" -ge 2 ]
    for pid in "${!before[@]}"; do
        equal "${before[$pid]}" "$(sleeps_of "$pid")" "times that $(cat "/proc/$pid/comm") slept"
    done
}

starts_program() {
    lab_start ours /usr/bin/python3 -c '
import select, signal, socket, sys
if sys.argv[3] == "large":
    memory = bytearray(2 << 30)
    memory[::4096] = b"x" * (len(memory) // 4096)
connection = socket.create_connection((sys.argv[1], 4600))
connection.sendall(b"x")
connection.recv(1)
open(sys.argv[2], "w").close()
if sys.argv[3] == "busy":
    signal.pause()
connection.recv(1)' "$T_PEER" "$TAP_DIR/holds-$1" "$1"
    printf '%s' "$LAB_PID" >"$TAP_DIR/pid"
    retry 40 test -e "$TAP_DIR/holds-$1"
    sleep 0.3
}

ends_program() {
    lab_stop "$(cat "$TAP_DIR/pid")"
}

# Each of twenty echo requests is answered, however long that takes on a machine under load.
all_answered() {
    lab_peer ping -n -c 20 -i 0.05 -W 10 "$T_LOCAL" >"$TAP_DIR/ping"
    cat "$TAP_DIR/ping"
    equal 20 "$(grep -c 'bytes from' "$TAP_DIR/ping")" "echo requests answered"
}

stops() {
    [ "$(sed -n 's/^State:\s*\(.\).*/\1/p' "/proc/$1/status")" = T ]
}

# A program that is about something else is no part of it: stopped, it cannot have been. So
# the keeper answers. (What arrives and is not answered at once waits for nobody.)
answered_without_program() {
    local pid status=0
    for pid in $(processes program); do
        kill -STOP "$pid"
        retry 5 stops "$pid"
    done
    all_answered || status=$?
    for pid in $(processes program); do
        kill -CONT "$pid"
    done
    return "$status"
}

is_small() {
    local keeper
    for keeper in $(processes keeper); do
        printf 'keeper %s: %s KiB, of them shared %s\n' "$keeper" "$(field_of "$keeper" VmRSS)" "$(field_of "$keeper" RssShmem)"
        [ $(($(field_of "$keeper" VmRSS) - $(field_of "$keeper" RssShmem))) -le "$PRIVATE_LIMIT" ]
    done
}

fifty_programs() {
    local number
    for number in $(seq 1001 1050); do
        lab_ours curl -sS -m 20 -o /dev/null "http://$T_PEER:4601/bytes/$number"
    done
    is_small
}

# The pipeline ends with its programs, whose connection is in TIME_WAIT.
holds_nobody() {
    local count
    count="$(lab_ours sh -c "curl -sS -m 20 'http://$T_PEER:4601/bytes/1001' | wc -c")"
    equal 1001 "$count" "bytes"
    [ "$LAB_MODE" = kernel ] || [ -n "$(processes keeper)" ]
}

# What waits for the end of TIME_WAIT does not look at the clock meanwhile.
lingers_asleep() {
    local keeper first=0 second=0
    for keeper in $(processes keeper); do
        first=$((first + $(sleeps_of "$keeper")))
    done
    sleep 1
    for keeper in $(processes keeper); do
        second=$((second + $(sleeps_of "$keeper")))
    done
    equal "$first" "$second" "times that keepers slept"
}

# TIME_WAIT is 60 s, as Linux's.
all_end() {
    LAB_PATIENCE=75 retry 75 no_keepers
}

lab_up
lab_capture_start "$TAP_DIR/peer.pcap" 96
peer_server tcp 4600 socat -t 20 TCP-LISTEN:4600,reuseaddr,fork EXEC:cat
peer_http 4601
for kind in busy blocked large; do
    ok "a program starts ($kind)" starts_program "$kind"
    ok_remora "an idle family sleeps ($kind)" sleeps
    if [ "$kind" = busy ] && [ "$LAB_MODE" = remora ]; then
        ok "what arrives is answered while the program cannot run" answered_without_program
    fi
    ok "what arrives is answered ($kind)" all_answered
    ok "an idle keeper is small ($kind)" is_small
    ok "the program ends ($kind)" ends_program
done
ok "fifty short programs run, their keepers are small" fifty_programs
ok "a pipeline in a substitution ends while its keeper stays" holds_nobody
ok "keepers in TIME_WAIT sleep" lingers_asleep
ok "no keeper is left after TIME_WAIT" all_end
tap_end
