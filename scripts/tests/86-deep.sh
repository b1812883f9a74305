#!/usr/bin/env bash
# remora run --deep: programs whose system calls are their own, not libc's. C tests with assembler in libc's place do as
# they do with libc; a Go program (net/http, cgo) as client and server; the next image of an exec, static or not, lives.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"
PORT=8080
URL="http://$LAB_NET.2:$PORT"
# All but one of the C tests pass so (pthread_cancel knows libc's calls only); these are quick and cover most calls.
RAW_TESTS="accept_inherit big_transfer deep_calls dup_family epoll_level exec_adopt fork_shared ppoll_sigmask raw_fork
seccomp_entry select_mixed sendmmsg_recvmmsg siglongjmp_out small_stacks udp_echo"

# deep CMD...: on our side, its own calls caught.
deep() { REMORA_DEEP=1 lab_ours "$@"; }

raw_tests() {
    REMORA_DEEP=1 RAW=1 OUT="$TAP_DIR/raw" ONLY="${RAW_TESTS//$'\n'/ }" \
        "$LAB_ROOT/c-tests/run.sh" "$LAB_MODE"
}

not_without_the_flag() {
    [ "$LAB_MODE" = remora ]
    exits 1 env -u REMORA_DEEP OUT="$TAP_DIR/raw" RAW=1 ONLY=rw_basic "$LAB_ROOT/c-tests/run.sh" remora
}

build_go() {
    cat >"$TAP_DIR/web.go" <<'PROGRAM'
package main

// #include <stdlib.h>
import "C"

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"sync"
)

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func get(url string, to io.Writer) int64 {
	response, err := http.Get(url)
	check(err)
	count, err := io.Copy(to, response.Body)
	check(err)
	response.Body.Close()
	return count
}

func main() {
	C.free(nil)
	switch os.Args[1] {
	case "get":
		get(os.Args[2], os.Stdout)
	case "parallel":
		var group sync.WaitGroup
		for i := 0; i < 20; i++ {
			group.Add(1)
			go func() {
				defer group.Done()
				fmt.Println(get(os.Args[2], io.Discard))
			}()
		}
		group.Wait()
	case "udp":
		connection, err := net.Dial("udp4", os.Args[2])
		check(err)
		_, err = connection.Write([]byte("ping"))
		check(err)
		answer := make([]byte, 16)
		count, err := connection.Read(answer)
		check(err)
		fmt.Println(string(answer[:count]))
	case "exec":
		// The child connects by itself.
		output, err := exec.Command(os.Args[2], os.Args[3:]...).Output()
		check(err)
		os.Stdout.Write(output)
	case "serve":
		listener, err := net.Listen("tcp4", os.Args[2])
		check(err)
		check(http.Serve(listener, http.FileServer(http.Dir(os.Args[3]))))
	}
}
PROGRAM
    GOCACHE="${GOCACHE:-${XDG_CACHE_HOME:-${HOME:-$TAP_DIR}/.cache}/go-build}" GO111MODULE=off CGO_ENABLED=1 \
        "$GO" build -o "$TAP_DIR/web" "$TAP_DIR/web.go"
}

go_get() {
    bytes 20000000 3 "$TAP_DIR/want"
    deep "$TAP_DIR/web" get "$URL/bytes/20000000?seed=3" >"$TAP_DIR/got"
    same_data "$TAP_DIR/want" "$TAP_DIR/got"
}

go_parallel() {
    deep "$TAP_DIR/web" parallel "$URL/bytes/1000000?seed=7" >"$TAP_DIR/counts"
    equal 20 "$(grep -c '^1000000$' "$TAP_DIR/counts")" "whole pages"
}

go_udp() {
    equal ping "$(deep "$TAP_DIR/web" udp "$T_PEER:7101")" "the datagram's echo"
}

go_exec() {
    equal "<h1>remora</h1>" "$(deep "$TAP_DIR/web" exec curl -sS "$URL/")" "what curl says below it"
}

go_serve() {
    mkdir -p "$TAP_DIR/pages"
    bytes 20000000 5 "$TAP_DIR/pages/data"
    REMORA_DEEP=1 our_server 9090 "$TAP_DIR/web" serve "$T_LOCAL:9090" "$TAP_DIR/pages"
    lab_peer curl -sS -m 40 -o "$TAP_DIR/served" "http://$T_LOCAL:9090/data"
    same_data "$TAP_DIR/pages/data" "$TAP_DIR/served"
    lab_stop "$LAB_PID"
}

static_child() {
    printf 'int main(void) { return 23; }' | gcc -O1 -static -x c -o "$TAP_DIR/static" -
    exits 23 deep sh -c "exec '$TAP_DIR/static'"
    exits 23 deep "$TAP_DIR/raw/exec_raw" "$TAP_DIR/static"
}

build_exec() {
    cat >"$TAP_DIR/exec_raw.c" <<'PROGRAM'
#include <unistd.h>
int main(int count, char **words)
{
    (void)count;
    execve(words[1], words + 1, environ);
    return 1;
}
PROGRAM
    gcc -D_GNU_SOURCE -O1 -o "$TAP_DIR/raw/exec_raw" "$TAP_DIR/exec_raw.c" "$TAP_DIR/raw/calls.o"
}

ok "calls of their own build" make -s -C "$LAB_ROOT/c-tests" OUT="$TAP_DIR/raw" RAW=1 "$TAP_DIR/raw/calls.o"
build_exec
lab_up
ok "C tests with them do as with libc" raw_tests
ok_remora "which the hooks alone would not see" not_without_the_flag
ok "a static program after exec, also by number" static_child
GO=$(command -v go || find /usr/lib /usr/local -maxdepth 3 -path '*/go*/bin/go' 2>/dev/null | head -n 1)
if [ -z "$GO" ]; then
    not_here "a Go program" "there is no Go compiler"
    tap_end
fi
peer_http "$PORT"
lab_start peer "$TAP_DIR/raw/peer" 120 >"$TAP_DIR/peer.log"
lab_retry 10 grep -q ready "$TAP_DIR/peer.log"
ok "a Go program builds with cgo" build_go
ok "Go: 20 MB by HTTP" go_get
ok "Go: 20 requests at once" go_parallel
ok "Go: UDP" go_udp
ok "Go: a child process" go_exec
ok "Go: an HTTP server" go_serve
tap_end
