//! Settings as text under the names of Linux's sysctls: one table row per setting holds its name, its field and what
//! Linux allows there (`net/ipv4/sysctl_net_ipv4.c`, `net/core/sysctl_net_core.c`, tried out on Linux 6.18).
//!
//! Where the values come from (/proc/sys/net, `REMORA_SYSCTL`) is the host's affair.

use alloc::format;
use alloc::string::{String, ToString};
use core::fmt;

use crate::settings::Settings;

/// `INT_MAX`: the end of what `proc_dointvec` takes.
const INT_MAX: u32 = i32::MAX as u32;
/// What `proc_dointvec_jiffies` takes, in seconds, at HZ = 1000: the jiffies must fit an int.
const SECONDS_MAX: u32 = INT_MAX / 1_000;
/// Names of algorithms have at most this many bytes (`TCP_CA_NAME_MAX` less the terminating zero).
const NAME_MAX: usize = 15;
/// `(gid_t)-1` is no group.
const GROUP_MAX: u32 = u32::MAX - 1;

/// Where a value lives in [`Settings`] and what it may be, both ends included.
enum Field {
    /// Zero is off, anything else up to the maximum is on (`proc_dou8vec_minmax`).
    Flag(fn(&mut Settings) -> &mut bool, u32),
    Byte(fn(&mut Settings) -> &mut u8, u8, u8),
    Signed(fn(&mut Settings) -> &mut i8, i8, i8),
    Short(fn(&mut Settings) -> &mut u16, u16, u16),
    Number(fn(&mut Settings) -> &mut u32, u32, u32),
    /// Three numbers: minimum, default and maximum of a buffer in bytes; tcp_mem's limits.
    Buffer(fn(&mut Settings) -> &mut [u32; 3]),
    /// First and last port; the first may not be above the last.
    Ports(fn(&mut Settings) -> &mut (u16, u16)),
    /// First and last group; the first above the last means none.
    Groups(fn(&mut Settings) -> &mut (u32, u32)),
    /// The name of a congestion control algorithm.
    Name(fn(&mut Settings) -> &mut [u8; 16]),
    /// One key or two, each as four hexadecimal numbers with dashes between (`proc_tcp_fastopen_key`).
    Keys(fn(&mut Settings) -> &mut [u8; 32]),
}

struct Row {
    name: &'static str,
    field: Field,
}

const fn row(name: &'static str, field: Field) -> Row {
    Row { name, field }
}

