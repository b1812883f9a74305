#!/usr/bin/env bash
# C programs with threads, forks, signals and handles under the library's debug build, which
# asserts the order of locks and checks arithmetic: they pass, and no assertion has failed.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"
PROGRAMS="smallest threads_two fork_accept fork_shared epoll_threads epoll_fork epoll_nested exec_adopt pass_rights cancel_blocked cancel_asynchronous"
target="${CARGO_TARGET_DIR:-$LAB_ROOT/target}"

builds() {
    cargo build --quiet --manifest-path "$LAB_ROOT/Cargo.toml" -p remora-shim
    test -f "$target/debug/libremora.so"
}

passes() {
    REMORA_LIB="$target/debug/libremora.so" OUT="$TAP_DIR/out" ONLY="$PROGRAMS" "$LAB_ROOT/c-tests/run.sh" "$LAB_MODE"
}

asserted_nothing() {
    test -e "$REMORA_LOG_FILE"
    ! grep -E 'panicked|failed inside the library|is taken while' "$REMORA_LOG_FILE"
}

lab_up
ok_remora "the debug build" builds
ok_remora "the programs pass" passes
ok_remora "no assertion has failed" asserted_nothing
tap_end
