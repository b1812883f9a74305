#!/usr/bin/env bash
# remora run --static: programs that no library can be loaded into, served from beside them: a static C program as client
# and server, blocking and not, TCP and UDP; busybox's wget, nc and httpd; a static Go program (net/http). And what
# remora run says to programs that it cannot run.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"
PORT=8080
URL="http://$LAB_NET.2:$PORT"

# beside CMD...: on our side, served from beside.
beside() {
    if [ "$LAB_MODE" = kernel ]; then
        lab_bare "$@"
    else
        lab_bare "$REMORA_BIN" run --static -- "$@"
    fi
}

build() {
    cat >"$TAP_DIR/both.c" <<'PROGRAM'
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static struct sockaddr_in place(const char *address, int port)
{
    struct sockaddr_in made = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    inet_pton(AF_INET, address, &made.sin_addr);
    return made;
}
#define REQUIRE(x) do { if (!(x)) { fprintf(stderr, "line %d: %s: %s\n", __LINE__, #x, strerror(errno)); exit(1); } } while (0)

static void sends_all(int fd, const char *data, size_t size)
{
    while (size > 0) {
        ssize_t count = write(fd, data, size);
        REQUIRE(count > 0);
        data += count;
        size -= (size_t)count;
    }
}

static void nothing(int number)
{
    (void)number;
}

/* Signals from here on, whose handler has calls restarted: each interrupts what waits beside the program. */
static void be_interrupted(void)
{
    struct itimerval often = {{0, 20000}, {0, 20000}};
    signal(SIGALRM, nothing);
    setitimer(ITIMER_REAL, &often, NULL);
}

/* get ADDRESS PORT PATH: what the server says, without its head. */
static void get(char **words, int flags)
{
    struct sockaddr_in to = place(words[0], atoi(words[1])), name, peer;
    socklen_t length = sizeof name;
    int fd = socket(AF_INET, SOCK_STREAM | flags, 0), error = 0, on = 1;
    REQUIRE(fd >= 0);
    REQUIRE(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == 0);
    int result = connect(fd, (struct sockaddr *)&to, sizeof to);
    if (flags) {
        struct pollfd entry = {fd, POLLOUT, 0};
        socklen_t size = sizeof error;
        REQUIRE(result == -1 && errno == EINPROGRESS);
        REQUIRE(poll(&entry, 1, 5000) == 1 && entry.revents == POLLOUT);
        REQUIRE(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error == 0);
        fcntl(fd, F_SETFL, 0);
    } else {
        REQUIRE(result == 0);
    }
    REQUIRE(getsockname(fd, (struct sockaddr *)&name, &length) == 0 && name.sin_family == AF_INET && name.sin_port != 0);
    length = sizeof peer;
    REQUIRE(getpeername(fd, (struct sockaddr *)&peer, &length) == 0 && peer.sin_port == to.sin_port);
    struct tcp_info information;
    length = sizeof information;
    REQUIRE(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &information, &length) == 0 && information.tcpi_state == TCP_ESTABLISHED);
    char text[65536];
    int size = snprintf(text, sizeof text, "GET %s HTTP/1.0\r\nHost: x\r\n\r\n", words[2]);
    sends_all(fd, text, (size_t)size);
    int head = 1;
    size_t held = 0;
    ssize_t count;
    while ((count = read(fd, text + held, sizeof text - held)) > 0) {
        held += (size_t)count;
        char *body = text, *end = head ? memmem(text, held, "\r\n\r\n", 4) : NULL;
        if (head && !end)
            continue;
        if (head)
            body = end + 4;
        head = 0;
        sends_all(1, body, held - (size_t)(body - text));
        held = 0;
    }
    REQUIRE(count == 0);
}

