//! Every variable good and bad, the file, precedence, and what the system adds.

use super::*;
use crate::sys::call::Errno;
use std::path::Path;

fn parse(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Config::from_environment(&|name| {
        variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    })
}

fn good(name: &str, value: &str) -> Config {
    parse(&[(name, value)]).unwrap()
}

/// The error's line for one bad variable.
fn bad(name: &str, value: &str) -> String {
    let line = parse(&[(name, value)]).unwrap_err().to_string();
    assert!(line.starts_with(&format!("{name}={value}: allowed is ")), "{line}");
    assert!(!line.contains('\n'), "{line}");
    line
}

fn file(text: &str) -> Result<Config, ConfigError> {
    let mut config = Config::default();
    file::take(&mut config, Path::new("/etc/remora.toml"), text).map(|()| config)
}

fn ethernet(address: Option<(Ipv4Addr, Ipv4Addr)>) -> InterfaceFacts {
    InterfaceFacts { index: 2, hardware: 1, mac: [2, 0, 0, 0, 0, 9], mtu: 1_400, flags: 0x43, address }
}

/// A system with one interface, `eth0`.
fn with_system<R>(facts: Option<InterfaceFacts>, names: &[&str], use_it: impl FnOnce(&System<'_>) -> R) -> R {
    let files = |path: &str| match path {
        "/proc/sys/net/ipv4/tcp_sack" => Some("0\n".to_owned()),
        "/proc/sys/net/ipv4/tcp_congestion_control" => Some("westwood\n".to_owned()),
        "/proc/sys/net/ipv4/tcp_retries2" => Some("8\n".to_owned()),
        "/proc/sys/net/ipv4/tcp_ecn" => Some("99\n".to_owned()),
        "/proc/sys/net/ipv4/neigh/eth0/mcast_solicit" => Some("4\n".to_owned()),
        "/proc/net/route" => Some(
            "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
             eth0\t00000000\t0900000A\t0003\t0\t0\t50\t00000000\t0\t0\t0\n\
             eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
             eth1\t00000000\t0200000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
             eth0\t0000000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
                .to_owned(),
        ),
        _ => None,
    };
    let interface = |name: &str| facts.filter(|_| name == "eth0").ok_or(Errno(libc::ENODEV));
    let candidates = || names.iter().map(|name| (*name).to_owned()).collect();
    use_it(&System { read: &files, interface: &interface, candidates: &candidates })
}

#[test]
fn nothing_set_means_no_address_and_the_defaults() {
    let config = parse(&[]).unwrap();
    assert!(config.address.is_none() && config.takes_interface_address.is_none() && config.interface.is_none());
    assert_eq!(config.device.value, DeviceKind::Packet);
    assert_eq!(config.loopback.value, Loopback::Kernel);
    assert_eq!(config.log.value, LevelFilter::Warn);
    assert!(!config.strict.value);
    assert_eq!(parse(&[("REMORA_ADDR", ""), ("REMORA_MTU", " ")]).unwrap().address, None);
}

#[test]
fn address_takes_a_host_with_its_prefix_or_iface() {
    let config = good("REMORA_ADDR", "10.9.0.2/24");
    let address = config.address.unwrap();
    assert_eq!(address.value, Cidr { address: Ipv4Addr::new(10, 9, 0, 2), prefix: 24 });
    assert_eq!(address.source, Source::Environment("REMORA_ADDR"));
    for value in ["10.0.0.0/31", "10.0.0.1/31", "10.0.0.0/32", "10.0.0.255/16", "100.64.0.1/1"] {
        assert!(good("REMORA_ADDR", value).address.is_some(), "{value}");
    }
    assert!(good("REMORA_ADDR", "iface").takes_interface_address.is_some());
}

#[test]
fn bad_addresses_are_refused_with_the_reason() {
    for value in ["", "x", "10.0.0.1/33", "10.0.0.1/0", "10.0.0.1/", "10.0.0.1/+8", "10.0.0/8", "10.0.0.256/8"] {
        if !value.is_empty() {
            bad("REMORA_ADDR", value);
        }
    }
    for (value, reason) in [
        ("10.0.0.1", "length of the network is missing, as in 10.0.0.1/24"),
        ("fd00::1/64", "IPv4 only for now"),
        ("::1", "IPv4 only for now"),
        ("0.1.2.3/8", "which no host has"),
        ("127.0.0.1/8", "loopback"),
        ("224.0.0.1/4", "multicast"),
        ("255.255.255.255/32", "reserved"),
        ("10.0.0.0/24", "the network itself"),
        ("10.0.0.255/24", "broadcast"),
    ] {
        let line = bad("REMORA_ADDR", value);
        assert!(line.contains(reason), "{line}");
    }
}

#[test]
fn interface_takes_a_name_of_fifteen_bytes() {
    assert_eq!(good("REMORA_IFACE", "veth-of-remora0").interface.unwrap().value, "veth-of-remora0");
    for value in ["sixteen-bytes-it", "a/b", "a b", "a:b", "..", "."] {
        bad("REMORA_IFACE", value);
    }
}

#[test]
fn gateway_must_be_a_host_on_the_link() {
    assert_eq!(good("REMORA_GATEWAY", "10.0.0.1").gateway.unwrap().value, Ipv4Addr::new(10, 0, 0, 1));
    for value in ["10.0.0", "10.0.0.1/24", "fe80::1", "127.0.0.1", "0.0.0.0", "224.0.0.1"] {
        bad("REMORA_GATEWAY", value);
    }
    let with = |address, gateway| parse(&[("REMORA_ADDR", address), ("REMORA_GATEWAY", gateway)]);
    assert!(with("10.0.0.2/24", "10.0.0.1").is_ok());
    assert!(with("10.0.0.2/32", "10.9.9.1").is_ok());
    assert_eq!(
        with("10.0.0.2/24", "10.0.1.1").unwrap_err().to_string(),
        "REMORA_GATEWAY=10.0.1.1: allowed is an address on the link (10.0.0.2/24)"
    );
    assert!(with("10.0.0.2/24", "10.0.0.2").unwrap_err().to_string().contains("other than our own"));
}

#[test]
fn mac_must_be_one_stations() {
    assert_eq!(good("REMORA_MAC", "02:00:5e:10:0:FF").mac.unwrap().value, MacAddress([2, 0, 0x5e, 0x10, 0, 0xff]));
    assert!(good("REMORA_MAC", "02-00-00-00-00-01").mac.is_some());
    for value in ["01:00:00:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", "02:0:0:0:0", "2:0:0:0:0:0:0"] {
        bad("REMORA_MAC", value);
    }
    for value in ["02:00:00:00:00:0g", "02:00:00:00:00:001", "02:00:00:00:00:+1", "x"] {
        bad("REMORA_MAC", value);
    }
}

#[test]
fn mtu_runs_from_68_to_65535() {
    assert_eq!(good("REMORA_MTU", "68").mtu.unwrap().value, 68);
    assert_eq!(good("REMORA_MTU", "65535").mtu.unwrap().value, 65_535);
    for value in ["67", "65536", "-1", "+1500", "1.5k", "99999999999999999999"] {
        bad("REMORA_MTU", value);
    }
    assert_eq!(bad("REMORA_MTU", "67"), "REMORA_MTU=67: allowed is a number of bytes from 68 to 65535");
}

#[test]
fn device_names_its_back_end() {
    for (value, kind) in [
        ("packet", DeviceKind::Packet),
        ("portable", DeviceKind::Portable),
        ("unix:/run/wire", DeviceKind::Unix(UnixLink::Path("/run/wire".into()))),
        ("unix:@wire", DeviceKind::Unix(UnixLink::Abstract("wire".into()))),
        ("unix:fd:7", DeviceKind::Unix(UnixLink::Descriptor(7))),
    ] {
        let device = good("REMORA_DEVICE", value).device.value;
        assert_eq!(device, kind);
        assert_eq!(device.to_string(), value);
    }
    for value in ["tap", "unix", "unix:", "unix:@", "unix:fd:", "unix:fd:-1", "unix:fd:x", "Packet"] {
        bad("REMORA_DEVICE", value);
    }
    bad("REMORA_DEVICE", &format!("unix:/{}", "x".repeat(107)));
}

#[test]
fn words_and_flags_take_their_words_only() {
    assert_eq!(good("REMORA_LOOPBACK", "stack").loopback.value, Loopback::Stack);
    assert_eq!(good("REMORA_LOOPBACK", "kernel").loopback.value, Loopback::Kernel);
    bad("REMORA_LOOPBACK", "both");
    for level in LevelFilter::iter() {
        assert_eq!(good("REMORA_LOG", &level.as_str().to_ascii_lowercase()).log.value, level);
    }
    assert_eq!(bad("REMORA_LOG", "loud"), "REMORA_LOG=loud: allowed is off, error, warn, info, debug or trace");
    assert!(good("REMORA_STRICT", "1").strict.value);
    assert!(!good("REMORA_STRICT", "0").strict.value);
    bad("REMORA_STRICT", "yes");
    assert_eq!(good("REMORA_LOG_FILE", "/tmp/x").log_file.unwrap().value, Path::new("/tmp/x"));
    assert_eq!(good("REMORA_PCAP", "x.pcapng").pcap.unwrap().value, Path::new("x.pcapng"));
    bad("REMORA_LOG_FILE", "/tmp/");
    bad("REMORA_PCAP", "dir/");
}

#[test]
fn sysctl_overrides_are_checked_one_by_one() {
    let config = good("REMORA_SYSCTL", "net.ipv4.tcp_sack=0; net/ipv4/tcp_rmem = 4096 8192 16384;");
    assert!(!config.settings.tcp_sack);
    assert_eq!(config.settings.tcp_rmem, [4_096, 8_192, 16_384]);
    let line = |value| parse(&[("REMORA_SYSCTL", value)]).unwrap_err().to_string();
    assert_eq!(
        line("net.ipv4.tcp_tw_reuse=3"),
        "REMORA_SYSCTL: net.ipv4.tcp_tw_reuse=3: allowed is a number from 0 to 2"
    );
    assert_eq!(line("net.ipv4.x=3"), "REMORA_SYSCTL: net.ipv4.x: no such setting (remora config lists them all)");
    assert!(line("net.ipv4.tcp_sack").starts_with("REMORA_SYSCTL=net.ipv4.tcp_sack: allowed is NAME=VALUE"));
}

#[test]
fn the_file_knows_every_key() {
    let config = file(
        r#"
        iface = "eth0"
        addr = "10.0.0.2/24"
        gateway = "10.0.0.1"
        mac = "02:00:00:00:00:07"
        mtu = 1400
        device = "portable"
        loopback = "stack"
        log = "debug"
        log_file = "/tmp/log"
        pcap = "/tmp/pcap"
        strict = true
        [sysctl]
        "net.ipv4.tcp_sack" = 0
        net.ipv4.tcp_rmem = [4096, 8192, 16384]
        net.ipv4.tcp_autocorking = false
        "#,
    )
    .unwrap();
    let source = Source::File("/etc/remora.toml".into());
    assert_eq!(config.interface, Some(Value::new("eth0".to_owned(), source.clone())));
    assert_eq!(config.address.unwrap().value.to_string(), "10.0.0.2/24");
    assert_eq!(config.gateway.unwrap().value, Ipv4Addr::new(10, 0, 0, 1));
    assert_eq!(config.mac.unwrap().value.to_string(), "02:00:00:00:00:07");
    assert_eq!(config.mtu, Some(Value::new(1_400, source)));
    assert_eq!(config.device.value, DeviceKind::Portable);
    assert_eq!(config.loopback.value, Loopback::Stack);
    assert_eq!(config.log.value, LevelFilter::Debug);
    assert!(config.log_file.is_some() && config.pcap.is_some() && config.strict.value);
    assert!(!config.settings.tcp_sack && !config.settings.tcp_autocorking);
    assert_eq!(config.settings.tcp_rmem, [4_096, 8_192, 16_384]);
}

#[test]
fn name_servers_are_stack_kernel_or_a_list() {
    let names = |text| parse(&[("REMORA_DNS", text)]).map(|config| config.names.value);
    assert_eq!(Config::default().names.value, Names::Stack);
    assert_eq!(names("kernel").unwrap(), Names::Kernel);
    assert_eq!(names("10.0.0.1,10.0.0.2:5353").unwrap().to_string(), "10.0.0.1,10.0.0.2:5353");
    assert_eq!(names("10.0.0.1 10.0.0.2").unwrap().to_string(), "10.0.0.1,10.0.0.2");
    for wrong in ["::1", "10.0.0", "10.0.0.1:0", "a", ",", "10.0.0.1,10.0.0.2,10.0.0.3,10.0.0.4"] {
        assert!(names(wrong).unwrap_err().to_string().contains("stack, kernel or up to three a.b.c.d[:port]"));
    }
}

#[test]
fn faults_of_the_file_name_the_file_and_the_key() {
    let line = |text| file(text).unwrap_err().to_string();
    assert_eq!(line("mtu = 5"), "/etc/remora.toml: mtu = 5: allowed is a number of bytes from 68 to 65535");
    assert_eq!(
        line("interfce = 'x'"),
        "/etc/remora.toml: interfce: no such key: allowed are iface, addr, gateway, mac, mtu, device, loopback, \
         dns, interfaces, log, log_file, pcap, strict, rules, explain, summary, counters, deep, sysctl"
    );
    assert!(line("mtu = 1.5").contains("mtu = 1.5: allowed is a string"));
    assert!(line("sysctl = 3").contains("allowed is a table"));
    assert!(line("mtu = 1500\n= 3").starts_with("/etc/remora.toml: line 2 is not TOML: "));
    assert_eq!(
        line("[sysctl]\nnet.ipv4.tcp_tw_reuse = 7"),
        "/etc/remora.toml: sysctl: net.ipv4.tcp_tw_reuse=7: allowed is a number from 0 to 2"
    );
    for text in ["mtu = 1500\n= 3", "a = '\u{1}'", "[", "address = '10.0.0.1/24\\n'"] {
        assert!(!line(text).contains('\n'));
    }
    let missing = parse(&[("REMORA_CONFIG", "/nonexistent/remora.toml")]).unwrap_err().to_string();
    assert!(missing.starts_with("REMORA_CONFIG=/nonexistent/remora.toml: cannot be read: No such file"), "{missing}");
    assert!(parse(&[("REMORA_CONFIG", "/")]).unwrap_err().to_string().contains("not a regular file"));
}

#[test]
fn a_variable_wins_over_the_file() {
    let path = std::env::temp_dir().join(format!("remora-config-{}.toml", std::process::id()));
    std::fs::write(&path, "mtu = 1300\nlog = 'info'\naddr = 'iface'\n[sysctl]\nnet.ipv4.tcp_sack = 0\n").unwrap();
    let text = path.to_str().unwrap();
    let config = parse(&[
        ("REMORA_CONFIG", text),
        ("REMORA_MTU", "1200"),
        ("REMORA_ADDR", "10.0.0.2/24"),
        ("REMORA_SYSCTL", "net.ipv4.tcp_sack=1"),
    ]);
    std::fs::remove_file(&path).unwrap();
    let config = config.unwrap();
    assert_eq!(config.mtu, Some(Value::new(1_200, Source::Environment("REMORA_MTU"))));
    assert_eq!(config.log, Value::new(LevelFilter::Info, Source::File(path)));
    assert!(config.takes_interface_address.is_none() && config.settings.tcp_sack);
}

#[test]
fn settings_come_from_proc_and_are_overridden() {
    let mut config = parse(&[("REMORA_IFACE", "eth0"), ("REMORA_SYSCTL", "net.ipv4.tcp_retries2=9")]).unwrap();
    with_system(None, &[], |system| config.resolve(system)).unwrap();
    assert!(!config.settings.tcp_sack);
    assert_eq!(config.settings.tcp_retries2, 9);
    assert_eq!(config.settings.neigh_mcast_solicit, 4);
    assert_eq!(config.settings.tcp_ecn, Settings::default().tcp_ecn);
    let source = |name| config.rows().into_iter().find(|row| row.name == name).unwrap().source;
    assert_eq!(source("net.ipv4.tcp_sack"), Source::Proc);
    assert_eq!(source("net.ipv4.tcp_retries2"), Source::Environment("REMORA_SYSCTL"));
    assert_eq!(source("net.ipv4.tcp_retries1"), Source::Default);
}

#[test]
fn an_unknown_congestion_control_falls_to_cubic_with_a_note() {
    let mut config = parse(&[]).unwrap();
    with_system(None, &[], |system| config.resolve(system)).unwrap();
    assert_eq!(config.settings.tcp_congestion_control, Settings::default().tcp_congestion_control);
    assert_eq!(
        config.notes,
        [(
            Level::Info,
            "net.ipv4.tcp_congestion_control=westwood (/proc/sys) is not one of the stack's: cubic is used".to_owned()
        )]
    );
    let mut asked = parse(&[("REMORA_SYSCTL", "net.ipv4.tcp_congestion_control=vegas")]).unwrap();
    with_system(None, &[], |system| asked.resolve(system)).unwrap();
    assert_eq!(asked.notes[0].0, Level::Warn);
    let mut known = parse(&[("REMORA_SYSCTL", "net.ipv4.tcp_congestion_control=reno")]).unwrap();
    with_system(None, &[], |system| known.resolve(system)).unwrap();
    assert!(known.notes.is_empty());
}

#[test]
fn the_only_interface_that_is_up_is_taken() {
    let address = ("REMORA_ADDR", "10.0.0.2/24");
    let mut config = parse(&[address]).unwrap();
    with_system(Some(ethernet(None)), &["eth0"], |system| config.resolve(system)).unwrap();
    assert_eq!(config.interface, Some(Value::new("eth0".to_owned(), Source::Default)));
    assert_eq!(config.mtu, Some(Value::new(1_400, Source::Interface)));
    let failure = |names| {
        let mut config = parse(&[address]).unwrap();
        with_system(None, names, |system| config.resolve(system)).unwrap_err().to_string()
    };
    assert_eq!(
        failure(&["eth0", "eth1"]),
        "REMORA_IFACE is not set and several interfaces are up: allowed is one of eth0, eth1"
    );
    assert!(failure(&[]).contains("no interface but the loopback is up"));
}

#[test]
fn a_missing_interface_is_waited_for_but_can_be_required() {
    let mut config = parse(&[("REMORA_ADDR", "10.0.0.2/24"), ("REMORA_IFACE", "eth7")]).unwrap();
    with_system(None, &["eth0"], |system| {
        config.resolve(system).unwrap();
        assert_eq!(
            config.require_interface(system).unwrap_err().to_string(),
            "REMORA_IFACE=eth7: no such interface: allowed is one of eth0"
        );
    });
    assert_eq!(config.mtu, Some(Value::new(1_500, Source::Default)));
}

#[test]
fn the_unix_back_end_needs_no_interface() {
    let mut config = parse(&[("REMORA_ADDR", "10.0.0.2/24"), ("REMORA_DEVICE", "unix:@x")]).unwrap();
    with_system(None, &[], |system| {
        config.resolve(system).unwrap();
        assert_eq!(config.require_interface(system), Ok(None));
    });
    assert!(config.interface.is_none() && config.mac.is_some());
}

#[test]
fn the_derived_mac_is_stable_local_and_of_this_address_and_interface() {
    let derive = |last, own: Option<u8>| {
        resolve::derive_mac(Ipv4Addr::new(10, 0, 0, last), own.map(|own| MacAddress([2, 0, 0, 0, 0, own])))
    };
    assert_eq!(derive(2, Some(9)), derive(2, Some(9)));
    let all = [derive(2, Some(9)), derive(3, Some(9)), derive(2, Some(8)), derive(2, None)];
    for (at, mac) in all.iter().enumerate() {
        assert_eq!(mac.0[0] & 3, 2, "{mac} is locally administered and no group");
        assert!(!all[..at].contains(mac));
    }
}

#[test]
fn iface_takes_address_mac_and_gateway_of_the_kernel() {
    let own = Some((Ipv4Addr::new(10, 0, 0, 5), Ipv4Addr::new(255, 255, 255, 0)));
    let mut config = parse(&[("REMORA_ADDR", "iface"), ("REMORA_IFACE", "eth0")]).unwrap();
    with_system(Some(ethernet(own)), &[], |system| config.resolve(system)).unwrap();
    assert_eq!(config.address.as_ref().unwrap().value.to_string(), "10.0.0.5/24");
    assert_eq!(config.address.as_ref().unwrap().source, Source::Interface);
    assert_eq!(config.mac, Some(Value::new(MacAddress([2, 0, 0, 0, 0, 9]), Source::Interface)));
    assert_eq!(config.gateway, Some(Value::new(Ipv4Addr::new(10, 0, 0, 1), Source::Interface)));
    let device = DeviceCapabilities { medium: Medium::Ethernet, mtu: 1_400, gso_max: 0, checksum_tx: false };
    assert!(!config.interface_config(device).unwrap().probe);
    let mut none = parse(&[("REMORA_ADDR", "iface"), ("REMORA_IFACE", "eth0")]).unwrap();
    let error = with_system(Some(ethernet(None)), &[], |system| {
        none.resolve(system).unwrap();
        none.require_interface(system).unwrap_err()
    });
    assert!(none.wants_stack() && none.device_spec().is_none());
    assert!(error.to_string().starts_with("REMORA_ADDR=iface: eth0 has no IPv4 address: allowed is"));
}

#[test]
fn mtu_above_the_interfaces_is_refused() {
    let with = |mtu| {
        let mut config =
            parse(&[("REMORA_ADDR", "10.0.0.2/24"), ("REMORA_IFACE", "eth0"), ("REMORA_MTU", mtu)]).unwrap();
        with_system(Some(ethernet(None)), &[], |system| config.resolve(system)).map(|()| config)
    };
    assert_eq!(
        with("1401").unwrap_err().to_string(),
        "REMORA_MTU=1401: allowed is at most 1400, the MTU of the interface"
    );
    let config = with("1000").unwrap();
    let device = DeviceCapabilities { medium: Medium::Ethernet, mtu: 1_400, gso_max: 65_535, checksum_tx: true };
    let interface = config.interface_config(device).unwrap();
    assert_eq!(interface.capabilities.mtu, 1_000);
    assert!(interface.probe && !interface.loopback);
}

#[test]
fn resolving_twice_follows_the_interface() {
    let mut config = parse(&[("REMORA_ADDR", "10.0.0.2/24"), ("REMORA_IFACE", "eth0")]).unwrap();
    with_system(None, &[], |system| config.resolve(system)).unwrap();
    let before = config.mac.clone();
    with_system(Some(ethernet(None)), &[], |system| config.resolve(system)).unwrap();
    assert_ne!(config.mac, before);
    assert_eq!(config.mtu, Some(Value::new(1_400, Source::Interface)));
}

#[test]
fn the_running_system_can_be_asked() {
    let mut config = parse(&[("REMORA_IFACE", "lo"), ("REMORA_ADDR", "10.0.0.2/24")]).unwrap();
    let system = System::host();
    config.resolve(&system).unwrap();
    assert!(config.require_interface(&system).unwrap().is_some());
    assert!(config.rows().iter().any(|row| row.source == Source::Proc));
}

#[test]
fn the_device_is_told_what_was_given_and_finds_the_rest() {
    let mut config =
        parse(&[("REMORA_ADDR", "10.0.0.2/24"), ("REMORA_IFACE", "eth0"), ("REMORA_MTU", "1200")]).unwrap();
    with_system(Some(ethernet(None)), &[], |system| config.resolve(system)).unwrap();
    let spec = config.device_spec().unwrap();
    assert_eq!((spec.interface.as_str(), spec.mtu), ("eth0", Some(1_200)));
    assert_eq!(spec.mac, config.mac.map(|mac| mac.value.0));
    let link = |device| {
        let mut config = parse(&[("REMORA_ADDR", "10.0.0.2/24"), ("REMORA_DEVICE", device)]).unwrap();
        with_system(None, &[], |system| config.resolve(system)).unwrap();
        config.device_spec().unwrap().interface
    };
    assert_eq!([link("unix:fd:7"), link("unix:@x"), link("unix:/x")], ["fd:7", "unix:@x", "unix:/x"]);
    assert!(parse(&[]).unwrap().device_spec().is_none());
}
