#!/usr/bin/env bash
# Groups on the wire: reports of version 3 when a group is joined and left, an answer to a
# query, and reports and a leave of version 2 once a querier of that version has asked.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"

member() {
    lab_ours python3 - <<'PYTHON'
import socket, time
fd = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
fd.bind(("", 5555))
request = socket.inet_aton("239.7.7.7") + socket.inet_aton("0.0.0.0")
fd.setsockopt(socket.SOL_IP, socket.IP_ADD_MEMBERSHIP, request)
time.sleep(1.2)
fd.setsockopt(socket.SOL_IP, socket.IP_DROP_MEMBERSHIP, request)
time.sleep(0.3)
fd.setsockopt(socket.SOL_IP, socket.IP_ADD_MEMBERSHIP, request)
time.sleep(2)
print("joined", flush=True)
time.sleep(9)
PYTHON
}

# The query of a version: its 8 or 12 bytes, with half a second to answer.
query() {
    lab_peer python3 - "$T_PEER" "$1" <<'PYTHON'
import socket, struct, sys
message = bytearray([0x11, 5, 0, 0, 0, 0, 0, 0] + ([2, 125, 0, 0] if sys.argv[2] == "3" else []))
total = sum(struct.unpack("!%dH" % (len(message) // 2), message))
total = (total >> 16) + (total & 0xFFFF)
message[2:4] = struct.pack("!H", ~total & 0xFFFF)
fd = socket.socket(socket.AF_INET, socket.SOCK_RAW, 2)
fd.setsockopt(socket.SOL_IP, socket.IP_MULTICAST_IF, socket.inet_aton(sys.argv[1]))
fd.sendto(bytes(message), ("224.0.0.1", 0))
PYTHON
}

story() {
    lab_capture_start "$TAP_DIR/igmp.pcap"
    member >"$TAP_DIR/member.log" &
    local job=$!
    retry 15 grep -q joined "$TAP_DIR/member.log"
    query 3
    sleep 1
    query 2
    wait "$job"
    lab_capture_stop
    tcpdump -nvr "$TAP_DIR/igmp.pcap" igmp and src "$T_LOCAL" >"$TAP_DIR/igmp.txt" 2>/dev/null
}

says() {
    grep -q "$1" "$TAP_DIR/igmp.txt"
}

lab_up
ok "a member joins, leaves, joins and is asked" story
ok "joining is reported" says 'gaddr 239.7.7.7 to_ex'
ok "leaving is reported" says 'gaddr 239.7.7.7 to_in'
ok "a query is answered" says 'gaddr 239.7.7.7 is_ex'
ok "a querier of version 2 gets its reports" says '239.7.7.7: igmp v2 report'
ok "and its leave" says '224.0.0.2: igmp leave'
ok "with the router alert option and a TTL of 1" says 'ttl 1,.*options (RA)'
tap_end
