# What every test script shares: TAP output, steps with their log, artefacts that stay
# after a failure, servers and data. To be sourced by scripts/tests/NN-name.sh; brings
# lab.sh with it. The namespaces themselves are left to lab.sh.
# shellcheck shell=bash
# shellcheck source=lab.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/lab.sh"

TAP_COUNT=0
TAP_FAILED=0
TAP_FINISHED=
TAP_DIR=
# Jobs outside the laboratory that must end, and clean up, before this script does.
TAP_CHILDREN=()

# tap_begin "$0" "$@": the first call of a script. Prints its head for --help, gets the
# rights for a laboratory, makes the artefact directory, sets the traps.
tap_begin() {
    set -euo pipefail
    case "${2:-}" in
    --help | -h)
        sed -n -e '/^# shellcheck/d' -e '2,/^[^#]/s/^# \{0,1\}//p' "$1"
        printf '\nenvironment: LAB_MODE=kernel runs it on the bare kernel; TAP_KEEP=1 keeps the\n'
        printf 'artefacts of a good run; scripts/lab.sh --help for the rest.\n'
        exit 0
        ;;
    esac
    lab_enter "$@"
    TAP_NAME="$(basename "$1" .sh)"
    TAP_DIR="$(mktemp -d "${TMPDIR:-/tmp}/remora-$TAP_NAME.XXXXXX")"
    export TAP_DIR
    lab_trap
    trap tap_exit EXIT
    lab_export_log
}

# The library's own log lies beside the test's, unless the user wants it elsewhere.
lab_export_log() {
    export REMORA_LOG="${REMORA_LOG:-info}"
    export REMORA_LOG_FILE="${REMORA_LOG_FILE:-$TAP_DIR/remora.log}"
}

# The end of the script, wanted or not: a plan is printed only by tap_end, so a script
# that died on its way is never taken for a good one.
tap_exit() {
    local status=$?
    trap - EXIT
    trap '' HUP INT TERM
    local child
    for child in "${TAP_CHILDREN[@]}"; do
        kill -TERM "$child" 2>/dev/null || true
    done
    for child in "${TAP_CHILDREN[@]}"; do
        wait "$child" 2>/dev/null || true
    done
    lab_capture_stop >/dev/null 2>&1 || true
    lab_down || true
    if [ -z "$TAP_FINISHED" ]; then
        printf 'Bail out! %s ended early with status %s\n' "$TAP_NAME" "$status"
        [ "$status" -ne 0 ] || status=1
    fi
    if [ "$status" -eq 0 ] && [ -z "${TAP_KEEP:-}" ]; then
        rm -rf "$TAP_DIR"
    else
        # Bulk data says nothing; logs and captures do.
        find "$TAP_DIR" -type f -size +32M -delete 2>/dev/null || true
        printf '# log and captures: %s\n' "$TAP_DIR"
    fi
    exit "$status"
}

# The last call: the plan, and the status of the script.
tap_end() {
    printf '1..%d\n' "$TAP_COUNT"
    TAP_FINISHED=1
    if [ "$TAP_FAILED" -gt 0 ]; then
        printf '# %s: %d of %d failed (mode %s)\n' "$TAP_NAME" "$TAP_FAILED" "$TAP_COUNT" "$LAB_MODE"
        exit 1
    fi
    exit 0
}

# ok NAME CMD...: one test line. CMD may be a function; it runs in a subshell under
# `set -e`, so its first failing command fails the step. Its output goes to the log.
ok() {
    local name="$1" status=0
    shift
    TAP_COUNT=$((TAP_COUNT + 1))
    # A background job that is waited for: a signal is heard at once.
    ("$@") </dev/null >"$TAP_DIR/step.out" 2>&1 &
    wait "$!" || status=$?
    {
        printf '== %d %s (status %d)\n' "$TAP_COUNT" "$name" "$status"
        cat "$TAP_DIR/step.out"
    } >>"$TAP_DIR/steps.log"
    if [ "$status" -eq 0 ]; then
        printf 'ok %d - %s\n' "$TAP_COUNT" "$name"
    else
        TAP_FAILED=$((TAP_FAILED + 1))
        printf 'not ok %d - %s\n' "$TAP_COUNT" "$name"
        printf '# status %d; the last lines of its output:\n' "$status"
        tail -n 12 "$TAP_DIR/step.out" | cut -c1-300 | sed 's/^/#   /'
    fi
}