/* refused ADDRESS PORT: waiting and not, and once more on the same socket. */
static void refused(char **words)
{
    struct sockaddr_in to = place(words[0], atoi(words[1]));
    for (int flags = 0; flags <= SOCK_NONBLOCK; flags += SOCK_NONBLOCK) {
        int fd = socket(AF_INET, SOCK_STREAM | flags, 0), error = 0;
        for (int attempt = 0; attempt < 2; attempt++) {
            socklen_t size = sizeof error;
            int result = connect(fd, (struct sockaddr *)&to, sizeof to);
            if (flags && attempt == 1) {
                /* The attempt before is over only now. */
                REQUIRE(result == -1 && errno == ECONNABORTED);
                result = connect(fd, (struct sockaddr *)&to, sizeof to);
            }
            REQUIRE(result == -1 && errno == (flags ? EINPROGRESS : ECONNREFUSED));
            if (!flags)
                continue;
            struct pollfd entry = {fd, POLLIN | POLLOUT, 0};
            REQUIRE(poll(&entry, 1, 5000) == 1 && entry.revents == (POLLIN | POLLOUT | POLLERR | POLLHUP));
            REQUIRE(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error == ECONNREFUSED);
            REQUIRE(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error == 0);
        }
        close(fd);
    }
}

/* echo PORT COUNT: a child for each connection; by poll when the port is even. */
static void echo(char **words)
{
    be_interrupted();
    int port = atoi(words[0]), on = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in own = place("0.0.0.0", port), peer;
    REQUIRE(setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0);
    REQUIRE(bind(listener, (struct sockaddr *)&own, sizeof own) == 0);
    REQUIRE(listen(listener, 8) == 0);
    for (int i = 0; i < atoi(words[1]); i++) {
        socklen_t length = sizeof peer;
        if (port % 2 == 0) {
            struct pollfd entry = {listener, POLLIN, 0};
            int ready;
            while ((ready = poll(&entry, 1, 20000)) == -1 && errno == EINTR) {
            }
            REQUIRE(ready == 1);
        }
        int fd = accept(listener, (struct sockaddr *)&peer, &length);
        REQUIRE(fd >= 0 && length == sizeof peer && peer.sin_family == AF_INET && peer.sin_port != 0);
        if (fork() == 0) {
            char data[65536];
            ssize_t count;
            close(listener);
            while ((count = read(fd, data, sizeof data)) > 0)
                sends_all(fd, data, (size_t)count);
            _exit(count == 0 ? 0 : 1);
        }
        close(fd);
    }
    for (int status; wait(&status) > 0;)
        REQUIRE(status == 0);
}

/* unanswered ADDRESS: a connect that waits goes on over signals, until its time is up. */
static void unanswered(char **words)
{
    struct sockaddr_in to = place(words[0], 9);
    int fd = socket(AF_INET, SOCK_STREAM, 0), count = 1;
    REQUIRE(setsockopt(fd, IPPROTO_TCP, TCP_SYNCNT, &count, sizeof count) == 0);
    be_interrupted();
    REQUIRE(connect(fd, (struct sockaddr *)&to, sizeof to) == -1 && (errno == EHOSTUNREACH || errno == ETIMEDOUT));
}

/* udp ADDRESS PORT: with a peer and without one. */
static void udp(char **words)
{
    struct sockaddr_in to = place(words[0], atoi(words[1])), from;
    char data[64];
    for (int connected = 0; connected < 2; connected++) {
        int fd = socket(AF_INET, SOCK_DGRAM, 0);
        socklen_t length = sizeof from;
        if (connected) {
            REQUIRE(connect(fd, (struct sockaddr *)&to, sizeof to) == 0);
            REQUIRE(send(fd, "first", 5, 0) == 5);
        } else {
            REQUIRE(sendto(fd, "first", 5, 0, (struct sockaddr *)&to, sizeof to) == 5);
        }
        memset(&from, 0, sizeof from);
        REQUIRE(recvfrom(fd, data, sizeof data, 0, (struct sockaddr *)&from, &length) == 5);
        REQUIRE(length == sizeof from && from.sin_port == to.sin_port && from.sin_addr.s_addr == to.sin_addr.s_addr);
        REQUIRE(connected ? write(fd, "second", 6) == 6 : sendto(fd, "second", 6, 0, (struct sockaddr *)&to, sizeof to) == 6);
        REQUIRE(read(fd, data, sizeof data) == 6);
        close(fd);
    }
}

