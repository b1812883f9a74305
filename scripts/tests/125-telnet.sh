#!/usr/bin/env bash
# Interactive telnet, typed by tmux: the terminal's keys go over one by one, the window's
# size follows it, an interrupt comes as urgent data, a long output is drawn. First telnet
# runs on our side, inside a tmux under the library, then telnetd does, under inetd.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"
PORT=2323

# A tmux server of its own: nobody's sessions or settings are touched.
terminal() { tmux -S "$TAP_DIR/tmux-$SIDE" -f /dev/null "$@"; }
types() { terminal send-keys -t work -l "$1" && terminal send-keys -t work Enter; }
screen() { terminal capture-pane -p -t work; }
shows() { screen | grep -qE -- "$1"; }

waits_for() {
    if ! retry 10 shows "$1"; then
        printf 'no line matches /%s/ on the screen:\n' "$1"
        screen
        return 1
    fi
}

# Who answers is the shell behind telnetd.
# shellcheck disable=SC2016  # the words are that shell's
logs_in() {
    "lab_$SIDE" tmux -S "$TAP_DIR/tmux-$SIDE" -f /dev/null new-session -d -s work -x 80 -y 24 \
        "inetutils-telnet $SERVER $PORT; printf '\nended with %s\n' \$?; sleep 100"
    waits_for "Connected to $SERVER"
    waits_for '^ready> *$'
    # The words of the answer differ from those that are typed.
    types 'echo $((6 * 7)) is the answer; tty'
    waits_for '^42 is the answer'
    waits_for '^/dev/pts/'
}

edits_the_line() {
    terminal send-keys -t work -l 'echo aXb'
    terminal send-keys -t work BSpace BSpace
    terminal send-keys -t work -l 'c | tr a-c A-C'
    terminal send-keys -t work Enter
    waits_for '^AC$'
}

window_size() {
    types 'stty size'
    waits_for '^24 80$'
    terminal resize-window -t work -x 100 -y 30
    retry 10 resized
}

resized() {
    types 'clear; stty size'
    sleep 0.2
    shows '^30 100$'
}

# shellcheck disable=SC2016  # the words are the other shell's
interrupts() {
    types 'sleep 50; echo interrupted $?'
    # The answer to the key may only be its own.
    retry 10 runs sleep
    terminal send-keys -t work C-c
    types 'echo going on $((20 + 2))'
    waits_for '^going on 22$'
    ! shows '^interrupted 0$'
}

runs() { pgrep -t "$(cat "$TAP_DIR/tty")" -x "$1" >/dev/null; }

# The terminal's history, 2,000 lines, against what was sent.
# shellcheck disable=SC2016  # the words are the other shell's
whole_output() {
    types 'clear; for i in $(seq 1500); do echo line $i; done; echo over $((1 + 2))'
    waits_for '^over 3$'
    terminal capture-pane -p -t work -S - | grep -xE 'line [0-9]+' | tail -n 1500 >"$TAP_DIR/drawn"
    seq -f 'line %g' 1500 | cmp - "$TAP_DIR/drawn"
}

escapes() {
    terminal send-keys -t work C-]
    waits_for 'telnet> *$'
    types status
    waits_for "^Connected to $SERVER"
    waits_for "Escape character is '\^\]'"
    terminal send-keys -t work Enter
}

logs_out() {
    types exit
    waits_for 'Connection closed by foreign host'
    waits_for '^ended with'
    terminal kill-server
}

# Two terminals at once, each with a shell of its own.
two_terminals() {
    local number
    for number in 1 2; do
        "lab_$SIDE" tmux -S "$TAP_DIR/tmux-$SIDE" -f /dev/null new-session -d -s "work-$number" -x 80 -y 24 \
            "inetutils-telnet $SERVER $PORT; sleep 100"
    done
    for number in 1 2; do
        retry 10 shell_says "$number"
    done
    terminal kill-server
}

shell_says() {
    terminal send-keys -t "work-$1" "echo shell \$(($1 + 10))" Enter
    sleep 0.2
    terminal capture-pane -p -t "work-$1" | grep -qx "shell 1$1"
}

all_of_it() {
    ok "telnet on $WHERE: a shell answers" logs_in
    ok "telnet on $WHERE: keys that erase" edits_the_line
    ok "telnet on $WHERE: the window's size" window_size
    ok "telnet on $WHERE: an interrupt" interrupts
    ok "telnet on $WHERE: 1,500 lines" whole_output
    ok "telnet on $WHERE: its escape character" escapes
    ok "telnet on $WHERE: logout" logs_out
    ok "telnet on $WHERE: two terminals" two_terminals
}

# The shell tells which terminal it has, so that what it runs can be found.
shell() {
    printf '#!/bin/bash\ntty | sed s,/dev/,, >%s/tty\nexport PS1="ready> "\nexec bash --norc --noprofile -i\n' "$TAP_DIR" >"$TAP_DIR/shell"
    chmod +x "$TAP_DIR/shell"
}

configure() {
    printf '%s:%s stream tcp nowait root /usr/sbin/telnetd telnetd -h -E %s\n' "$1" "$PORT" "$TAP_DIR/shell" \
        >"$TAP_DIR/inetd-$1.conf"
}

lab_up
shell
configure "$T_PEER"
configure "$T_LOCAL"
peer_server tcp "$PORT" inetd -i "$TAP_DIR/inetd-$T_PEER.conf"
SIDE=ours SERVER=$T_PEER WHERE="our side"
all_of_it
our_server "$PORT" inetd -i "$TAP_DIR/inetd-$T_LOCAL.conf" || true
SIDE=peer SERVER=$T_LOCAL WHERE="the peer"
all_of_it
tap_end
