#!/usr/bin/env bash
# The link emulator between two kernels: what it delays, loses, repeats, damages, marks and
# drops is counted exactly, a rate is never exceeded, data comes through whole. Kernels on
# both ends in either mode; time decides nothing but where a bound holds by itself.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
# shellcheck source=../link.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../link.sh"
tap_begin "$0" "$@"
LAB_MODE=kernel
URL="http://$LAB_NET.2:8080"

# pings COUNT [option...]: echo requests, 2 ms apart; every answer is waited for.
pings() {
    local count="$1"
    shift
    lab_ours ping -n -c "$count" -i 0.002 -W 5 "$@" "$T_PEER" >"$TAP_DIR/ping" || true
    grep transmitted "$TAP_DIR/ping"
}

transmitted() {
    sed -n 's/^\([0-9]*\) packets transmitted.*/\1/p' "$TAP_DIR/ping"
}

received() {
    sed -n 's/.* \([0-9]*\) received.*/\1/p' "$TAP_DIR/ping"
}

lines_of_answers() {
    sed -n 's/.*icmp_seq=\([0-9]*\) .*/\1/p' "$TAP_DIR/ping" | sort -n
}

# fetch BYTES SEED: from the peer, with its checksum.
fetch() {
    bytes "$1" "$2" "$TAP_DIR/want"
    lab_ours curl -sS -m 50 -o "$TAP_DIR/got" -w '%{time_total}\n' "$URL/bytes/$1?seed=$2" >"$TAP_DIR/time"
    same_data "$TAP_DIR/want" "$TAP_DIR/got"
}

# put BYTES SEED: to the peer, which answers with length and checksum.
put() {
    bytes "$1" "$2" "$TAP_DIR/want"
    lab_ours curl -sS -m 50 -H 'Expect:' -T "$TAP_DIR/want" -o "$TAP_DIR/answer" "$URL/put"
    equal "$1 $(sum_of "$TAP_DIR/want")" "$(cat "$TAP_DIR/answer")" answer
}

# least A B: is A at least B? Both may have a fraction.
least() {
    awk -v "have=$1" -v "need=$2" 'BEGIN { print have " of at least " need; exit !(have + 0 >= need + 0) }'
}

# snmp ours|peer FILE GROUP NAME: a counter of that side's kernel.
snmp() {
    "lab_$1" cat "/proc/net/$2" | awk -v "group=$3:" -v "name=$4" '
        $1 == group && !seen { for (i = 2; i <= NF; i++) if ($i == name) at = i; seen = 1; next }
        $1 == group { print $at }'
}

passes_all() {
    link_start
    pings 200
    equal 200 "$(received)" answers
    link_stop
    link_is_balanced
    local direction
    for direction in a_to_b b_to_a; do
        equal 200 "$(link_count "$direction" packets)" "packets $direction"
        equal 200 "$(link_count "$direction" delivered)" "delivered $direction"
    done
}

finds_neighbours() {
    ip -n "$LAB_OURS" neigh flush dev "$LAB_OURS_IFACE"
    ip -n "$LAB_PEER" neigh flush dev "$LAB_PEER_IFACE"
    link_start
    pings 3
    equal 3 "$(received)" answers
    link_stop
    least "$(link_count a_to_b packets)" 4
}

delays() {
    link_start --a-to-b delay=30ms --b-to-a delay=10ms
    pings 20
    link_stop
    equal 20 "$(received)" answers
    # rtt min/avg/max/mdev = 40.1/...; 0.1 ms for a wall clock that is being slewed.
    least "$(sed -n 's,^rtt [^=]*= \([0-9.]*\)/.*,\1,p' "$TAP_DIR/ping")" 39.9
}

jitters() {
    link_start --both delay=20ms,jitter=5ms --seed 3
    pings 100
    link_stop
    equal 100 "$(received)" answers
    least "$(sed -n 's,^rtt [^=]*= \([0-9.]*\)/.*,\1,p' "$TAP_DIR/ping")" 29.9
    equal 0 "$(link_count a_to_b out_of_order)" "out of order"
}

loses() {
    link_start --both delay=1ms --a-to-b loss=10% --b-to-a burst=3%/30% --seed 11
    pings 1000
    link_stop
    link_is_balanced
    local there back
    there="$(link_count a_to_b lost_alone)" back="$(link_count b_to_a lost_in_burst)"
    equal 1000 "$(transmitted)" requests
    equal "$((1000 - there - back))" "$(received)" "answers ($there requests and $back answers lost)"
    equal "$(received)" "$(link_count b_to_a delivered)" delivered
    [ "$there" -ge 50 ] && [ "$there" -le 150 ]
    [ "$back" -ge 20 ]
}