int main(int count, char **words)
{
    (void)count;
    if (!strcmp(words[1], "get"))
        get(words + 2, 0);
    else if (!strcmp(words[1], "get-nonblocking"))
        get(words + 2, SOCK_NONBLOCK);
    else if (!strcmp(words[1], "refused"))
        refused(words + 2);
    else if (!strcmp(words[1], "unanswered"))
        unanswered(words + 2);
    else if (!strcmp(words[1], "echo"))
        echo(words + 2);
    else
        udp(words + 2);
    return 0;
}
PROGRAM
    gcc -D_GNU_SOURCE -O1 -static -o "$TAP_DIR/both" "$TAP_DIR/both.c"
    equal 0 "$(readelf -l "$TAP_DIR/both" | grep -c INTERP)" "loaders that it asks for"
    make -s -C "$LAB_ROOT/c-tests" OUT="$TAP_DIR/c" "$TAP_DIR/c/peer"
}

fetch_page() {
    bytes 20000000 3 "$TAP_DIR/want"
    beside "$TAP_DIR/both" "$1" "$LAB_NET.2" "$PORT" "/bytes/20000000?seed=3" >"$TAP_DIR/got"
    same_data "$TAP_DIR/want" "$TAP_DIR/got"
}

on_the_wire() {
    lab_capture_start "$TAP_DIR/wire.pcap"
    beside "$TAP_DIR/both" get "$LAB_NET.2" "$PORT" / >"$TAP_DIR/got"
    retry 5 test -s "$TAP_DIR/wire.pcap"
    lab_capture_stop
    [ "$(frame_count "$TAP_DIR/wire.pcap" 'tcp.flags.syn == 1')" -ge 2 ]
}

echo_server() {
    bytes 2000000 9 "$TAP_DIR/sent"
    if [ "$LAB_MODE" = kernel ]; then
        lab_start bare "$TAP_DIR/both" echo "$1" 4 >"$TAP_DIR/echo.log" 2>&1
    else
        lab_start bare "$REMORA_BIN" run --static -- "$TAP_DIR/both" echo "$1" 4 >"$TAP_DIR/echo.log" 2>&1
    fi
    retry 15 ours_answers "$1"
    for _ in 1 2 3; do
        lab_peer /usr/bin/python3 -c '
import socket, sys, threading
data = open(sys.argv[3], "rb").read()
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), 20)
def send():
    connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)
threading.Thread(target=send).start()
got = bytearray()
while piece := connection.recv(65536):
    got += piece
assert got == data, len(got)
' "$T_LOCAL" "$1" "$TAP_DIR/sent"
    done
    lab_wait "$LAB_PID" "$LAB_PATIENCE"
}

busybox_wget() {
    bytes 3000000 4 "$TAP_DIR/want"
    beside "$BUSYBOX" wget -q -O "$TAP_DIR/got" "$URL/bytes/3000000?seed=4"
    same_data "$TAP_DIR/want" "$TAP_DIR/got"
}

busybox_nc() {
    equal hello "$(beside sh -c "printf hello | '$BUSYBOX' nc -w 5 $T_PEER 7001")" "what comes back"
}

busybox_httpd() {
    mkdir -p "$TAP_DIR/pages"
    bytes 3000000 5 "$TAP_DIR/pages/data"
    if [ "$LAB_MODE" = kernel ]; then
        lab_start bare "$BUSYBOX" httpd -f -p "$T_LOCAL:9090" -h "$TAP_DIR/pages"
    else
        lab_start bare "$REMORA_BIN" run --static -- "$BUSYBOX" httpd -f -p "$T_LOCAL:9090" -h "$TAP_DIR/pages"
    fi
    retry 15 ours_answers 9090
    lab_peer curl -sS -m 20 -o "$TAP_DIR/served" "http://$T_LOCAL:9090/data"
    same_data "$TAP_DIR/pages/data" "$TAP_DIR/served"
    lab_stop "$LAB_PID"
}

