//! `remora demo` on its stage, with a stand-in for curl that leaves a log and a capture behind: what it makes, what it
//! tells, and that nothing is left of it.
#![allow(clippy::unwrap_used, reason = "a test that cannot set up its world must fail loudly")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const LOG: &str = "\
100.000000000 7 DEBUG remora::call socket(AF_INET, SOCK_STREAM, 6) = 3
100.001000000 7 TRACE remora::socket socket 0: connect 10.99.0.2:80 (Unconnected)
100.001001000 7 TRACE remora::protosw socket 0: Tcp.connect 10.99.0.2:80
100.001002000 7 DEBUG remora::tcp socket 0: CLOSED -> SYN_SENT
100.001003000 7 TRACE remora::arp send Request 10.99.0.1 for 10.99.0.2 to ff:ff:ff:ff:ff:ff
100.002000000 7 DEBUG remora::call connect(3, 10.99.0.2:80) = 0
100.004000000 8 DEBUG remora::tcp socket 0: LAST_ACK -> CLOSED
";

fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32 + 12).to_le_bytes();
    [&kind.to_le_bytes()[..], &length, body, &length].concat()
}

/// A capture of one ARP request that we sent and one SYN-ACK that we received.
fn capture() -> Vec<u8> {
    let section = [&0x1a2b_3c4d_u32.to_le_bytes()[..], &[1, 0, 0, 0], &[0xff; 8]].concat();
    let interface = [&[1u8, 0, 0, 0, 0, 0, 0, 0][..], &[9, 0, 1, 0, 9, 0, 0, 0], &[0; 4]].concat();
    let packet = |time: u64, flags: u8, frame: &[u8]| {
        let mut body = vec![0; 4];
        body.extend(((time >> 32) as u32).to_le_bytes());
        body.extend((time as u32).to_le_bytes());
        body.extend((frame.len() as u32).to_le_bytes());
        body.extend((frame.len() as u32).to_le_bytes());
        body.extend(frame);
        body.resize(body.len().next_multiple_of(4), 0);
        body.extend([2, 0, 4, 0, flags, 0, 0, 0, 0, 0, 0, 0]);
        block(6, &body)
    };
    let ends = [[10, 99, 0, 1], [10, 99, 0, 2]];
    let arp = [&[0u8; 12][..], &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &[2; 6], &ends[0], &[0; 6], &ends[1]].concat();
    let segment = [&[0u8, 80, 0x9c, 0x40][..], &[0, 0, 0, 9], &[0, 0, 0, 1], &[0x50, 0x12, 0xfa, 0xf0, 0, 0, 0, 0]];
    let ip = [&[0x45u8, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0][..], &ends[1], &ends[0], &segment.concat()].concat();
    let tcp = [&[0u8; 12][..], &[8, 0], &ip].concat();
    let start = 100_000_000_000;
    [
        block(0x0a0d_0d0a, &section),
        block(1, &interface),
        packet(start + 1_004_000, 2, &arp),
        packet(start + 1_500_000, 1, &tcp),
    ]
    .concat()
}

struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn names(directory: &Path) -> Vec<String> {
    std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn demo(directory: &Path, arguments: &[&str]) -> Output {
    let temporary = directory.join("tmp");
    let path = format!("{}:{}", directory.display(), std::env::var("PATH").unwrap());
    Command::new(env!("CARGO_BIN_EXE_remora"))
        .args(["demo", "--link", "namespace"])
        .args(arguments)
        .env("PATH", path)
        .env("TMPDIR", &temporary)
        .env("PREPARED", directory)
        .env("COLUMNS", "110")
        .env("REMORA_LIB", directory.join("libremora.so"))
        .output()
        .unwrap()
}

#[test]
fn the_story_is_told_from_log_and_capture_and_nothing_is_left() {
    let directory = Directory(std::env::temp_dir().join(format!("remora-demo-test-{}", std::process::id())));
    let at = |name: &str| directory.0.join(name);
    std::fs::create_dir_all(at("tmp")).unwrap();
    std::fs::write(at("empty.c"), "int nothing;\n").unwrap();
    let library = at("libremora.so");
    let gcc = Command::new("gcc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(at("empty.c")).status().unwrap();
    assert!(gcc.success());
    std::fs::write(at("log"), LOG).unwrap();
    std::fs::write(at("capture"), capture()).unwrap();
    // It runs where curl would: on our side of the pair, with the variables set.
    let curl = "#!/bin/sh\n\
        case $LD_PRELOAD in */libremora.so) ;; *) exit 9 ;; esac\n\
        [ \"$REMORA_IFACE $REMORA_ADDR $REMORA_STRICT\" = 'remora0 10.99.0.1/24 1' ] || exit 8\n\
        ip -o link show remora0 | grep -q 'state UP' || exit 7\n\
        cat \"$PREPARED/log\" > \"$REMORA_LOG_FILE\"; cat \"$PREPARED/capture\" > \"$REMORA_PCAP\"\n\
        while [ \"$1\" != --output ]; do shift; done; echo 'the page' > \"$2\"; printf '200 9'\n";
    std::fs::write(at("curl"), curl).unwrap();
    std::fs::set_permissions(at("curl"), std::fs::Permissions::from_mode(0o755)).unwrap();

    let output = demo(&directory.0, &[]);
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(names(&at("tmp")).is_empty());
    if errors.starts_with("remora: no network namespace: ") {
        // A machine that allows none: the refusal is what can be tested.
        assert_eq!((output.status.code(), text.as_ref()), (Some(2), ""));
        return;
    }
    assert!(output.status.success(), "{text}{errors}");
    for line in [
        "   0.000   socket(AF_INET, SOCK_STREAM, 6) = 3",
        "   1.000   connect(3, 10.99.0.2:80)",
        "   1.001   │ protocol switch socket 0: Tcp.connect 10.99.0.2:80",
        "   2.000   └ = 0",
        "   4.000   (the keeper, after the program)",
        "  the page",
    ] {
        assert!(text.lines().any(|known| known == line), "{line} is not in:\n{text}");
    }
    // The request stands beside the line of the layer that sent it, the answer on its own.
    let with = |part: &str| text.lines().find(|line| line.contains(part)).unwrap_or("");
    assert!(with("│ ARP").ends_with("  -> ARP who has 10.99.0.2? tell 10.99.0.1"), "{text}");
    assert!(with("SYN,ACK").trim_start().starts_with("1.500 "), "{text}");
    assert!(with("SYN,ACK").ends_with("  <- TCP 80 > 40000 [SYN,ACK] seq 0 ack 1 win 64240"), "{text}");
    assert!(text.contains("HTTP 200, 9 bytes") && text.contains("1 frames sent and 1 received"));
    assert!(!text.contains('\x1b'));

    let kept = at("kept");
    let output = demo(&directory.0, &["--color", "always", "--keep", kept.to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("\x1b[1mconnect(3, 10.99.0.2:80)"));
    let mut kept = names(&kept);
    kept.sort();
    assert_eq!(kept, ["page.html", "remora.log", "remora.pcapng"]);
}