# The same packets are lost, whatever the time between them.
repeats_itself() {
    link_start --both loss=10%,duplicate=5% --seed 12
    pings 300
    link_stop
    lines_of_answers >"$TAP_DIR/first"
    link_start --both loss=10%,duplicate=5% --seed 12
    pings 300 -i 0.003
    link_stop
    lines_of_answers >"$TAP_DIR/second"
    cmp "$TAP_DIR/first" "$TAP_DIR/second"
    link_start --both loss=10%,duplicate=5% --seed 13
    pings 300
    link_stop
    lines_of_answers >"$TAP_DIR/third"
    if cmp "$TAP_DIR/first" "$TAP_DIR/third"; then
        return 1
    fi
}

duplicates() {
    link_start --a-to-b duplicate=20% --seed 14
    pings 300
    link_stop
    link_is_balanced
    local twice
    twice="$(link_count a_to_b duplicated)"
    equal "$((300 + twice))" "$(lines_of_answers | wc -l)" "answers ($twice requests doubled)"
    [ "$twice" -ge 20 ]
}

transfers() {
    # A queue in front of the link carries what is sent in bursts.
    link_start --both delay=2ms,loss=1% --seed 15
    fetch 3000000 71
    put 3000000 72
    link_stop
    link_is_balanced
    local direction
    for direction in a_to_b b_to_a; do
        [ "$(link_count "$direction" lost_alone)" -ge 10 ]
        [ "$(link_count "$direction" super_frames)" -ge 1 ]
        # What was cut makes more packets than frames.
        [ "$(link_count "$direction" packets)" -gt "$(link_count "$direction" frames)" ]
    done
}

# One send of 20010 bytes with UDP_SEGMENT (17, 103) is 21 datagrams, each of its own letter.
cuts_datagrams() {
    lab_start peer /usr/bin/python3 - "$T_PEER" >"$TAP_DIR/datagrams" <<'PYTHON'
import socket, sys
receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
receiver.bind((sys.argv[1], 9001))
receiver.settimeout(20)
for number in range(21):
    datagram = receiver.recv(65536)
    print(number, len(datagram), datagram == bytes([97 + number]) * len(datagram), flush=True)
PYTHON
    # shellcheck disable=SC2153  # lab.sh sets it
    local receiver="$LAB_PID"
    lab_retry 10 lab_listens peer udp 9001
    link_start --both delay=1ms
    lab_ours /usr/bin/python3 - "$T_PEER" <<'PYTHON'
import socket, sys
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sender.setsockopt(17, 103, 1000)
sender.sendto(b"".join(bytes([97 + n]) * (1000 if n < 20 else 10) for n in range(21)), (sys.argv[1], 9001))
PYTHON
    lab_wait "$receiver" 20
    link_stop
    link_is_balanced
    cat "$TAP_DIR/datagrams"
    equal 21 "$(grep -c True "$TAP_DIR/datagrams")" "whole datagrams"
    equal "1 21" "$(link_count a_to_b super_frames) $(link_count a_to_b packets)" "super-frames and packets"
}

transfers_in_disorder() {
    link_start --both delay=3ms,jitter=1ms,order=free,reorder=3%/2ms,duplicate=1%,loss=0.5% --seed 16
    fetch 3000000 73
    put 3000000 74
    link_stop
    link_is_balanced
    [ "$(link_count b_to_a out_of_order)" -ge 10 ]
    [ "$(link_count b_to_a held_back)" -ge 10 ]
}

# The receiver sees the damage, since the link completes checksums before it does any.
damages() {
    local before after
    before="$(snmp ours snmp Tcp InCsumErrors)"
    link_start --b-to-a delay=1ms,corrupt=2% --seed 17
    fetch 2000000 75
    link_stop
    link_is_balanced
    after="$(snmp ours snmp Tcp InCsumErrors)"
    printf 'corrupted %s, wrong checksums %s\n' "$(link_count b_to_a corrupted)" "$((after - before))"
    [ "$((after - before))" -ge 5 ]
    [ "$((after - before))" -le "$(link_count b_to_a corrupted)" ]
}

keeps_the_rate() {
    link_start --both rate=8mbit,limit=200p
    fetch 2000000 76
    link_stop
    link_is_balanced
    # 2 MB are 2 s at 8 Mbit/s, even without their headers.
    least "$(cat "$TAP_DIR/time")" 2.0
    [ "$(link_count b_to_a queue_peak_packets)" -ge 2 ]
}