build_go() {
    cat >"$TAP_DIR/web.go" <<'PROGRAM'
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
)

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	if os.Args[1] == "get" {
		response, err := http.Get(os.Args[2])
		check(err)
		_, err = io.Copy(os.Stdout, response.Body)
		check(err)
		return
	}
	listener, err := net.Listen("tcp4", os.Args[2])
	check(err)
	check(http.Serve(listener, http.FileServer(http.Dir(os.Args[3]))))
}
PROGRAM
    GOCACHE="${GOCACHE:-${XDG_CACHE_HOME:-${HOME:-$TAP_DIR}/.cache}/go-build}" GO111MODULE=off CGO_ENABLED=0 \
        "$GO" build -o "$TAP_DIR/web" "$TAP_DIR/web.go"
}

go_get() {
    bytes 20000000 3 "$TAP_DIR/want"
    beside "$TAP_DIR/web" get "$URL/bytes/20000000?seed=3" >"$TAP_DIR/got"
    same_data "$TAP_DIR/want" "$TAP_DIR/got"
}

go_serve() {
    mkdir -p "$TAP_DIR/pages"
    bytes 20000000 5 "$TAP_DIR/pages/large"
    if [ "$LAB_MODE" = kernel ]; then
        lab_start bare "$TAP_DIR/web" serve "$T_LOCAL:9091" "$TAP_DIR/pages"
    else
        lab_start bare "$REMORA_BIN" run --static -- "$TAP_DIR/web" serve "$T_LOCAL:9091" "$TAP_DIR/pages"
    fi
    retry 15 ours_answers 9091
    lab_peer curl -sS -m 40 -o "$TAP_DIR/served" "http://$T_LOCAL:9091/large"
    same_data "$TAP_DIR/pages/large" "$TAP_DIR/served"
    lab_stop "$LAB_PID"
}

# refusal TEXT CMD...: remora run refuses, and says why.
refusal() {
    local text="$1"
    shift
    exits 2 lab_bare "$REMORA_BIN" run -- "$@" 2>"$TAP_DIR/said"
    says "$text" "$TAP_DIR/said"
}

setuid_copy() {
    cp /bin/true "$TAP_DIR/elevated"
    chown 65534 "$TAP_DIR/elevated"
    chmod u+s "$TAP_DIR/elevated"
    refusal 'setuid bit' "$TAP_DIR/elevated"
}

status_is_the_programs() {
    exits 7 beside sh -c 'exit 7'
}

ok "a static program builds" build
lab_up
peer_http "$PORT"
lab_start peer "$TAP_DIR/c/peer" 120 >"$TAP_DIR/peer.log"
lab_retry 10 grep -q ready "$TAP_DIR/peer.log"
ok_remora "remora run says that a program is static" refusal 'statically linked.*--static' "$TAP_DIR/both"
ok_remora "remora run says that a program is setuid" setuid_copy
ok "the program's status" status_is_the_programs
ok "a static client: 20 MB" fetch_page get
ok "the frames are on the wire" on_the_wire
ok "a static client that does not wait" fetch_page get-nonblocking
ok "a static client is refused, waiting and not" beside "$TAP_DIR/both" refused "$T_PEER" 7999
ok "a static client waits for nobody, over signals" beside "$TAP_DIR/both" unanswered "$LAB_NET.77"
ok "static: UDP with a peer and without" beside "$TAP_DIR/both" udp "$T_PEER" 7101
ok "a static server that waits in accept" echo_server 9081
ok "a static server that polls" echo_server 9082
BUSYBOX=$(command -v busybox || true)
if [ -n "$BUSYBOX" ] && ! readelf -l "$BUSYBOX" | grep -q INTERP; then
    ok "busybox wget" busybox_wget
    ok "busybox nc" busybox_nc
    ok "busybox httpd" busybox_httpd
else
    not_here "busybox" "it is not installed, or not static"
fi
GO=$(command -v go || find /usr/lib /usr/local -maxdepth 3 -path '*/go*/bin/go' 2>/dev/null | head -n 1)
if [ -n "$GO" ]; then
    ok "a static Go program builds" build_go
    ok "static Go: 20 MB by HTTP" go_get
    ok "static Go: an HTTP server" go_serve
else
    not_here "a static Go program" "there is no Go compiler"
fi
tap_end
