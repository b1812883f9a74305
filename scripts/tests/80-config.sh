#!/usr/bin/env bash
# Configuration by the environment and a file: no address, strict, bad values, capture,
# log, sysctl. One line on stderr says what is wrong and what to do; stdout is never ours.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"
URL="http://$LAB_NET.2:8080"

# Nothing of the laboratory's configuration, only what the call gives.
unconfigured() {
    lab_ours env -u REMORA_IFACE -u REMORA_ADDR -u REMORA_GATEWAY -u REMORA_LOG -u REMORA_LOG_FILE "$@"
}

configured() {
    lab_ours env -u REMORA_LOG -u REMORA_LOG_FILE "$@"
}

# Says nothing itself: what is on stderr is the library's. Prints the errno's name.
probe='
import errno, socket, sys
client = socket.socket()
client.settimeout(10)
code = client.connect_ex((sys.argv[1], int(sys.argv[2])))
print(errno.errorcode.get(code, "connected"))
'

one_line() {
    cat "$1"
    equal 1 "$(wc -l <"$1")" "lines on stderr"
}

kernel_on_loopback() {
    unconfigured curl -sS -m 10 http://127.0.0.1:8090/ >"$TAP_DIR/out" 2>"$TAP_DIR/err"
    equal "<h1>remora</h1>" "$(cat "$TAP_DIR/out")" page
    one_line "$TAP_DIR/err"
    says 'remora.*REMORA_ADDR' "$TAP_DIR/err"
}

loopback_stays_the_kernels() {
    configured curl -sS -m 10 http://127.0.0.1:8090/ >"$TAP_DIR/out" 2>"$TAP_DIR/err"
    equal "<h1>remora</h1>" "$(cat "$TAP_DIR/out")" page
    equal "" "$(cat "$TAP_DIR/err")" stderr
    configured cat /proc/self/maps | grep libremora >/dev/null
}

strict_is_enetdown() {
    unconfigured REMORA_STRICT=1 /usr/bin/python3 -c "$probe" "$T_PEER" 8080 >"$TAP_DIR/out" 2>"$TAP_DIR/err"
    equal ENETDOWN "$(cat "$TAP_DIR/out")" "connect's errno"
}

strict_missing_interface() {
    configured REMORA_STRICT=1 REMORA_IFACE=nowhere0 \
        /usr/bin/python3 -c "$probe" "$T_PEER" 8080 >"$TAP_DIR/out" 2>"$TAP_DIR/err"
    equal ENETDOWN "$(cat "$TAP_DIR/out")" "connect's errno"
    says 'remora.*nowhere0' "$TAP_DIR/err"
}

# bad VARIABLE VALUE WORD...: the one line names all of them.
bad() {
    local variable="$1" value="$2" word
    shift 2
    configured "$variable=$value" /usr/bin/python3 -c "$probe" "$T_PEER" 8080 >"$TAP_DIR/out" 2>"$TAP_DIR/err"
    one_line "$TAP_DIR/err"
    for word in remora "$variable" "$value" "$@"; do
        if ! grep -qiF -- "$word" "$TAP_DIR/err"; then
            printf '"%s" is not named\n' "$word"
            return 1
        fi
    done
}

bad_is_enetdown_when_strict() {
    configured REMORA_STRICT=1 REMORA_DEVICE=token-ring \
        /usr/bin/python3 -c "$probe" "$T_PEER" 8080 >"$TAP_DIR/out" 2>"$TAP_DIR/err"
    equal ENETDOWN "$(cat "$TAP_DIR/out")" "connect's errno"
}

pcapng() {
    local file="$TAP_DIR/own.pcapng"
    configured REMORA_PCAP="$file" curl -sS -m 20 -o "$TAP_DIR/got" "$URL/bytes/200000"
    equal 0a0d0d0a "$(head -c 4 "$file" | od -An -tx1 | tr -d ' \n')" "first block"
    # The reader finds no fault in it.
    tshark -n -r "$file" >"$TAP_DIR/own.txt" 2>"$TAP_DIR/tshark.err"
    if grep -iE 'cut short|corrupt|damaged|isn.t a capture' "$TAP_DIR/tshark.err"; then
        return 1
    fi
    equal 1 "$(frame_count "$file" "ip.src == $T_LOCAL && tcp.flags.syn == 1")" SYNs
    equal 1 "$(frame_count "$file" "ip.src == $T_PEER && tcp.flags.syn == 1 && tcp.flags.ack == 1")" SYN-ACKs
    [ "$(frame_count "$file" "ip.src == $T_PEER && tcp.len > 0")" -ge 1 ]
    frames "$file" http -V | grep 'GET /bytes/200000' >/dev/null
}

log_file() {
    configured REMORA_LOG=debug REMORA_LOG_FILE="$TAP_DIR/debug.log" \
        curl -sS -m 20 -o /dev/null "$URL/" 2>"$TAP_DIR/err"
    equal "" "$(cat "$TAP_DIR/err")" stderr
    [ -s "$TAP_DIR/debug.log" ]
}

log_off() {
    configured REMORA_LOG=off REMORA_LOG_FILE="$TAP_DIR/off.log" \
        curl -sS -m 20 -o "$TAP_DIR/got" "$URL/" 2>"$TAP_DIR/err"
    says remora "$TAP_DIR/got"
    equal "" "$(cat "$TAP_DIR/err")" stderr
    [ ! -s "$TAP_DIR/off.log" ]
}