/// All settings, in the order in which they are shown.
const TABLE: &[Row] = &[
    row("net.core.rmem_default", Field::Number(|s| &mut s.rmem_default, 2_304, INT_MAX)),
    row("net.core.rmem_max", Field::Number(|s| &mut s.rmem_max, 2_304, INT_MAX)),
    row("net.core.somaxconn", Field::Number(|s| &mut s.somaxconn, 0, INT_MAX)),
    row("net.core.wmem_default", Field::Number(|s| &mut s.wmem_default, 4_608, INT_MAX)),
    row("net.core.wmem_max", Field::Number(|s| &mut s.wmem_max, 4_608, INT_MAX)),
    // Linux takes any number, and every one but 0 is on.
    row("net.ipv4.conf.all.accept_source_route", Field::Flag(|s| &mut s.accept_source_route, INT_MAX)),
    row("net.ipv4.icmp_echo_ignore_all", Field::Flag(|s| &mut s.icmp_echo_ignore_all, 1)),
    row("net.ipv4.icmp_echo_ignore_broadcasts", Field::Flag(|s| &mut s.icmp_echo_ignore_broadcasts, 1)),
    row("net.ipv4.icmp_ratelimit", Field::Number(|s| &mut s.icmp_ratelimit, 0, INT_MAX)),
    row("net.ipv4.ip_default_ttl", Field::Byte(|s| &mut s.ip_default_ttl, 1, 255)),
    row("net.ipv4.ip_local_port_range", Field::Ports(|s| &mut s.ip_local_port_range)),
    row("net.ipv4.ip_no_pmtu_disc", Field::Byte(|s| &mut s.ip_no_pmtu_disc, 0, 255)),
    row("net.ipv4.ip_unprivileged_port_start", Field::Short(|s| &mut s.ip_unprivileged_port_start, 0, 65_535)),
    row("net.ipv4.ipfrag_high_thresh", Field::Number(|s| &mut s.ipfrag_high_thresh, 0, u32::MAX)),
    row("net.ipv4.ipfrag_time", Field::Number(|s| &mut s.ipfrag_time, 0, SECONDS_MAX)),
    row(
        "net.ipv4.neigh.default.base_reachable_time_ms",
        Field::Number(|s| &mut s.neigh_base_reachable_time_ms, 0, INT_MAX),
    ),
    row(
        "net.ipv4.neigh.default.delay_first_probe_time",
        Field::Number(|s| &mut s.neigh_delay_first_probe_time, 0, SECONDS_MAX),
    ),
    row("net.ipv4.neigh.default.gc_stale_time", Field::Number(|s| &mut s.neigh_gc_stale_time, 0, SECONDS_MAX)),
    // Linux keeps an int for the numbers of probes; nobody sends more than a byte's worth.
    row("net.ipv4.neigh.default.mcast_solicit", Field::Byte(|s| &mut s.neigh_mcast_solicit, 0, 255)),
    row("net.ipv4.neigh.default.retrans_time_ms", Field::Number(|s| &mut s.neigh_retrans_time_ms, 0, INT_MAX)),
    row("net.ipv4.neigh.default.ucast_solicit", Field::Byte(|s| &mut s.neigh_ucast_solicit, 0, 255)),
    row("net.ipv4.neigh.default.unres_qlen_bytes", Field::Number(|s| &mut s.neigh_unres_qlen_bytes, 0, INT_MAX)),
    row("net.ipv4.ping_group_range", Field::Groups(|s| &mut s.ping_group_range)),
    row("net.ipv4.tcp_abort_on_overflow", Field::Flag(|s| &mut s.tcp_abort_on_overflow, 255)),
    row("net.ipv4.tcp_adv_win_scale", Field::Signed(|s| &mut s.tcp_adv_win_scale, -31, 31)),
    row("net.ipv4.tcp_autocorking", Field::Flag(|s| &mut s.tcp_autocorking, 1)),
    row("net.ipv4.tcp_base_mss", Field::Short(|s| &mut s.tcp_base_mss, 0, 65_535)),
    row("net.ipv4.tcp_challenge_ack_limit", Field::Number(|s| &mut s.tcp_challenge_ack_limit, 0, INT_MAX)),
    row("net.ipv4.tcp_congestion_control", Field::Name(|s| &mut s.tcp_congestion_control)),
    row("net.ipv4.tcp_dsack", Field::Flag(|s| &mut s.tcp_dsack, 255)),
    row("net.ipv4.tcp_early_retrans", Field::Byte(|s| &mut s.tcp_early_retrans, 0, 4)),
    // Kernels with Accurate ECN take up to 5, older ones up to 2.
    row("net.ipv4.tcp_ecn", Field::Byte(|s| &mut s.tcp_ecn, 0, 5)),
    row("net.ipv4.tcp_ecn_fallback", Field::Flag(|s| &mut s.tcp_ecn_fallback, 1)),
    row("net.ipv4.tcp_fastopen", Field::Number(|s| &mut s.tcp_fastopen, 0, INT_MAX)),
    row(
        "net.ipv4.tcp_fastopen_blackhole_timeout_sec",
        Field::Number(|s| &mut s.tcp_fastopen_blackhole_timeout_sec, 0, INT_MAX),
    ),
    row("net.ipv4.tcp_fastopen_key", Field::Keys(|s| &mut s.tcp_fastopen_key)),
    row("net.ipv4.tcp_fin_timeout", Field::Number(|s| &mut s.tcp_fin_timeout, 0, SECONDS_MAX)),
    row("net.ipv4.tcp_frto", Field::Byte(|s| &mut s.tcp_frto, 0, 255)),
    row("net.ipv4.tcp_invalid_ratelimit", Field::Number(|s| &mut s.tcp_invalid_ratelimit, 0, INT_MAX)),
    row("net.ipv4.tcp_keepalive_intvl", Field::Number(|s| &mut s.tcp_keepalive_intvl, 0, SECONDS_MAX)),
    row("net.ipv4.tcp_keepalive_probes", Field::Byte(|s| &mut s.tcp_keepalive_probes, 0, 255)),
    row("net.ipv4.tcp_keepalive_time", Field::Number(|s| &mut s.tcp_keepalive_time, 0, SECONDS_MAX)),
    row("net.ipv4.tcp_max_orphans", Field::Number(|s| &mut s.tcp_max_orphans, 0, INT_MAX)),
    row("net.ipv4.tcp_max_reordering", Field::Number(|s| &mut s.tcp_max_reordering, 0, INT_MAX)),
    row("net.ipv4.tcp_max_syn_backlog", Field::Number(|s| &mut s.tcp_max_syn_backlog, 0, INT_MAX)),
    row("net.ipv4.tcp_max_tw_buckets", Field::Number(|s| &mut s.tcp_max_tw_buckets, 0, INT_MAX)),
    row("net.ipv4.tcp_mem", Field::Buffer(|s| &mut s.tcp_mem)),
    row("net.ipv4.tcp_min_rtt_wlen", Field::Number(|s| &mut s.tcp_min_rtt_wlen, 0, 86_400)),
    row("net.ipv4.tcp_min_snd_mss", Field::Short(|s| &mut s.tcp_min_snd_mss, 48, 65_535)),
    row("net.ipv4.tcp_min_tso_segs", Field::Byte(|s| &mut s.tcp_min_tso_segs, 1, 255)),
    row("net.ipv4.tcp_moderate_rcvbuf", Field::Flag(|s| &mut s.tcp_moderate_rcvbuf, 255)),
    row("net.ipv4.tcp_mtu_probe_floor", Field::Short(|s| &mut s.tcp_mtu_probe_floor, 48, 65_535)),
    row("net.ipv4.tcp_mtu_probing", Field::Byte(|s| &mut s.tcp_mtu_probing, 0, 255)),
    row("net.ipv4.tcp_notsent_lowat", Field::Number(|s| &mut s.tcp_notsent_lowat, 0, u32::MAX)),
    row("net.ipv4.tcp_orphan_retries", Field::Byte(|s| &mut s.tcp_orphan_retries, 0, 255)),
    row("net.ipv4.tcp_pacing_ca_ratio", Field::Short(|s| &mut s.tcp_pacing_ca_ratio, 0, 1_000)),
    row("net.ipv4.tcp_pacing_ss_ratio", Field::Short(|s| &mut s.tcp_pacing_ss_ratio, 0, 1_000)),
    row("net.ipv4.tcp_probe_interval", Field::Number(|s| &mut s.tcp_probe_interval, 0, SECONDS_MAX)),
    row("net.ipv4.tcp_probe_threshold", Field::Number(|s| &mut s.tcp_probe_threshold, 0, INT_MAX)),
    row("net.ipv4.tcp_recovery", Field::Byte(|s| &mut s.tcp_recovery, 0, 255)),
    row("net.ipv4.tcp_reordering", Field::Number(|s| &mut s.tcp_reordering, 0, INT_MAX)),
    row("net.ipv4.tcp_retries1", Field::Byte(|s| &mut s.tcp_retries1, 0, 255)),
    row("net.ipv4.tcp_retries2", Field::Byte(|s| &mut s.tcp_retries2, 0, 255)),
    row("net.ipv4.tcp_rfc1337", Field::Flag(|s| &mut s.tcp_rfc1337, 255)),
    row("net.ipv4.tcp_rmem", Field::Buffer(|s| &mut s.tcp_rmem)),
    row("net.ipv4.tcp_sack", Field::Flag(|s| &mut s.tcp_sack, 255)),
    row("net.ipv4.tcp_slow_start_after_idle", Field::Flag(|s| &mut s.tcp_slow_start_after_idle, 255)),
    row("net.ipv4.tcp_stdurg", Field::Flag(|s| &mut s.tcp_stdurg, 255)),
    row("net.ipv4.tcp_syn_linear_timeouts", Field::Byte(|s| &mut s.tcp_syn_linear_timeouts, 0, 127)),
    row("net.ipv4.tcp_syn_retries", Field::Byte(|s| &mut s.tcp_syn_retries, 1, 127)),
    row("net.ipv4.tcp_synack_retries", Field::Byte(|s| &mut s.tcp_synack_retries, 0, 255)),
    row("net.ipv4.tcp_syncookies", Field::Byte(|s| &mut s.tcp_syncookies, 0, 255)),
    row("net.ipv4.tcp_timestamps", Field::Byte(|s| &mut s.tcp_timestamps, 0, 255)),
    row("net.ipv4.tcp_tso_rtt_log", Field::Byte(|s| &mut s.tcp_tso_rtt_log, 0, 255)),
    row("net.ipv4.tcp_tso_win_divisor", Field::Byte(|s| &mut s.tcp_tso_win_divisor, 0, 255)),
    row("net.ipv4.tcp_tw_reuse", Field::Byte(|s| &mut s.tcp_tw_reuse, 0, 2)),
    row("net.ipv4.tcp_window_scaling", Field::Flag(|s| &mut s.tcp_window_scaling, 255)),
    row("net.ipv4.tcp_wmem", Field::Buffer(|s| &mut s.tcp_wmem)),
    // Ours: the conflict probe of our own address (RFC 5227).
    row("remora.address_probe_count", Field::Byte(|s| &mut s.address_probe_count, 0, 255)),
    row("remora.address_probe_interval_ms", Field::Number(|s| &mut s.address_probe_interval_ms, 0, INT_MAX)),
];

