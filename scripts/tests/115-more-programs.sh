#!/usr/bin/env bash
# Programs that bring a way of using sockets of their own: named, which gives up its
# capabilities first and has a thread and a listener per processor; mosquitto both ways;
# gunicorn's workers; PHP's server and streams; nmap's thousands of connects at once; aria2
# with five connections for one file. The other side is the kernel's.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"

named_configure() {
    mkdir "$TAP_DIR/named"
    cat >"$TAP_DIR/named.conf" <<CONF
options {
    directory "$TAP_DIR/named";
    listen-on port 5355 { $T_LOCAL; };
    listen-on-v6 { none; };
    recursion no;
    pid-file none;
    session-keyfile "$TAP_DIR/named/session";
};
controls { };
zone "." { type hint; file "/dev/null"; };
zone "zone.test" { type master; file "$TAP_DIR/named/zone"; };
CONF
    {
        printf '%s\n' "\$TTL 60" "@ SOA host master 1 2 3 4 5" "@ NS host" "host A 192.0.2.1" "www A 192.0.2.8"
        seq -f 'n%g A 192.0.2.9' 2000
    } >"$TAP_DIR/named/zone"
}

digs() { lab_peer dig +short +time=1 +tries=1 "@$T_LOCAL" -p 5355 "$@"; }
named_answers() { digs www.zone.test | grep -qx 192.0.2.8; }

by_named() {
    retry 15 named_answers
    equal 192.0.2.8 "$(digs +tcp www.zone.test)" "answer over TCP"
    # 2,000 names, the host's and the zone's own.
    equal 2005 "$(digs +time=10 axfr zone.test | wc -l)" "records of a transfer"
}

# by_mosquitto SIDE-OF-THE-BROKER ADDRESS OTHER-SIDE: 200 messages in order.
by_mosquitto() {
    local subscriber
    printf 'listener 1883 %s\nallow_anonymous true\n' "$2" >"$TAP_DIR/mosquitto.conf"
    lab_start "$1" mosquitto -c "$TAP_DIR/mosquitto.conf" >"$TAP_DIR/mosquitto.log" 2>&1
    local broker=$LAB_PID
    retry 10 "lab_$3" mosquitto_pub -h "$2" -t other -m ready
    lab_start "$3" mosquitto_sub -h "$2" -t topic -C 201 -q 1 >"$TAP_DIR/messages" 2>&1
    subscriber=$LAB_PID
    # What comes before the subscriber is not kept: the first message is sent until it is there.
    retry 10 was_published "$2" "$3"
    seq 200 | "lab_$3" mosquitto_pub -h "$2" -t topic -q 1 -l
    retry 10 has_all_messages
    grep -v first "$TAP_DIR/messages" | cmp <(seq "$(grep -vc first "$TAP_DIR/messages")") -
    lab_stop "$subscriber"
    lab_stop "$broker"
}

was_published() {
    "lab_$2" mosquitto_pub -h "$1" -t topic -q 1 -m first
    grep -q first "$TAP_DIR/messages"
}

# The subscriber ends after 201, of which one or more were the first.
has_all_messages() { [ "$(wc -l <"$TAP_DIR/messages")" -eq 201 ]; }

by_gunicorn() {
    printf 'def app(request, start):\n    start("200 OK", [("Content-Length", "100000")])\n    return [b"x" * 100000]\n' \
        >"$TAP_DIR/application.py"
    our_server 8300 gunicorn -w 3 -b "$T_LOCAL:8300" --chdir "$TAP_DIR" application:app
    lab_peer ab -q -n 300 -c 10 "http://$T_LOCAL:8300/" >"$TAP_DIR/ab"
    lab_stop "$LAB_PID"
    says '^Complete requests: +300$' "$TAP_DIR/ab"
    says '^Failed requests: +0$' "$TAP_DIR/ab"
    says '^HTML transferred: +30000000 bytes$' "$TAP_DIR/ab"
}

php_serves() {
    our_server 8200 php -S "$T_LOCAL:8200" -t "$TAP_DIR/site"
    lab_peer curl -sS -m 20 -o "$TAP_DIR/got" "http://$T_LOCAL:8200/large"
    lab_stop "$LAB_PID"
    same_data "$TAP_DIR/site/large" "$TAP_DIR/got"
}

php_asks() {
    # shellcheck disable=SC2016  # the words are PHP's
    lab_ours php -r '
        [, $peer, $file] = $argv;
        file_put_contents($file, file_get_contents("http://$peer:8080/bytes/1000000?seed=5"));
        foreach (["tcp://$peer:7777", "udp://$peer:7778"] as $name) {
            $stream = stream_socket_client($name, $number, $text, 5);
            fwrite($stream, "hello\n");
            echo fgets($stream);
        }
        echo @stream_socket_client("tcp://$peer:1", $number, $text, 5) ? "connected" : $text, "\n";
    ' "$T_PEER" "$TAP_DIR/got" >"$TAP_DIR/out"
    same_data "$TAP_DIR/site/large" "$TAP_DIR/got"
    equal "hello hello Connection refused" "$(paste -sd' ' "$TAP_DIR/out")" "answers"
}

by_nmap() {
    lab_ours nmap -sT -Pn -n -T4 -p 1-2000,7777,8080 "$T_PEER" >"$TAP_DIR/nmap"
    cat "$TAP_DIR/nmap"
    says '^7777/tcp +open' "$TAP_DIR/nmap"
    says '^8080/tcp +open' "$TAP_DIR/nmap"
    says '^Not shown: 2000 closed tcp ports \(conn-refused\)' "$TAP_DIR/nmap"
}

by_aria() {
    lab_peer curl -sSI "http://$T_PEER:8399/large" | grep -qi '^accept-ranges: bytes'
    lab_ours aria2c -q --no-conf -x 5 -s 5 -k 1M -d "$TAP_DIR" -o by-aria "http://$T_PEER:8399/huge"
    same_data "$TAP_DIR/site/huge" "$TAP_DIR/by-aria"
}

# A server that knows ranges.
ranges() {
    cat >"$TAP_DIR/lighttpd.conf" <<CONF
server.document-root = "$TAP_DIR/site"
server.bind = "$T_PEER"
server.port = 8399
CONF
    peer_server tcp 8399 lighttpd -D -f "$TAP_DIR/lighttpd.conf"
}

lab_up
chmod 755 "$TAP_DIR"
mkdir "$TAP_DIR/site"
bytes 1000000 5 "$TAP_DIR/site/large"
bytes 8000000 6 "$TAP_DIR/site/huge"
peer_http 8080
ranges
peer_server tcp 7777 socat TCP-LISTEN:7777,fork,reuseaddr EXEC:cat
peer_server udp 7778 socat UDP-RECVFROM:7778,fork EXEC:cat
named_configure
lab_start ours named -g -c "$TAP_DIR/named.conf" >"$TAP_DIR/named.log" 2>&1
NAMED=$LAB_PID
ok "named: UDP, TCP, a zone of 2,000 names" by_named
lab_stop "$NAMED"
ok "mosquitto: the broker" by_mosquitto ours "$T_LOCAL" peer
ok "mosquitto: the clients" by_mosquitto peer "$T_PEER" ours
ok "gunicorn: three workers, 300 requests" by_gunicorn
ok "php: its server" php_serves
ok "php: as client, TCP, UDP, refused" php_asks
ok "nmap: 2,002 ports" by_nmap
ok "aria2: five connections for one file" by_aria
tap_end