# not_here NAME REASON: a line that this mode cannot have.
not_here() {
    TAP_COUNT=$((TAP_COUNT + 1))
    printf 'ok %d - %s # SKIP %s\n' "$TAP_COUNT" "$1" "$2"
}

# ok_remora NAME CMD...: a test of remora alone; the bare kernel has nothing to show.
ok_remora() {
    if [ "$LAB_MODE" = kernel ]; then
        not_here "$1" "not on the bare kernel"
    else
        ok "$@"
    fi
}

# retry SECONDS CMD...: poll until CMD succeeds, at most so long and never longer than
# LAB_PATIENCE.
retry() {
    local seconds="$1"
    shift
    if [ "$seconds" -gt "$LAB_PATIENCE" ]; then
        seconds="$LAB_PATIENCE"
    fi
    lab_retry "$seconds" "$@"
}

# --- checks for use inside steps ------------------------------------------------------

# exits STATUS CMD...: CMD ends with just this status.
exits() {
    local want="$1" status=0
    shift
    "$@" || status=$?
    if [ "$status" -ne "$want" ]; then
        printf 'status %d in place of %d: %s\n' "$status" "$want" "$*"
        return 1
    fi
}

# says PATTERN FILE: the file has a line that matches (extended expression).
says() {
    if ! grep -qE -- "$1" "$2"; then
        printf 'nothing matches /%s/ in:\n' "$1"
        cat "$2"
        return 1
    fi
}

# equal WANT GOT [WHAT]
equal() {
    if [ "$1" != "$2" ]; then
        printf '%s: wanted "%s", got "%s"\n' "${3:-value}" "$1" "$2"
        return 1
    fi
}

sum_of() {
    sha256sum "$1" | cut -d' ' -f1
}

# same_data WANT GOT: two files have one checksum.
same_data() {
    printf 'sha256 %s %s bytes\n' "$(sum_of "$2")" "$(stat -c %s "$2")"
    equal "$(sum_of "$1")" "$(sum_of "$2")" "sha256 of $2 ($(stat -c %s "$1") bytes wanted, $(stat -c %s "$2") there)"
}

# bytes N SEED FILE: N pseudo-random bytes, the ones of the server's /bytes/N?seed=SEED.
bytes() {
    /usr/bin/python3 - "$1" "$2" >"$3" <<'PYTHON'
import random, sys
length, source = int(sys.argv[1]), random.Random(int(sys.argv[2]))
while length > 0:
    piece = source.randbytes(min(65536, length))
    length -= len(piece)
    sys.stdout.buffer.write(piece)
PYTHON
}

# peer_http PORT: the HTTP server on the peer, ready when this returns.
peer_http() {
    LAB_DEADLINE=900 lab_start peer /usr/bin/python3 "$LAB_SCRIPTS/peer-http.py" \
        --bind "$T_PEER" --port "$1" --life 900 >"$TAP_DIR/peer-http-$1.log" 2>&1
    lab_retry 15 lab_listens peer tcp "$1"
}

# peer_server tcp|udp PORT CMD...: any server on the peer, ready when this returns.
peer_server() {
    local kind="$1" port="$2"
    shift 2
    lab_start peer "$@" >"$TAP_DIR/server-$port.log" 2>&1
    lab_retry 15 lab_listens peer "$kind" "$port"
}

# ours_answers PORT: the peer's kernel can connect to our side's port. The only sign there
# is of a listener that the kernel has not.
ours_answers() {
    lab_peer bash -c "exec 3<>/dev/tcp/$T_LOCAL/$1" 2>/dev/null
}

# our_server PORT CMD...: a server on our side in the foreground, ready when this returns;
# its pid (the watchdog's, see lab_stop) is in LAB_PID.
our_server() {
    local port="$1"
    shift
    lab_start ours "$@" >"$TAP_DIR/server-$port.log" 2>&1
    retry 15 ours_answers "$port"
}

# frames FILE FILTER [tshark option...]: the frames of a capture that match.
frames() {
    local file="$1" filter="$2"
    shift 2
    tshark -n -r "$file" -o tcp.check_checksum:TRUE -o ip.check_checksum:TRUE \
        -o udp.check_checksum:TRUE -Y "$filter" "$@" 2>/dev/null
}

frame_count() {
    frames "$@" | wc -l
}