drops_at_the_tail() {
    link_start --a-to-b rate=1mbit,limit=10p
    pings 100 -l 100 -s 1000
    link_stop
    link_is_balanced
    local dropped
    dropped="$(link_count a_to_b dropped_queue)"
    equal "$((100 - dropped))" "$(received)" "answers ($dropped dropped)"
    [ "$dropped" -ge 1 ]
    equal 10 "$(link_count a_to_b queue_peak_packets)" "longest queue"
}

marks() {
    local before after
    lab_sysctl "$LAB_OURS" net.ipv4.tcp_ecn=1
    lab_sysctl "$LAB_PEER" net.ipv4.tcp_ecn=1
    before="$(snmp ours netstat IpExt InCEPkts)"
    link_start --both rate=20mbit,delay=2ms,ecn=5p
    fetch 2000000 77
    link_stop
    lab_sysctl "$LAB_OURS" net.ipv4.tcp_ecn=2
    lab_sysctl "$LAB_PEER" net.ipv4.tcp_ecn=2
    link_is_balanced
    after="$(snmp ours netstat IpExt InCEPkts)"
    [ "$(link_count b_to_a marked)" -ge 5 ]
    equal "$(link_count b_to_a marked)" "$((after - before))" "marked packets that arrived"
    equal 0 "$(link_count b_to_a dropped_queue)" "dropped packets"
}

passes_super_frames() {
    link_start --both delay=1ms --super-frames pass
    fetch 3000000 78
    put 3000000 79
    link_stop
    link_count b_to_a super_frames
    [ "$(link_count b_to_a super_frames)" -ge 1 ]
    equal "$(link_count b_to_a frames)" "$(link_count b_to_a packets)" packets
}

two_lines_are_there() {
    [ "$(wc -l <"$LINK_OUTPUT")" -ge "$1" ]
}

answers_signals() {
    link_start --seed 99
    pings 5
    kill -USR1 "$(link_process)"
    retry 5 two_lines_are_there 1
    equal 5 "$(link_count a_to_b delivered)" "delivered so far"
    pings 5
    link_stop
    equal 10 "$(link_count a_to_b delivered)" "delivered in the end"
    says '"seed":99,' "$LINK_OUTPUT"
    says 'ready, seed 99$' "$LINK_LOG"
}

ends_in_time() {
    link_start --seconds 0.3
    lab_wait "$LINK_PID" 10
    link_statistics
    link_start
    kill -INT "$(link_process)"
    lab_wait "$LINK_PID" 10
    link_statistics
}

# From outside, each end by the name of its namespace.
works_from_outside() {
    lab_end_processes "$LINK_MIDDLE"
    timeout -k 3 20 "$REMORA_LINK" "$LINK_A" "$LINK_B" --netns-a "$LINK_MIDDLE" --netns-b "$LINK_MIDDLE" \
        --both delay=5ms >"$LINK_OUTPUT" 2>"$LINK_LOG" &
    LINK_PID=$!
    lab_retry 5 grep -q ready "$LINK_LOG"
    pings 5
    link_stop
    equal 5 "$(received)" answers
}

refuses_with_a_reason() {
    exits 2 "$REMORA_LINK" lo lo2 --both loss=1 2>"$TAP_DIR/refusal"
    says 'write it like 1%' "$TAP_DIR/refusal"
    exits 2 "$REMORA_LINK" no-such-a no-such-b 2>"$TAP_DIR/refusal"
    says 'no interface "no-such-a"' "$TAP_DIR/refusal"
    "$REMORA_LINK" --help >"$TAP_DIR/help"
    says 'ip netns exec middle remora-link' "$TAP_DIR/help"
}

link_lab_up
ok "the ends find each other through the link" finds_neighbours
link_knows_neighbours
peer_http 8080
ok "an untouched link passes every packet once" passes_all
ok "delays add up to at least the round trip" delays
ok "jitter stays above its bound and keeps the order" jitters
ok "lost packets are just those that are counted" loses
ok "a seed loses and repeats the same packets again" repeats_itself
ok "copies arrive and are counted" duplicates
ok "3 MB each way over 1 % loss, super-frames cut" transfers
ok "a UDP super-frame becomes its datagrams" cuts_datagrams
ok "3 MB each way in disorder" transfers_in_disorder
ok "the receiver sees damage, and the data is whole" damages
ok "a rate is not exceeded" keeps_the_rate
ok "a full queue drops what comes last" drops_at_the_tail
ok "a long queue marks ECN-capable packets" marks
ok "super-frames may pass whole" passes_super_frames
ok "SIGUSR1 shows the counts, SIGTERM ends" answers_signals
ok "it ends by itself and on SIGINT" ends_in_time
ok "namespaces may be named" works_from_outside
ok "wrong settings are refused with a reason" refuses_with_a_reason
tap_end
