#!/usr/bin/env bash
# dnsmasq on our side: UDP and TCP queries by the kernel's dig, large and truncated
# answers, a forwarded zone, many queries at once; then dig, host and nslookup on our side
# against a kernel dnsmasq.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"
PORT=5399

# dnsmasq_words ADDRESS: the words that start it there. The peer's knows forwarded.test.
dnsmasq_words() {
    local user=nobody
    [ "${LAB_UNSHARED:-}" != 1 ] || user=root
    # shellcheck disable=SC2054  # the commas are dnsmasq's
    DNSMASQ=(dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts
        --log-facility=- --port="$PORT" --listen-address="$1" --bind-interfaces
        --pid-file="" --user="$user" --group= --addn-hosts="$TAP_DIR/hosts"
        --address=/wild.test/192.0.2.77 --mx-host=mail.test,mx.mail.test,10
        --txt-record=large.test,"$(printf 'x%.0s' $(seq 250))","$(printf 'y%.0s' $(seq 250))","$(printf 'z%.0s' $(seq 250))","$(printf 'w%.0s' $(seq 250))")
    if [ "$1" = "$T_PEER" ]; then
        # shellcheck disable=SC2054  # the comma is dnsmasq's
        DNSMASQ+=(--host-record=name.forwarded.test,192.0.2.99 --local=/forwarded.test/)
    else
        DNSMASQ+=(--server="/forwarded.test/$T_PEER#$PORT")
    fi
}

ask() { "lab_$SIDE" dig "@$SERVER" -p "$PORT" +tries=2 +time=3 "$@"; }

queries() {
    equal 192.0.2.7 "$(ask +short host7.test)" "address of host7.test"
    equal 192.0.2.77 "$(ask +short any.wild.test)" "address below wild.test"
    equal "10 mx.mail.test." "$(ask +short mail.test MX)" "mail exchanger"
    equal host9.test. "$(ask +short -x 192.0.2.9)" "reverse name"
    ask +norecurse nothing.test >"$TAP_DIR/refused"
    says 'status: (REFUSED|NXDOMAIN)' "$TAP_DIR/refused"
}

over_tcp() {
    equal 192.0.2.7 "$(ask +tcp +short host7.test)" "address over TCP"
    ask +tcp +keepopen +short host1.test host2.test host3.test >"$TAP_DIR/three" || true
    ask +tcp +short large.test TXT | tr -d '" \n' | wc -c >"$TAP_DIR/length"
    equal 1000 "$(cat "$TAP_DIR/length")" "length of the text"
}

# Without EDNS an answer of more than 512 bytes is cut, and dig asks again over TCP.
truncated() {
    ask +noedns +ignore large.test TXT >"$TAP_DIR/cut"
    says 'flags:.* tc' "$TAP_DIR/cut"
    ask +noedns large.test TXT >"$TAP_DIR/whole"
    says 'Truncated, retrying in TCP mode' "$TAP_DIR/whole"
    says 'TXT.*wwww' "$TAP_DIR/whole"
    ask +bufsize=4096 +ignore large.test TXT >"$TAP_DIR/edns"
    says 'TXT.*wwww' "$TAP_DIR/edns"
}

# Each dig has a port of its own: dig binds with SO_REUSEADDR, so two of them at once may be
# given the same one, and then either hears the other's answers.
many() {
    local number
    for number in $(seq 250); do
        printf 'host%d.test A\n' "$number"
    done >"$TAP_DIR/questions"
    for number in 1 2 3 4; do
        ask +short -b "0.0.0.0#540$number" -f "$TAP_DIR/questions" >"$TAP_DIR/answers-$number" &
        PIDS[number]=$!
    done
    for number in 1 2 3 4; do
        wait "${PIDS[number]}"
        seq -f '192.0.2.%g' 250 | cmp - "$TAP_DIR/answers-$number"
    done
}

forwarded() {
    equal 192.0.2.99 "$(ask +short name.forwarded.test)" "address from the other server"
    equal 192.0.2.99 "$(ask +tcp +short name.forwarded.test)" "the same over TCP"
}

other_clients() {
    lab_ours host -t A -p "$PORT" host7.test "$T_PEER" >"$TAP_DIR/host"
    says 'host7.test has address 192.0.2.7' "$TAP_DIR/host"
    lab_ours host -t A -T -p "$PORT" host8.test "$T_PEER" >"$TAP_DIR/host"
    says 'host8.test has address 192.0.2.8' "$TAP_DIR/host"
    lab_ours nslookup -type=A -port="$PORT" host9.test "$T_PEER" >"$TAP_DIR/host"
    says 'Address: 192.0.2.9' "$TAP_DIR/host"
}

nobody_listens() {
    exits 9 lab_ours dig "@$T_PEER" -p 5398 +tries=1 +time=2 host7.test >"$TAP_DIR/nobody"
    says 'connection refused' "$TAP_DIR/nobody"
}

lab_up
declare -a PIDS
chmod 755 "$TAP_DIR"
for number in $(seq 250); do
    printf '192.0.2.%d host%d.test\n' "$number" "$number"
done >"$TAP_DIR/hosts"
dnsmasq_words "$T_PEER"
peer_server udp "$PORT" "${DNSMASQ[@]}"
dnsmasq_words "$T_LOCAL"
lab_start ours "${DNSMASQ[@]}" >"$TAP_DIR/server-ours.log" 2>&1
SERVER="$T_LOCAL" SIDE=peer
retry 10 ask +short host1.test >/dev/null || true
ok "the server: several kinds of queries" queries
ok "the server: over TCP" over_tcp
ok "the server: large answers, cut and whole" truncated
ok "the server: 4 times 250 queries at once" many
ok "the server forwards to another" forwarded
lab_stop "$LAB_PID"

SERVER="$T_PEER" SIDE=ours
ok "dig: several kinds of queries" queries
ok "dig: over TCP" over_tcp
ok "dig: large answers, cut and whole" truncated
ok "dig: 4 times 250 queries at once" many
ok "host and nslookup" other_clients
ok "dig hears that nobody listens" nobody_listens
tap_end
