#!/usr/bin/env bash
# Every address type of socat that is a socket of the internet families, on our side against
# socat on the kernel's stack, as client and as server: TCP, UDP, raw IP, TLS, DTLS, SOCKS4,
# an HTTP proxy, the generic SOCKET types (with UDP-Lite), IPv4 within IPv6's form; groups,
# broadcast, and the options, with what can be seen of them on the wire. UNIX types beside
# them are the kernel's. 55-socat.sh has the long transfers.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"
SIZE=300000
export LAB_DEADLINE=250
# For experiments (RFC 3692): nobody speaks them. The peer echoes the first.
PROTOCOL=253
OTHER_PROTOCOL=254
GROUP=239.1.2.3
PATIENCE="retry=$((LAB_PATIENCE * 10)),interval=0.1"

# --- ways to use an address -----------------------------------------------------------

# mapped ADDRESS: as IPv6 writes it.
mapped() { printf '[::ffff:%s]' "$1"; }

# name PORT ADDRESS: what the generic types take, a sockaddr_in after its family.
name() {
    local -a octets
    IFS=. read -ra octets <<<"$2"
    printf 'x%04x' "$1"
    printf '%02x' "${octets[@]}"
    printf '%016x' 0
}

# ours|peer asks: eight bytes there, eight bytes back. Ends as soon as they have come.
asks() {
    rm -f "$TAP_DIR/answer"
    LAB_DEADLINE=8 "lab_$1" socat -T 2 -t 0.1 "$2" "SYSTEM:printf question; head -c 8 >$TAP_DIR/answer"
    equal question "$(cat "$TAP_DIR/answer")" answer
}

# ours|peer streams: the data there and back on one connection.
streams() {
    "lab_$1" socat -t 20 - "$2" <"$TAP_DIR/data" >"$TAP_DIR/back"
    same_data "$TAP_DIR/data" "$TAP_DIR/back"
}

# serves ADDRESS PEER-ADDRESS: an echo on our side, for a connection from the peer.
serves() {
    lab_start ours socat -t 20 "$1,fork" EXEC:cat
    local status=0 server=$LAB_PID
    streams peer "$2,$PATIENCE" || status=$?
    lab_stop "$server"
    return "$status"
}

# answers ADDRESS PEER-ADDRESS: an echo of datagrams on our side.
answers() {
    lab_start ours socat -T 5 "$1,fork" EXEC:cat
    local status=0 server=$LAB_PID
    retry 15 asks peer "$2" || status=$?
    lab_stop "$server"
    return "$status"
}

# at_last CMD...: the third time at the latest.
at_last() {
    local try
    for try in 1 2 3; do
        printf 'try %s\n' "$try"
        if "$@"; then
            return
        fi
    done
    return 1
}

# hears ADDRESS PEER-ADDRESS: our side takes what the peer sends.
hears() { one_way peer "$2" ours "$1"; }

# tells ADDRESS PEER-ADDRESS: the peer takes what our side sends.
tells() { one_way ours "$1" peer "$2"; }

# one_way SIDE ADDRESS SIDE ADDRESS: the second side takes what the first one sends.
one_way() {
    rm -f "$TAP_DIR/heard"
    lab_start "$3" socat -u "$4" "CREATE:$TAP_DIR/heard"
    local status=0 listener=$LAB_PID
    retry 15 was_heard "$1" "$2" || status=$?
    lab_stop "$listener"
    return "$status"
}

was_heard() {
    printf 'a word' | "lab_$1" socat -u - "$2"
    grep -q '^a word' "$TAP_DIR/heard"
}

# two_datagrams ADDRESS PEER-ADDRESS: one socket on each side that knows the other's name.
two_datagrams() {
    lab_start peer socat -T 10 "$2" EXEC:cat
    local status=0 server=$LAB_PID
    retry 15 asks ours "$1" || status=$?
    lab_stop "$server"
    return "$status"
}

# --- servers that socat has not -------------------------------------------------------

# SOCKS4, SOCKS4a and CONNECT on one port; a name is looked up nowhere: the peer is meant.
proxy='
import socket, socketserver, struct, sys, threading
def copy(source, sink):
    while piece := source.recv(65536):
        sink.sendall(piece)
    sink.shutdown(socket.SHUT_WR)
