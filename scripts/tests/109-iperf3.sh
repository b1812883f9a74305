#!/usr/bin/env bash
# iperf3, as client and as server on our side: TCP one way and the other, 8 streams, both
# ways at once, UDP at a rate, a given number of bytes.
# The reports of both ends must fit together.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"
PORT=5201

# measure SIDE ADDRESS OPTION...: the client's report as JSON.
measure() {
    local side="$1" address="$2"
    shift 2
    "lab_$side" iperf3 -c "$address" -p "$PORT" -J --connect-timeout 5000 "$@" >"$TAP_DIR/report"
}

# What the program itself measured on both ends must fit together.
fits() {
    /usr/bin/python3 - "$TAP_DIR/report" "$@" <<'PYTHON'
import json, sys
report = json.load(open(sys.argv[1]))
kind, streams = sys.argv[2], int(sys.argv[3])
assert "error" not in report, report["error"]
end = report["end"]
assert len(end["streams"]) == streams, len(end["streams"])
if kind == "tcp":
    sent, received = end["sum_sent"]["bytes"], end["sum_received"]["bytes"]
    # What was sent last may still lie in buffers: 4 MB of the sender's and 32 MB of the receiver's.
    assert received > 0 and 0 <= sent - received <= streams * 36000000, (sent, received)
    print("%.0f Mbit/s" % (end["sum_received"]["bits_per_second"] / 1e6))
else:
    total = end["sum"]
    assert total["packets"] > 100, total
    assert total["lost_percent"] < 5, total
    print(total)
PYTHON
}

tcp() {
    local side="$1" address="$2" streams="$3"
    shift 3
    measure "$side" "$address" -t 1 -P "$streams" "$@"
    fits tcp "$streams"
}

both_ways() {
    measure "$1" "$2" -t 1 --bidir
    /usr/bin/python3 - "$TAP_DIR/report" <<'PYTHON'
import json, sys
end = json.load(open(sys.argv[1]))["end"]
assert end["sum_received"]["bytes"] > 0 and end["sum_received_bidir_reverse"]["bytes"] > 0, end
PYTHON
}

some_bytes() {
    measure "$1" "$2" -n 20000000
    /usr/bin/python3 - "$TAP_DIR/report" <<'PYTHON'
import json, sys
end = json.load(open(sys.argv[1]))["end"]
sent, received = end["sum_sent"]["bytes"], end["sum_received"]["bytes"]
# It sends whole blocks of 128 KiB, and does not wait until the last ones are read.
assert 20000000 <= sent < 20000000 + 262144 and sent >= received > 0, (sent, received)
PYTHON
}

udp() {
    local side="$1" address="$2"
    shift 2
    measure "$side" "$address" -u -b 10M -t 1 -l 1400 "$@"
    fits udp 1
}

all_of_it() {
    local who="$1" side="$2" address="$3"
    ok "$who: TCP, one stream" tcp "$side" "$address" 1
    ok "$who: TCP, the other way" tcp "$side" "$address" 1 -R
    ok "$who: TCP, 8 streams" tcp "$side" "$address" 8
    ok "$who: TCP, 8 streams the other way" tcp "$side" "$address" 8 -R
    ok "$who: both ways at once" both_ways "$side" "$address"
    ok "$who: 20 MB" some_bytes "$side" "$address"
    ok "$who: zero copy, small segments" tcp "$side" "$address" 1 -Z -M 536
    ok "$who: UDP" udp "$side" "$address"
    ok "$who: UDP, the other way" udp "$side" "$address" -R
}

lab_up
peer_server tcp "$PORT" iperf3 -s -B "$T_PEER" -p "$PORT"
all_of_it client ours "$T_PEER"
lab_stop "$LAB_PID"

lab_start ours iperf3 -s -B "$T_LOCAL" -p "$PORT" >"$TAP_DIR/server-ours.log" 2>&1
SERVER=$LAB_PID
retry 10 ours_answers "$PORT" || true
all_of_it server peer "$T_LOCAL"
ok "the server still runs" kill -0 "$SERVER"
tap_end