# sysctl_on_wire SETTINGS FIELD: the peer sees a SYN with MSS and without FIELD.
without_option() {
    local file="$TAP_DIR/sysctl.pcap"
    lab_capture_start "$file"
    configured ${1:+"REMORA_SYSCTL=$1"} curl -sS -m 20 -o /dev/null "$URL/"
    lab_capture_stop
    frames "$file" "ip.src == $T_LOCAL && tcp.flags.syn == 1" -T fields \
        -e tcp.options.mss_val -e "$2" >"$TAP_DIR/syn"
    cat "$TAP_DIR/syn"
    equal 1460 "$(cut -f1 "$TAP_DIR/syn")" MSS
    equal "$3" "$(cut -f2 "$TAP_DIR/syn" | grep -c .)" "$2"
}

config_file() {
    printf 'iface = "%s"\naddr = "%s"\ngateway = "%s"\n' \
        "$REMORA_IFACE" "$REMORA_ADDR" "$REMORA_GATEWAY" >"$TAP_DIR/remora.toml"
    unconfigured REMORA_CONFIG="$TAP_DIR/remora.toml" curl -sS -m 20 "$URL/" >"$TAP_DIR/out"
    says remora "$TAP_DIR/out"
}

environment_wins() {
    printf 'iface = "nowhere0"\naddr = "%s"\n' "$REMORA_ADDR" >"$TAP_DIR/remora.toml"
    configured REMORA_CONFIG="$TAP_DIR/remora.toml" curl -sS -m 20 "$URL/" >"$TAP_DIR/out"
    says remora "$TAP_DIR/out"
}

bad_config_file() {
    printf 'addr = \n' >"$TAP_DIR/broken.toml"
    unconfigured REMORA_CONFIG="$TAP_DIR/broken.toml" \
        /usr/bin/python3 -c "$probe" "$T_PEER" 8080 >"$TAP_DIR/out" 2>"$TAP_DIR/err"
    one_line "$TAP_DIR/err"
    says 'remora.*broken.toml' "$TAP_DIR/err"
}

# An interface of the kernel's with an address beside the stack's.
interfaces_shown() {
    ip -n "$LAB_OURS" link add other0 type veth peer name other1
    ip -n "$LAB_OURS" addr add 192.0.2.66/24 dev other0
    ip -n "$LAB_OURS" link set other0 up
    local status=0
    (
        shown both "192.0.2.66 $T_LOCAL" "lo $LAB_OURS_IFACE other1 other0"
        shown stack "$T_LOCAL" "lo $LAB_OURS_IFACE"
        shown kernel 192.0.2.66 "lo $LAB_OURS_IFACE other1 other0"
    ) || status=$?
    ip -n "$LAB_OURS" link del other0
    return "$status"
}

# shown WHOSE ADDRESSES NAMES: what getifaddrs (hostname -I) and if_nameindex tell.
shown() {
    equal "$2" "$(REMORA_INTERFACES="$1" lab_ours hostname -I | xargs)" "addresses, $1"
    equal "$3" "$(REMORA_INTERFACES="$1" lab_ours /usr/bin/python3 -c \
        'import socket; print(*(name for _, name in socket.if_nameindex()))')" "names, $1"
}

if [ "$LAB_MODE" = kernel ]; then
    not_here "configuration" "there is no library on the bare kernel"
    tap_end
fi

lab_up
peer_http 8080
lab_start bare /usr/bin/python3 "$LAB_SCRIPTS/peer-http.py" --bind 127.0.0.1 --port 8090 >"$TAP_DIR/loopback.log" 2>&1
lab_retry 15 lab_listens ours tcp 8090

ok "no address: the kernel's sockets and one warning" kernel_on_loopback
ok "127.0.0.1 stays the kernel's with an address" loopback_stays_the_kernels
ok "strict without an address: ENETDOWN" strict_is_enetdown
ok "strict with a missing interface: ENETDOWN" strict_missing_interface
ok "a bad REMORA_ADDR" bad REMORA_ADDR 10.99.0.300/24 a.b.c.d/
ok "a bad REMORA_GATEWAY" bad REMORA_GATEWAY nowhere a.b.c.d
ok "a bad REMORA_MAC" bad REMORA_MAC 02:00:00 :
ok "a bad REMORA_MTU" bad REMORA_MTU 99999999 to
ok "a bad REMORA_DEVICE" bad REMORA_DEVICE token-ring packet portable unix
ok "a bad REMORA_LOOPBACK" bad REMORA_LOOPBACK maybe kernel stack
ok "a bad REMORA_LOG" bad REMORA_LOG loud off error warn info debug trace
ok "a bad REMORA_SYSCTL" bad REMORA_SYSCTL net.ipv4.tcp_sack=perhaps tcp_sack
ok "a bad value when strict: ENETDOWN" bad_is_enetdown_when_strict
ok "REMORA_PCAP is a pcapng file of every frame" pcapng
ok "REMORA_LOG_FILE takes the log" log_file
ok "REMORA_LOG=off is silent" log_off
ok "REMORA_INTERFACES: whose interfaces are shown" interfaces_shown
ok "timestamps by default" without_option "" tcp.options.timestamp.tsval 1
ok "REMORA_SYSCTL turns timestamps off" without_option net.ipv4.tcp_timestamps=0 tcp.options.timestamp.tsval 0
ok "REMORA_SYSCTL turns SACK off" without_option "net.ipv4.tcp_sack=0;net.ipv4.tcp_window_scaling=0" tcp.options.sack_perm 0
#= test RFC 1122 §3.3.1.6 (MUST-69)
ok "REMORA_CONFIG names a file" config_file
ok "the environment goes before the file" environment_wins
ok "a broken file is named" bad_config_file
tap_end