class Proxy(socketserver.BaseRequestHandler):
    def until(self, end):
        read = b""
        while not read.endswith(end):
            read += self.request.recv(1)
        return read[:-len(end)]
    def handle(self):
        first = self.request.recv(1)
        if first == b"\4":
            _, port, address = struct.unpack("!BH4s", self.request.recv(7, socket.MSG_WAITALL))
            self.until(b"\0")
            if address[:3] == b"\0\0\0":
                assert self.until(b"\0") == b"peer.test"
                address = socket.inet_aton(sys.argv[1])
            target, granted = (socket.inet_ntoa(address), port), b"\0\x5a" + bytes(6)
        else:
            host, port = self.until(b"\r\n\r\n").split()[1].decode().split(":")
            target, granted = (host, int(port)), b"HTTP/1.0 200 OK\r\n\r\n"
        with socket.create_connection(target) as far:
            self.request.sendall(granted)
            back = threading.Thread(target=copy, args=(far, self.request))
            back.start()
            copy(self.request, far)
            back.join()
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
Server((sys.argv[1], int(sys.argv[2])), Proxy).serve_forever()
'

certificate() {
    openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj "/CN=$T_PEER" -addext "subjectAltName=IP:$T_PEER,IP:$T_LOCAL" \
        -keyout "$TAP_DIR/key.pem" -out "$TAP_DIR/certificate.pem" 2>/dev/null
    cat "$TAP_DIR/key.pem" "$TAP_DIR/certificate.pem" >"$TAP_DIR/server.pem"
}

# --- options --------------------------------------------------------------------------

# With each group of options a connection, whose data is compared.
stream_options() {
    local options
    for options in "bind=$T_LOCAL" "bind=$T_LOCAL:5601,reuseaddr" "sourceport=5602,reuseport" \
        "nodelay,cork,mss=700" "keepalive,keepidle=5,keepintvl=2,keepcnt=3" "tos=16,ttl=9,priority=2" \
        "so-bindtodevice=$LAB_OURS_IFACE" "sndbuf=65536,rcvbuf=65536,sndbuf-late=70000,rcvbuf-late=70000" \
        "linger=5,linger2=3,syncnt=3,quickack,window-clamp=40000" "mtudiscover=1,ip-recverr,recvtos,recvttl,pktinfo" \
        "connect-timeout=5,retry=3,interval=0.2" "so-timestamp,rcvlowat=1,oobinline,pf=ip4,setsockopt-int=6:1:1"; do
        printf '%s\n' "$options"
        asks ours "TCP:$T_PEER:4300,$options"
    done
}

# One connection after another, each with a child.
client_forks() {
    lab_start ours socat -T 5 -t 0.1 "TCP:$T_PEER:4300,fork,interval=0.1" "SYSTEM:printf question; head -c 8 >>$TAP_DIR/forked"
    retry 10 grep -qs questionquestion "$TAP_DIR/forked"
    lab_stop "$LAB_PID"
}

listener_options() {
    local options
    for options in "bind=$T_LOCAL,reuseaddr,backlog=1" "range=$LAB_NET.0/24,reuseport" "pf=ip4,so-bindtodevice=$LAB_OURS_IFACE" \
        "nodelay,keepalive,tos=8,ttl=11,mss=900" "defer-accept=1,rcvbuf=100000,max-children=2"; do
        printf '%s\n' "$options"
        serves "TCP-LISTEN:4330,reuseaddr,$options" "TCP:$T_LOCAL:4330"
    done
}

outside_the_range() {
    our_server 4331 socat "TCP-LISTEN:4331,fork,range=$LAB_OUTER.0.0/24" EXEC:cat
    printf question | lab_peer socat -t 5 - "TCP:$T_LOCAL:4331" >"$TAP_DIR/refused" 2>/dev/null || true
    lab_stop "$LAB_PID"
    equal "" "$(cat "$TAP_DIR/refused")" "answer for one who is not in the range"
}

accept_timeout() {
    lab_ours socat "TCP-LISTEN:4332,accept-timeout=0.3" EXEC:cat
}

datagram_options() {
    local options
    for options in "bind=$T_LOCAL" "sourceport=5611,reuseaddr" "bind=$T_LOCAL:5612" "tos=32,ttl=12,priority=3" \
        "so-bindtodevice=$LAB_OURS_IFACE,sndbuf=60000,rcvbuf=60000" "broadcast,ip-recverr,mtudiscover=2,pktinfo"; do
        printf '%s\n' "$options"
        asks ours "UDP:$T_PEER:4301,$options"
    done
}

