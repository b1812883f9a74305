#!/usr/bin/env bash
# Each back end of the device trait carries real traffic: packet, portable, and unix with
# two programs wired back to back without any kernel network between them.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"
URL="http://$LAB_NET.2:8080"
# A network that exists only on the wire between two programs.
WIRED="$LAB_OUTER.9"

fetch_over() {
    bytes 10000000 61 "$TAP_DIR/want"
    REMORA_DEVICE="$1" lab_ours curl -sS -m 50 -o "$TAP_DIR/got" "$URL/bytes/10000000?seed=61"
    same_data "$TAP_DIR/want" "$TAP_DIR/got"
}

put_over() {
    bytes 10000000 62 "$TAP_DIR/want"
    REMORA_DEVICE="$1" lab_ours curl -sS -m 50 -H 'Expect:' -T "$TAP_DIR/want" -o "$TAP_DIR/answer" "$URL/put"
    equal "10000000 $(sum_of "$TAP_DIR/want")" "$(cat "$TAP_DIR/answer")" answer
}

parallel_over() {
    local number
    local -a words=()
    bytes 500000 63 "$TAP_DIR/want"
    for number in $(seq 10); do
        words+=(-o "$TAP_DIR/parallel-$number" "$URL/bytes/500000?seed=63")
    done
    REMORA_DEVICE="$1" lab_ours curl -sS -m 50 -Z --parallel-immediate "${words[@]}"
    for number in $(seq 10); do
        same_data "$TAP_DIR/want" "$TAP_DIR/parallel-$number"
    done
}

# wired HOST: the settings of one end of the wire, an abstract AF_UNIX name that ends with
# its holders.
wired() {
    export REMORA_DEVICE="unix:@remora-wire-$$" REMORA_ADDR="$WIRED.$1/24"
    unset REMORA_GATEWAY REMORA_IFACE
}

start_wired_server() {
    (
        wired 1
        lab_argv ours
        exec timeout -k 3 60 "${LAB_ARGV[@]}" /usr/bin/python3 "$LAB_SCRIPTS/peer-http.py" --port 8091 --life 60
    ) >"$TAP_DIR/wired.log" 2>&1 &
    LAB_PIDS+=("$!")
}

wired_fetch() {
    (
        wired 2
        lab_ours curl -sS -m 40 "$@"
    )
}

server_is_wired() {
    lab_bare grep -q "remora-wire-$$" /proc/net/unix
}

back_to_back() {
    bytes 10000000 64 "$TAP_DIR/want"
    # One program, for a link has two ends and no third: the server's is there first, and
    # what comes before its listen() is repeated by curl itself.
    retry 15 server_is_wired
    wired_fetch --retry 5 --retry-connrefused --retry-delay 1 -o "$TAP_DIR/got" \
        "http://$WIRED.1:8091/bytes/10000000?seed=64"
    same_data "$TAP_DIR/want" "$TAP_DIR/got"
}

saw_only_the_wire() {
    lab_capture_stop
    equal 0 "$(frame_count "$TAP_DIR/quiet.pcap" "ip.addr == $WIRED.0/24 || arp.dst.proto_ipv4 == $WIRED.0/24")" \
        "frames of the wire on the veth pair"
    # The fetch before was real.
    [ -s "$TAP_DIR/got" ]
}

if [ "$LAB_MODE" = kernel ]; then
    not_here "devices" "there is no library on the bare kernel"
    tap_end
fi

lab_up
peer_http 8080
for device in packet portable; do
    ok "REMORA_DEVICE=$device: 10 MB down" fetch_over "$device"
    ok "REMORA_DEVICE=$device: 10 MB up" put_over "$device"
    ok "REMORA_DEVICE=$device: ten transfers in parallel" parallel_over "$device"
done
rm -f "$TAP_DIR/got"
lab_capture_start "$TAP_DIR/quiet.pcap" 160
start_wired_server
ok "REMORA_DEVICE=unix: two programs back to back, 10 MB" back_to_back
ok "nothing of it is on any other link" saw_only_the_wire
tap_end