/// Why a setting was refused. Its text is one line that names the setting, the value and what is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettingError {
    /// There is no setting of that name.
    Unknown {
        /// The name as it was given.
        name: String,
    },
    /// The value is not one that the setting takes.
    Refused {
        /// The setting, in dotted form.
        name: &'static str,
        /// The value as it was given.
        value: String,
        /// What is allowed, in words.
        allowed: String,
    },
}

impl fmt::Display for SettingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { name } => write!(f, "{name}: no such setting (remora config lists them all)"),
            Self::Refused { name, value, allowed } => write!(f, "{name}={value}: allowed is {allowed}"),
        }
    }
}

impl core::error::Error for SettingError {}

impl Settings {
    /// Changes the setting of that sysctl name, written with dots or slashes. Numbers are decimal, 0x hexadecimal or
    /// 0 octal, as in /proc/sys.
    ///
    /// # Errors
    /// [`SettingError::Unknown`] for a name that is not in the table, [`SettingError::Refused`] for a value that the
    /// setting does not take; the settings are unchanged then.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), SettingError> {
        let row = find(name).ok_or_else(|| SettingError::Unknown { name: name.to_string() })?;
        row.field.write(self, value.trim()).ok_or_else(|| SettingError::Refused {
            name: row.name,
            value: value.trim().to_string(),
            allowed: row.field.allowed(),
        })
    }

    /// The dotted name of the setting that `name` means, if there is one.
    #[must_use]
    pub fn canonical_name(name: &str) -> Option<&'static str> {
        find(name).map(|row| row.name)
    }

    /// The names of all settings, in dotted form and in the order of [`Settings::each`].
    pub fn names() -> impl Iterator<Item = &'static str> {
        TABLE.iter().map(|row| row.name)
    }

    /// Every setting with its value as /proc/sys would show it (several numbers are parted by a space).
    pub fn each(&self) -> impl Iterator<Item = (&'static str, String)> {
        // The table's accessors are for writing; a copy can be handed to them.
        let mut copy = self.clone();
        TABLE.iter().map(move |row| (row.name, row.field.read(&mut copy)))
    }
}

