//! Every state of RFC 9293 §3.3.2 x every event: what the connection answers and where it goes, held against
//! `states.txt`. After a change that is meant, `UPDATE_STATES=1` writes that file anew; read the difference.

use std::fmt::Write as _;
use std::path::Path;

use crate::{run, script};

/// How a connection comes into each state; the first number to come from the peer is 1, or 2 after its FIN.
const STATES: &[(&str, &str)] = &[
    ("CLOSE", "+0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3"),
    ("LISTEN", "include listen.inc"),
    (
        "SYN_SENT",
        "+0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3\n+0 fcntl(3, F_SETFL, O_RDWR|O_NONBLOCK) = 0
         +0 connect(3, ..., ...) = -1 EINPROGRESS\n+0 > S 0:0(0) <...>",
    ),
    (
        "SYN_RECV",
        "+0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3\n+0 fcntl(3, F_SETFL, O_RDWR|O_NONBLOCK) = 0
         +0 connect(3, ..., ...) = -1 EINPROGRESS\n+0 > S 0:0(0) <...>
         +.1 < S 0:0(0) win 32792 <mss 1000>\n+0 > S. 0:0(0) ack 1 <...>",
    ),
    ("ESTABLISHED", "include server.inc"),
    ("FIN_WAIT1", "include server.inc\n+0 shutdown(4, SHUT_WR) = 0\n+0 > F. 1:1(0) ack 1"),
    (
        "FIN_WAIT2",
        "include server.inc\n+0 shutdown(4, SHUT_WR) = 0\n+0 > F. 1:1(0) ack 1\n+.1 < . 1:1(0) ack 2 win 257",
    ),
    ("CLOSE_WAIT", "include server.inc\n+0 < F. 1:1(0) ack 1 win 257\n* > . 1:1(0) ack 2"),
    (
        "CLOSING",
        "include server.inc\n+0 shutdown(4, SHUT_WR) = 0\n+0 > F. 1:1(0) ack 1
         +.01 < F. 1:1(0) ack 1 win 257\n* > . 2:2(0) ack 2",
    ),
    (
        "LAST_ACK",
        "include server.inc\n+0 < F. 1:1(0) ack 1 win 257\n* > . 1:1(0) ack 2
         +0 shutdown(4, SHUT_WR) = 0\n+0 > F. 1:1(0) ack 2",
    ),
    (
        "TIME_WAIT",
        "include server.inc\n+0 shutdown(4, SHUT_WR) = 0\n+0 > F. 1:1(0) ack 1
         +.1 < F. 1:1(0) ack 2 win 257\n+0 > . 2:2(0) ack 2\n+1 close(4) = 0",
    ),
];

/// Events; FD and NEXT stand for the descriptor and the peer's next number in the state.
const EVENTS: &[&str] = &[
    "< S 0:0(0) win 32792 <mss 1000>",
    "< S. 0:0(0) ack 1 win 32792 <mss 1000>",
    "< . NEXT:NEXT(0) ack 1 win 257",
    "< . NEXT:NEXT(0) ack 2 win 257",
    "< . NEXT:NEXT(0) ack 5000 win 257",
    "< P. NEXT:END(10) ack 1 win 257",
    "< F. NEXT:NEXT(0) ack 1 win 257",
    "< F. NEXT:NEXT(0) ack 2 win 257",
    "< R NEXT:NEXT(0) win 0",
    "< R 100:100(0) win 0",
    "< R. 0:0(0) ack 1 win 0",
    "< - NEXT:NEXT(0) win 257",
    "write(FD, ..., 10) = 0",
    "recv(FD, ..., 10, MSG_DONTWAIT) = 0",
    "connect(FD, ..., ...) = 0",
    "connect(FD, AF_UNSPEC, ...) = 0",
    "listen(FD, 1) = 0",
    "shutdown(FD, SHUT_WR) = 0",
    "shutdown(FD, SHUT_RD) = 0",
    "close(FD) = 0",
];

//= test REF C-20, T-01
#[test]
fn every_state_and_event_is_as_written_down() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/packet");
    let mut table = String::new();
    for (state, prelude) in STATES {
        let prelude = script::parse(state, prelude, &root).unwrap();
        let _ = writeln!(table, "{state}");
        let (next, end) = match *state {
            "CLOSE_WAIT" | "CLOSING" | "LAST_ACK" | "TIME_WAIT" => ("2", "12"),
            _ => ("1", "11"),
        };
        let descriptor = if matches!(*state, "CLOSE" | "LISTEN" | "SYN_SENT" | "SYN_RECV") { "3" } else { "4" };
        for event in EVENTS {
            if *state == "TIME_WAIT" && event.contains("FD") {
                continue;
            }
            let event = event.replace("NEXT", next).replace("END", end).replace("FD", descriptor);
            let parsed = script::parse(state, &format!("+0 {event}"), &root).unwrap();
            let outcome =
                run::outcome(&prelude, &parsed[0]).unwrap_or_else(|error| panic!("{state}, {event}: {error}"));
            // In TIME_WAIT the descriptor has gone: what is left is the listener.
            let outcome = if *state == "TIME_WAIT" { outcome.trim_end_matches("LISTEN") } else { &outcome };
            let _ = writeln!(
                table,
                "{}",
                format!("    {:<45} {}", event.trim_end_matches(" = 0"), outcome.trim_end_matches("; ")).trim_end()
            );
        }
    }
    let file = root.join("states.txt");
    if std::env::var_os("UPDATE_STATES").is_some() {
        std::fs::write(&file, &table).unwrap();
    }
    let written = std::fs::read_to_string(&file).unwrap();
    for (number, (found, expected)) in table.lines().zip(written.lines()).enumerate() {
        assert_eq!(found, expected, "states.txt:{}", number + 1);
    }
    assert_eq!(table.lines().count(), written.lines().count());
}