# What the peer has seen of the options.
on_the_wire() {
    lab_capture_stop
    local filter
    for filter in "tcp.flags.syn==1 && tcp.srcport==5601 && tcp.dstport==4300" "tcp.flags.syn==1 && tcp.srcport==5602" \
        "tcp.flags.syn==1 && tcp.dstport==4300 && tcp.options.mss_val==700" \
        "tcp.dstport==4300 && ip.ttl==9 && ip.dsfield==0x10" "tcp.srcport==4330 && ip.ttl==11 && ip.dsfield==0x08" \
        "tcp.srcport==4330 && tcp.options.mss_val==900" "udp.srcport==5611 && udp.dstport==4301" \
        "udp.srcport==5612" "udp.dstport==4301 && ip.ttl==12 && ip.dsfield==0x20" \
        "ip.dst==$GROUP && ip.ttl==4 && udp.dstport==4341" "ip.dst==$LAB_NET.255 && udp.dstport==4301" \
        "igmp && ip.src==$T_LOCAL" "ip.proto==$PROTOCOL && ip.src==$T_LOCAL" "udplite && ip.src==$T_LOCAL"; do
        if [ "$(frame_count "$TAP_DIR/peer.pcap" "$filter")" -eq 0 ]; then
            printf 'no frame: %s\n' "$filter"
            return 1
        fi
    done
}

unix_types() {
    lab_start ours socat "UNIX-LISTEN:$TAP_DIR/unix,fork" EXEC:cat
    retry 10 test -S "$TAP_DIR/unix"
    asks ours "UNIX-CONNECT:$TAP_DIR/unix"
    lab_stop "$LAB_PID"
    lab_start ours socat "ABSTRACT-LISTEN:remora-$$,fork" EXEC:cat
    retry 10 asks ours "ABSTRACT-CONNECT:remora-$$"
    lab_stop "$LAB_PID"
}

lab_up
bytes "$SIZE" 31 "$TAP_DIR/data"
certificate
lab_capture_start "$TAP_DIR/peer.pcap" 160
peer_server tcp 4300 socat -t 20 TCP-LISTEN:4300,reuseaddr,fork EXEC:cat
peer_server udp 4301 socat UDP-RECVFROM:4301,fork EXEC:cat
peer_server tcp 4302 socat -t 20 "OPENSSL-LISTEN:4302,reuseaddr,fork,cert=$TAP_DIR/server.pem,verify=0" EXEC:cat
peer_server udp 4303 socat -t 2 "OPENSSL-DTLS-SERVER:4303,fork,cert=$TAP_DIR/server.pem,verify=0" EXEC:cat
peer_server tcp 4304 /usr/bin/python3 -c "$proxy" "$T_PEER" 4304
lab_start peer socat "IP4-RECVFROM:$PROTOCOL,fork" EXEC:cat 2>"$TAP_DIR/raw.log"
lab_start peer socat "SOCKET-RECVFROM:2:2:136:$(name 4305 "$T_PEER"),fork" EXEC:cat 2>"$TAP_DIR/lite.log"
TLS="cafile=$TAP_DIR/certificate.pem"

ok "TCP" streams ours "TCP:$T_PEER:4300"
ok "TCP4" streams ours "TCP4:$T_PEER:4300"
ok "TCP6, a mapped address" streams ours "TCP6:$(mapped "$T_PEER"):4300"
ok "TCP-LISTEN" serves TCP-LISTEN:4310 "TCP:$T_LOCAL:4310"
ok "TCP4-LISTEN" serves TCP4-LISTEN:4311 "TCP:$T_LOCAL:4311"
ok "TCP6-LISTEN, for both" serves TCP6-LISTEN:4312,ipv6-v6only=0 "TCP:$T_LOCAL:4312"
ok "SOCKET-CONNECT" streams ours "SOCKET-CONNECT:2:6:$(name 4300 "$T_PEER")"
ok "SOCKET-LISTEN" serves "SOCKET-LISTEN:2:6:$(name 4313 "$T_LOCAL")" "TCP:$T_LOCAL:4313"
ok "OPENSSL" streams ours "OPENSSL:$T_PEER:4302,$TLS"
ok "OPENSSL-LISTEN" serves "OPENSSL-LISTEN:4314,cert=$TAP_DIR/server.pem,verify=0" "OPENSSL:$T_LOCAL:4314,$TLS"
# socat repeats no message of a DTLS handshake: one that comes between two of the server's
# sockets is lost, and the client waits. On a busy machine that happens to each in turn, on
# the bare kernel as well.
ok "OPENSSL-DTLS-CLIENT" retry 15 asks ours "OPENSSL-DTLS-CLIENT:$T_PEER:4303,$TLS"
ok "OPENSSL-DTLS-SERVER" at_last answers "OPENSSL-DTLS-SERVER:4315,cert=$TAP_DIR/server.pem,verify=0" "OPENSSL-DTLS-CLIENT:$T_LOCAL:4315,$TLS"
ok "SOCKS4" streams ours "SOCKS4:$T_PEER:$T_PEER:4300,socksport=4304"
ok "SOCKS4A" streams ours "SOCKS4A:$T_PEER:peer.test:4300,socksport=4304"
ok "PROXY" streams ours "PROXY:$T_PEER:$T_PEER:4300,proxyport=4304"