fn find(name: &str) -> Option<&'static Row> {
    let dotted = |byte: u8| if byte == b'/' { b'.' } else { byte };
    TABLE.iter().find(|row| row.name.bytes().eq(name.trim().bytes().map(dotted)))
}

impl Field {
    /// Parses and stores; `None` leaves the settings as they were.
    fn write(&self, settings: &mut Settings, text: &str) -> Option<()> {
        match *self {
            Self::Flag(field, last) => *field(settings) = number(text, 0, last.into())? != 0,
            Self::Byte(field, first, last) => {
                *field(settings) = u8::try_from(number(text, first.into(), last.into())?).ok()?;
            }
            Self::Signed(field, first, last) => {
                *field(settings) = i8::try_from(number(text, first.into(), last.into())?).ok()?;
            }
            Self::Short(field, first, last) => {
                *field(settings) = u16::try_from(number(text, first.into(), last.into())?).ok()?;
            }
            Self::Number(field, first, last) => {
                *field(settings) = u32::try_from(number(text, first.into(), last.into())?).ok()?;
            }
            Self::Buffer(field) => {
                // Linux lets fewer numbers stand and ignores more; here that is taken for the mistake it mostly is.
                let [minimum, default, maximum] = numbers(text, 1, INT_MAX)?;
                *field(settings) = [minimum, default, maximum];
            }
            Self::Ports(field) => {
                let [first, last] = numbers(text, 1, 65_535)?;
                if first > last {
                    return None;
                }
                *field(settings) = (u16::try_from(first).ok()?, u16::try_from(last).ok()?);
            }
            Self::Groups(field) => {
                let [first, last] = numbers(text, 0, GROUP_MAX)?;
                // ipv4_ping_group_range: a range the wrong way round is kept as "1 0", nobody.
                *field(settings) = if first > last { (1, 0) } else { (first, last) };
            }
            Self::Name(field) => {
                let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
                if text.is_empty() || text.len() > NAME_MAX || !text.as_bytes().iter().all(plain) {
                    return None;
                }
                let mut name = [0; 16];
                for (to, from) in name.iter_mut().zip(text.bytes()) {
                    *to = from;
                }
                *field(settings) = name;
            }
            Self::Keys(field) => {
                let mut keys = [0; 32];
                let mut places = keys.chunks_exact_mut(16);
                for key in text.split(',') {
                    places.next()?.copy_from_slice(&key_bytes(key.trim())?);
                }
                *field(settings) = keys;
            }
        }
        Some(())
    }

