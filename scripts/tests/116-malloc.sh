#!/usr/bin/env bash
# Programs under another malloc, loaded before the library and after it: curl, and C programs with threads, forks and
# epoll.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"
PORT=8080
TESTS="$(cd "$(dirname "${BASH_SOURCE[0]}")/../../c-tests" && pwd)"
LIBRARIES=/usr/lib/x86_64-linux-gnu
MALLOCS="libjemalloc.so.2 libtcmalloc_minimal.so.4"

# with_malloc before|after LIBRARY CMD...: CMD on our side, LIBRARY before or after ours in LD_PRELOAD.
with_malloc() {
    local order="$1" malloc="$LIBRARIES/$2" list
    shift 2
    if [ "$LAB_MODE" = kernel ]; then
        list="$malloc"
    elif [ "$order" = before ]; then
        list="$malloc:${REMORA_LIB:?}"
    else
        list="$REMORA_LIB:$malloc"
    fi
    lab_bare env "LD_PRELOAD=$list" "$@"
}

fetch_page() {
    bytes 3000000 3 "$TAP_DIR/want"
    with_malloc "$1" "$2" curl -sS -m 30 -o "$TAP_DIR/got" "http://$LAB_NET.2:$PORT/bytes/3000000?seed=3"
    same_data "$TAP_DIR/want" "$TAP_DIR/got"
}

c_program() {
    with_malloc "$1" "$2" "$TAP_DIR/$3" >"$TAP_DIR/$3.tap"
    ! grep '^not ok' "$TAP_DIR/$3.tap"
}

lab_up
peer_http "$PORT"
gcc -std=gnu11 -D_GNU_SOURCE -O1 -o "$TAP_DIR/peer" "$TESTS/peer.c" -lpthread
for program in epoll_threads epoll_fork; do
    gcc -std=gnu11 -D_GNU_SOURCE -O1 -o "$TAP_DIR/$program" "$TESTS/$program.c" -lpthread
done
lab_start peer "$TAP_DIR/peer" 120 >"$TAP_DIR/peer.log"
lab_retry 10 grep -q ready "$TAP_DIR/peer.log"
for malloc in $MALLOCS; do
    for order in before after; do
        if [ ! -e "$LIBRARIES/$malloc" ]; then
            not_here "$malloc $order the library" "it is not installed"
            continue
        fi
        ok "$malloc $order the library: curl" fetch_page "$order" "$malloc"
        ok "$malloc $order the library: threads on epoll sets" c_program "$order" "$malloc" epoll_threads
        ok "$malloc $order the library: epoll sets over fork" c_program "$order" "$malloc" epoll_fork
    done
done
tap_end