ok "UDP" asks ours "UDP:$T_PEER:4301"
ok "UDP4-CONNECT" asks ours "UDP4-CONNECT:$T_PEER:4301"
ok "UDP6-CONNECT, a mapped address" asks ours "UDP6-CONNECT:$(mapped "$T_PEER"):4301"
ok "UDP-SENDTO" asks ours "UDP-SENDTO:$T_PEER:4301"
ok "UDP4-SENDTO" asks ours "UDP4-SENDTO:$T_PEER:4301"
ok "UDP6-SENDTO, a mapped address" asks ours "UDP6-SENDTO:$(mapped "$T_PEER"):4301"
ok "UDP-LISTEN" answers UDP-LISTEN:4320 "UDP:$T_LOCAL:4320"
ok "UDP4-LISTEN" answers UDP4-LISTEN:4321 "UDP:$T_LOCAL:4321"
ok "UDP6-LISTEN, for both" answers UDP6-LISTEN:4322,ipv6-v6only=0 "UDP:$T_LOCAL:4322"
ok "UDP-RECVFROM" answers UDP-RECVFROM:4323 "UDP:$T_LOCAL:4323"
ok "UDP6-RECVFROM, for both" answers UDP6-RECVFROM:4324,ipv6-v6only=0 "UDP:$T_LOCAL:4324"
ok "UDP-RECV" hears UDP-RECV:4325 "UDP:$T_LOCAL:4325"
ok "UDP6-RECV, for both" hears UDP6-RECV:4326,ipv6-v6only=0 "UDP:$T_LOCAL:4326"
ok "UDP-DATAGRAM" two_datagrams "UDP-DATAGRAM:$T_PEER:4327,bind=:4328,reuseaddr" "UDP-DATAGRAM:$T_LOCAL:4328,bind=:4327,reuseaddr"
ok "UDP-DATAGRAM, to everybody" asks ours "UDP-DATAGRAM:$LAB_NET.255:4301,broadcast"
ok "UDP-DATAGRAM, to a group" tells "UDP-DATAGRAM:$GROUP:4341,ip-multicast-ttl=4,ip-multicast-loop=0,ip-multicast-if=$T_LOCAL" \
    "UDP-RECV:4341,ip-add-membership=$GROUP:$LAB_PEER_IFACE"
ok "UDP-RECV in a group" hears "UDP-RECV:4342,ip-add-membership=$GROUP:$LAB_OURS_IFACE" "UDP-DATAGRAM:$GROUP:4342,ip-multicast-if=$T_PEER"
ok "SOCKET-SENDTO" asks ours "SOCKET-SENDTO:2:2:17:$(name 4301 "$T_PEER")"
ok "SOCKET-DATAGRAM" asks ours "SOCKET-DATAGRAM:2:2:17:$(name 4301 "$T_PEER")"
ok "SOCKET-RECVFROM" answers "SOCKET-RECVFROM:2:2:17:$(name 4343 "$T_LOCAL")" "UDP:$T_LOCAL:4343"
ok "SOCKET-RECV" hears "SOCKET-RECV:2:2:17:$(name 4344 0.0.0.0)" "UDP:$T_LOCAL:4344"
ok "UDP-Lite: asks" asks ours "SOCKET-SENDTO:2:2:136:$(name 4305 "$T_PEER")"
ok "UDP-Lite: answers" answers "SOCKET-RECVFROM:2:2:136:$(name 4345 "$T_LOCAL")" "SOCKET-SENDTO:2:2:136:$(name 4345 "$T_LOCAL")"

ok "IP-SENDTO" asks ours "IP-SENDTO:$T_PEER:$PROTOCOL"
ok "IP4-SENDTO" asks ours "IP4-SENDTO:$T_PEER:$PROTOCOL"
ok "IP-DATAGRAM" asks ours "IP-DATAGRAM:$T_PEER:$PROTOCOL"
ok "SOCKET-SENDTO, raw" tells "SOCKET-SENDTO:2:3:$OTHER_PROTOCOL:$(name 0 "$T_PEER")" "IP-RECV:$OTHER_PROTOCOL"
ok "IP-RECV" hears "IP-RECV:$OTHER_PROTOCOL" "IP-SENDTO:$T_LOCAL:$OTHER_PROTOCOL"
ok "IP-RECVFROM" answers "IP-RECVFROM:$OTHER_PROTOCOL" "IP-DATAGRAM:$T_LOCAL:$OTHER_PROTOCOL"

ok "options of a connection" stream_options
ok "a client that forks" client_forks
ok "options of a listener" listener_options
ok "a listener's range" outside_the_range
ok "a listener's time is up" accept_timeout
ok "options of datagrams" datagram_options
ok "UNIX types beside them" unix_types
ok "the options are on the wire" on_the_wire
tap_end