    fn read(&self, settings: &mut Settings) -> String {
        match *self {
            Self::Flag(field, _) => u8::from(*field(settings)).to_string(),
            Self::Byte(field, ..) => field(settings).to_string(),
            Self::Signed(field, ..) => field(settings).to_string(),
            Self::Short(field, ..) => field(settings).to_string(),
            Self::Number(field, ..) => field(settings).to_string(),
            Self::Buffer(field) => {
                let [minimum, default, maximum] = *field(settings);
                format!("{minimum} {default} {maximum}")
            }
            Self::Ports(field) => {
                let (first, last) = *field(settings);
                format!("{first} {last}")
            }
            Self::Groups(field) => {
                let (first, last) = *field(settings);
                format!("{first} {last}")
            }
            Self::Name(field) => {
                field(settings).iter().take_while(|&&byte| byte != 0).map(|&byte| char::from(byte)).collect()
            }
            Self::Keys(field) => {
                let keys = *field(settings);
                let (first, second) = keys.split_at(16);
                let mut text = key_text(first);
                if second.iter().any(|byte| *byte != 0) {
                    text.push(',');
                    text.push_str(&key_text(second));
                }
                text
            }
        }
    }

    /// What the setting takes, for error messages.
    fn allowed(&self) -> String {
        match *self {
            Self::Flag(_, 1) => "0 or 1".to_string(),
            Self::Flag(_, last) => format!("0 (off), or 1 to {last} (on)"),
            Self::Byte(_, first, last) => format!("a number from {first} to {last}"),
            Self::Signed(_, first, last) => format!("a number from {first} to {last}"),
            Self::Short(_, first, last) => format!("a number from {first} to {last}"),
            Self::Number(_, first, last) => format!("a number from {first} to {last}"),
            Self::Buffer(_) => format!("three numbers from 1 to {INT_MAX}"),
            Self::Ports(_) => "two ports from 1 to 65535, the first not above the last".to_string(),
            Self::Groups(_) => format!("two group ids from 0 to {GROUP_MAX}"),
            Self::Name(_) => format!("a name of 1 to {NAME_MAX} letters, digits, _ and -"),
            Self::Keys(_) => {
                "one key or two with a comma between, each four hexadecimal numbers with dashes".to_string()
            }
        }
    }
}

