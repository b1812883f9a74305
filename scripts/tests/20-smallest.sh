#!/usr/bin/env bash
# The smallest TCP client, compiled by plain gcc, against the kernel's stack; a capture on
# the peer's side shows whose frames they are, the options of the SYN, and right checksums.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"
build() {
    make -s -C "$LAB_ROOT/c-tests" OUT="$TAP_DIR/c" "$TAP_DIR/c/smallest" "$TAP_DIR/c/peer"
}

start_peer() {
    lab_start peer "$TAP_DIR/c/peer" 300 >"$TAP_DIR/peer.log" 2>&1
    retry 15 grep -q ready "$TAP_DIR/peer.log"
}

captured() {
    lab_capture_start "$TAP_DIR/$1.pcap"
    shift
    lab_ours "$@"
    # The close is part of the story, and may come after the program's end.
    retry 5 lab_capture_has_fins
    lab_capture_stop
}

# Both directions' FIN have been seen.
lab_capture_has_fins() {
    [ "$(frames "$LAB_CAPTURE_FILE" 'tcp.flags.fin == 1' -T fields -e ip.src | sort -u | wc -l)" -eq 2 ]
}

syn() {
    frames "$TAP_DIR/$1.pcap" "ip.src == $T_LOCAL && tcp.flags.syn == 1" -T fields -e "$2" | sed -n 1p
}

syn_has() {
    equal "$3" "$(syn "$1" "$2")" "$2"
}

syn_has_any() {
    local got
    got="$(syn "$1" "$2")"
    printf '%s = %s\n' "$2" "$got"
    [ -n "$got" ]
}

our_mac() {
    local macs
    macs="$(frames "$TAP_DIR/$1.pcap" "ip.src == $T_LOCAL || arp.src.proto_ipv4 == $T_LOCAL" \
        -T fields -e eth.src | sort -u)"
    printf '%s\n' "$macs"
    equal 1 "$(wc -l <<<"$macs")" "link addresses in use"
    if [ -n "${2:-}" ]; then
        equal "$2" "$macs" "our link address"
    elif [ "$LAB_MODE" = kernel ]; then
        equal "$(lab_mac ours)" "$macs" "our link address"
    else
        # Locally administered and unicast (IEEE 802): the second digit is 2, 6, a or e.
        [[ "$macs" =~ ^.[26ae]: ]]
        [ "$macs" != "$(lab_mac ours)" ]
    fi
}

checksums() {
    local all good
    all="$(frame_count "$TAP_DIR/$1.pcap" tcp)"
    good="$(frame_count "$TAP_DIR/$1.pcap" 'tcp.checksum.status == 1 && ip.checksum.status == 1')"
    printf '%s TCP frames, %s good\n' "$all" "$good"
    [ "$all" -ge 7 ]
    equal "$all" "$good" "frames with right checksums"
}

shows_no_malformed_frame() {
    [ "$(frame_count "$TAP_DIR/$1.pcap" tcp)" -ge 7 ]
    equal 0 "$(frame_count "$TAP_DIR/$1.pcap" '_ws.malformed || tcp.analysis.retransmission || tcp.flags.reset == 1')" \
        "malformed, repeated or reset frames"
}

with_mac() {
    REMORA_MAC=02:00:5e:10:00:01 captured mac "$TAP_DIR/c/smallest"
}

ok "the smallest client compiles by plain gcc" build
lab_up
# Without offloads a checksum is complete when the frame is on the wire.
ok "offloads go off" lab_offloads off
start_peer
ok "it connects, writes, reads and closes" captured smallest "$TAP_DIR/c/smallest"
ok "every frame of ours has our link address" our_mac smallest
ok "the SYN has an MSS of 1460" syn_has smallest tcp.options.mss_val 1460
ok "the SYN permits SACK" syn_has_any smallest tcp.options.sack_perm
ok "the SYN has a timestamp" syn_has_any smallest tcp.options.timestamp.tsval
ok "the SYN has a window scale" syn_has_any smallest tcp.options.wscale.shift
ok "all checksums are right" checksums smallest
ok "no frame is malformed, repeated or a reset" shows_no_malformed_frame smallest
ok_remora "it works with REMORA_MAC set" with_mac
ok_remora "REMORA_MAC is then our link address" our_mac mac 02:00:5e:10:00:01
tap_end