/// The bytes of one key: its numbers are little-endian.
fn key_bytes(text: &str) -> Option<[u8; 16]> {
    let mut key = [0; 16];
    let mut numbers = text.split('-');
    for place in key.chunks_exact_mut(4) {
        let digits = numbers.next().filter(|digits| !digits.starts_with('+'))?;
        place.copy_from_slice(&u32::from_str_radix(digits, 16).ok()?.to_le_bytes());
    }
    numbers.next().is_none().then_some(key)
}

fn key_text(key: &[u8]) -> String {
    let mut text = String::new();
    for number in key.chunks_exact(4).filter_map(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes) {
        if !text.is_empty() {
            text.push('-');
        }
        text.push_str(&format!("{number:08x}"));
    }
    text
}

/// One integer within the bounds, with C's prefixes (`strtoul_lenient` with base 0).
fn number(text: &str, first: i64, last: i64) -> Option<i64> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (radix, digits) = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(rest) => (16, rest),
        None => match digits.strip_prefix('0') {
            Some(rest) if !rest.is_empty() => (8, rest),
            _ => (10, digits),
        },
    };
    // from_str_radix takes a sign of its own, which must not follow the one above.
    if !digits.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return None;
    }
    let magnitude = i64::from_str_radix(digits, radix).ok()?;
    let value = if negative { magnitude.checked_neg()? } else { magnitude };
    (first..=last).contains(&value).then_some(value)
}

/// Exactly `N` integers parted by white space.
fn numbers<const N: usize>(text: &str, first: u32, last: u32) -> Option<[u32; N]> {
    let mut all = [0; N];
    let mut words = text.split_ascii_whitespace();
    for slot in &mut all {
        *slot = u32::try_from(number(words.next()?, first.into(), last.into())?).ok()?;
    }
    words.next().is_none().then_some(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn every_field_of_settings_has_a_row() {
        // The debug form has one "name: " per field; the two short names of the neighbour rows are checked below.
        let debug = format!("{:?}", Settings::default());
        let fields: Vec<&str> =
            debug.split(['{', ',']).filter_map(|part| part.split_once(": ")).map(|(name, _)| name.trim()).collect();
        assert_eq!(fields.len(), TABLE.len());
        for field in fields {
            let last = field.strip_prefix("neigh_").unwrap_or(field);
            assert!(TABLE.iter().any(|row| row.name.rsplit('.').next() == Some(last)), "{field} has no row");
        }
    }

    #[test]
    fn names_are_sorted_and_unique() {
        let names: Vec<_> = Settings::names().collect();
        assert!(names.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn every_setting_takes_its_own_text_back_and_changes_nothing_else() {
        let original = Settings::default();
        let mut copy = original.clone();
        for (name, value) in original.each() {
            copy.set(name, &value).unwrap();
            assert_eq!(copy, original, "{name}={value}");
        }
    }

    #[test]
    fn each_row_writes_the_field_of_its_name() {
        for row in TABLE {
            let mut settings = Settings::default();
            let new = match row.field {
                Field::Flag(..) => if row.field.read(&mut settings) == "0" { "1" } else { "0" }.to_string(),
                Field::Byte(_, _, last) => {
                    if row.field.read(&mut settings) == last.to_string() { last - 1 } else { last }.to_string()
                }
                Field::Signed(_, first, _) => first.to_string(),
                Field::Short(..) => "49".to_string(),
                Field::Number(..) => "55555".to_string(),
                Field::Buffer(_) => "5000 6000 7000".to_string(),
                Field::Ports(_) => "5000 6000".to_string(),
                Field::Groups(_) => "7 9".to_string(),
                Field::Name(_) => "reno".to_string(),
                Field::Keys(_) => "00000001-00000002-00000003-0000000f,a1a1a1a1-b2b2b2b2-c3c3c3c3-d4d4d4d4".to_string(),
            };
            settings.set(row.name, &new).unwrap();
            let changed: Vec<_> = settings
                .each()
                .zip(Settings::default().each())
                .filter(|(is, was)| is != was)
                .map(|(is, _)| is)
                .collect();
            assert_eq!(changed, [(row.name, new)]);
        }
    }

    #[test]
    fn names_may_be_written_with_slashes() {
        let mut settings = Settings::default();
        settings.set("net/ipv4/tcp_sack", "0").unwrap();
        assert!(!settings.tcp_sack);
        assert_eq!(Settings::canonical_name("net/core/somaxconn"), Some("net.core.somaxconn"));
    }

    #[test]
    fn numbers_are_read_as_proc_reads_them() {
        let mut settings = Settings::default();
        for (text, value) in [("10", 10), ("0x10", 16), ("010", 8), (" 7\n", 7), ("0", 0)] {
            settings.set("net.ipv4.tcp_retries2", text).unwrap();
            assert_eq!(settings.tcp_retries2, value, "{text:?}");
        }
        settings.set("net.ipv4.tcp_rmem", "4096\t131072\t33554432\n").unwrap();
        assert_eq!(settings.tcp_rmem, [4_096, 131_072, 33_554_432]);
        settings.set("net.ipv4.ping_group_range", "5 1").unwrap();
        assert_eq!(settings.ping_group_range, (1, 0));
        settings.set("net.ipv4.tcp_adv_win_scale", "-2").unwrap();
        assert_eq!(settings.tcp_adv_win_scale, -2);
    }

    #[test]
    fn bad_values_are_refused_and_change_nothing() {
        let mut settings = Settings::default();
        for (name, value) in [
            ("net.ipv4.tcp_sack", "256"),
            ("net.ipv4.tcp_sack", "-1"),
            ("net.ipv4.tcp_sack", "yes"),
            ("net.ipv4.tcp_sack", ""),
            ("net.ipv4.tcp_sack", "+1"),
            ("net.ipv4.tcp_sack", "--1"),
            ("net.ipv4.tcp_sack", "0x"),
            ("net.ipv4.tcp_sack", "1 2"),
            ("net.ipv4.tcp_sack", "99999999999999999999"),
            ("net.ipv4.tcp_autocorking", "2"),
            ("net.ipv4.ip_default_ttl", "0"),
            ("net.ipv4.tcp_syn_retries", "0"),
            ("net.ipv4.tcp_syn_retries", "128"),
            ("net.ipv4.tcp_min_snd_mss", "47"),
            ("net.ipv4.tcp_fin_timeout", "2147484"),
            ("net.core.rmem_max", "2303"),
            ("net.core.wmem_max", "4607"),
            ("net.ipv4.tcp_rmem", "1 2"),
            ("net.ipv4.tcp_rmem", "1 2 3 4"),
            ("net.ipv4.tcp_rmem", "0 1 2"),
            ("net.ipv4.tcp_wmem", "4096,8192,9999"),
            ("net.ipv4.ip_local_port_range", "2000 1999"),
            ("net.ipv4.ip_local_port_range", "0 1999"),
            ("net.ipv4.ping_group_range", "0 4294967295"),
            ("net.ipv4.tcp_congestion_control", ""),
            ("net.ipv4.tcp_congestion_control", "sixteen_letters_"),
            ("net.ipv4.tcp_congestion_control", "cu bic"),
        ] {
            let error = settings.set(name, value).unwrap_err();
            assert!(matches!(&error, SettingError::Refused { name: refused, .. } if *refused == name), "{error}");
            assert_eq!(settings, Settings::default(), "{name}={value}");
        }
    }

    #[test]
    fn errors_name_the_setting_the_value_and_what_is_allowed() {
        let mut settings = Settings::default();
        let text = |result: Result<(), SettingError>| result.unwrap_err().to_string();
        assert_eq!(
            text(settings.set("net/ipv4/tcp_tw_reuse", "3")),
            "net.ipv4.tcp_tw_reuse=3: allowed is a number from 0 to 2"
        );
        assert_eq!(
            text(settings.set("net.ipv4.tcp_sak", "1")),
            "net.ipv4.tcp_sak: no such setting (remora config lists them all)"
        );
    }
}
