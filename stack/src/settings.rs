//! The stack's tunables under the names of Linux's sysctls, with Linux's defaults, parsed from text.
//!
//! The host reads them from /proc/sys/net and lets `REMORA_SYSCTL` override; the core only holds the values.

/// Tunables of one stack. Field names are the last part of the sysctl's name.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)]
pub struct Settings {
    /// net.ipv4.ip_local_port_range: first and last ephemeral port, both included.
    pub ip_local_port_range: (u16, u16),
    /// net.ipv4.ip_default_ttl.
    pub ip_default_ttl: u8,
    /// net.ipv4.ip_no_pmtu_disc.
    pub ip_no_pmtu_disc: u8,
    /// net.ipv4.tcp_sack.
    pub tcp_sack: bool,
    /// net.ipv4.tcp_dsack.
    pub tcp_dsack: bool,
    /// net.ipv4.tcp_timestamps: 0 off, 1 on with random offsets, 2 on without.
    pub tcp_timestamps: u8,
    /// net.ipv4.tcp_window_scaling.
    pub tcp_window_scaling: bool,
    /// net.ipv4.tcp_ecn.
    pub tcp_ecn: u8,
    /// net.ipv4.tcp_ecn_fallback.
    pub tcp_ecn_fallback: bool,
    /// net.ipv4.tcp_syn_retries.
    pub tcp_syn_retries: u8,
    /// net.ipv4.tcp_syn_linear_timeouts: how often a SYN is repeated before the time between two begins to double.
    pub tcp_syn_linear_timeouts: u8,
    /// net.ipv4.tcp_min_rtt_wlen, in seconds: the least round trip is that of so long.
    pub tcp_min_rtt_wlen: u32,
    /// net.ipv4.tcp_synack_retries.
    pub tcp_synack_retries: u8,
    /// net.ipv4.tcp_recovery: bit 0 RACK, bit 1 a window for reordering that stays, bit 2 no threshold of duplicates.
    pub tcp_recovery: u8,
    /// net.ipv4.tcp_early_retrans: 3 and 4 allow tail loss probes.
    pub tcp_early_retrans: u8,
    /// net.ipv4.tcp_frto: 0 off.
    pub tcp_frto: u8,
    /// net.ipv4.tcp_reordering: segments, at the start of a connection.
    pub tcp_reordering: u32,
    /// net.ipv4.tcp_max_reordering, in segments.
    pub tcp_max_reordering: u32,
    /// net.ipv4.tcp_retries1.
    pub tcp_retries1: u8,
    /// net.ipv4.tcp_retries2.
    pub tcp_retries2: u8,
    /// net.ipv4.tcp_orphan_retries.
    pub tcp_orphan_retries: u8,
    /// net.ipv4.tcp_fin_timeout, in seconds.
    pub tcp_fin_timeout: u32,
    /// net.ipv4.tcp_tw_reuse: 0 off, 1 on, 2 loopback only.
    pub tcp_tw_reuse: u8,
    /// net.ipv4.tcp_max_tw_buckets.
    pub tcp_max_tw_buckets: u32,
    /// net.ipv4.tcp_max_syn_backlog.
    pub tcp_max_syn_backlog: u32,
    /// net.ipv4.tcp_abort_on_overflow.
    pub tcp_abort_on_overflow: bool,
    /// net.ipv4.tcp_syncookies.
    pub tcp_syncookies: u8,
    /// net.ipv4.tcp_keepalive_time, in seconds.
    pub tcp_keepalive_time: u32,
    /// net.ipv4.tcp_keepalive_intvl, in seconds.
    pub tcp_keepalive_intvl: u32,
    /// net.ipv4.tcp_keepalive_probes.
    pub tcp_keepalive_probes: u8,
    /// net.ipv4.tcp_rmem: minimum, default, maximum receive buffer in bytes.
    pub tcp_rmem: [u32; 3],
    /// net.ipv4.tcp_wmem: minimum, default, maximum send buffer in bytes.
    pub tcp_wmem: [u32; 3],
    /// net.ipv4.tcp_mem, in pages of 4 KiB: what all connections may take without a thought, above which there is pressure,
    /// and at most.
    pub tcp_mem: [u32; 3],
    /// net.ipv4.tcp_max_orphans: connections that no program holds.
    pub tcp_max_orphans: u32,
    /// net.ipv4.tcp_adv_win_scale: kept and shown, without effect since Linux 6.6.
    pub tcp_adv_win_scale: i8,
    /// net.ipv4.tcp_moderate_rcvbuf.
    pub tcp_moderate_rcvbuf: bool,
    /// net.ipv4.tcp_congestion_control: name of the default algorithm.
    pub tcp_congestion_control: [u8; 16],
    /// net.ipv4.tcp_pacing_ss_ratio, in percent.
    pub tcp_pacing_ss_ratio: u16,
    /// net.ipv4.tcp_pacing_ca_ratio, in percent.
    pub tcp_pacing_ca_ratio: u16,
    /// net.ipv4.tcp_slow_start_after_idle.
    pub tcp_slow_start_after_idle: bool,
    /// net.ipv4.tcp_autocorking.
    pub tcp_autocorking: bool,
    /// net.ipv4.tcp_rfc1337.
    pub tcp_rfc1337: bool,
    /// net.ipv4.tcp_stdurg: the urgent pointer shows to the urgent byte itself.
    pub tcp_stdurg: bool,
    /// net.ipv4.tcp_challenge_ack_limit: per second.
    pub tcp_challenge_ack_limit: u32,
    /// net.ipv4.tcp_invalid_ratelimit, in milliseconds.
    pub tcp_invalid_ratelimit: u32,
    /// net.ipv4.tcp_min_snd_mss.
    pub tcp_min_snd_mss: u16,
    /// net.ipv4.tcp_base_mss.
    pub tcp_base_mss: u16,
    /// net.ipv4.tcp_mtu_probe_floor: least MSS of a path that seems to swallow large packets.
    pub tcp_mtu_probe_floor: u16,
    /// net.ipv4.tcp_probe_interval, in seconds: when the path is searched again.
    pub tcp_probe_interval: u32,
    /// net.ipv4.tcp_probe_threshold, in bytes: a search that is as close as this is over.
    pub tcp_probe_threshold: u32,
    /// net.ipv4.tcp_mtu_probing.
    pub tcp_mtu_probing: u8,
    /// net.ipv4.tcp_notsent_lowat.
    pub tcp_notsent_lowat: u32,
    /// net.ipv4.tcp_fastopen.
    pub tcp_fastopen: u32,
    /// net.ipv4.tcp_fastopen_key: one key or two, each of 16 bytes; zeros: none is set.
    pub tcp_fastopen_key: [u8; 32],
    /// net.ipv4.tcp_min_tso_segs: least segments of a super-segment.
    pub tcp_min_tso_segs: u8,
    /// net.ipv4.tcp_tso_win_divisor: what part of the window one super-segment may wait for; 0 is three segments.
    pub tcp_tso_win_divisor: u8,
    /// net.ipv4.tcp_tso_rtt_log: super-segments are halved for each 2^this microseconds of round trip.
    pub tcp_tso_rtt_log: u8,
    /// net.ipv4.tcp_fastopen_blackhole_timeout_sec; 0: paths are not suspected.
    pub tcp_fastopen_blackhole_timeout_sec: u32,
    /// net.core.somaxconn.
    pub somaxconn: u32,
    /// net.core.rmem_default, in bytes.
    pub rmem_default: u32,
    /// net.core.rmem_max, in bytes.
    pub rmem_max: u32,
    /// net.core.wmem_default, in bytes.
    pub wmem_default: u32,
    /// net.core.wmem_max, in bytes.
    pub wmem_max: u32,
    /// net.ipv4.ipfrag_time, in seconds.
    pub ipfrag_time: u32,
    /// net.ipv4.ipfrag_high_thresh, in bytes.
    pub ipfrag_high_thresh: u32,
    /// net.ipv4.conf.all.accept_source_route: packets with a source route are taken.
    pub accept_source_route: bool,
    /// net.ipv4.icmp_echo_ignore_all.
    pub icmp_echo_ignore_all: bool,
    /// net.ipv4.icmp_echo_ignore_broadcasts.
    pub icmp_echo_ignore_broadcasts: bool,
    /// net.ipv4.icmp_ratelimit, in milliseconds.
    pub icmp_ratelimit: u32,
    /// net.ipv4.ping_group_range: first and last group id, both included.
    pub ping_group_range: (u32, u32),
    /// net.ipv4.ip_unprivileged_port_start.
    pub ip_unprivileged_port_start: u16,
    /// net.ipv4.neigh.default.unres_qlen_bytes.
    pub neigh_unres_qlen_bytes: u32,
    /// net.ipv4.neigh.default.base_reachable_time_ms.
    pub neigh_base_reachable_time_ms: u32,
    /// net.ipv4.neigh.default.gc_stale_time, in seconds.
    pub neigh_gc_stale_time: u32,
    /// net.ipv4.neigh.default.delay_first_probe_time, in seconds.
    pub neigh_delay_first_probe_time: u32,
    /// net.ipv4.neigh.default.retrans_time_ms.
    pub neigh_retrans_time_ms: u32,
    /// net.ipv4.neigh.default.mcast_solicit.
    pub neigh_mcast_solicit: u8,
    /// net.ipv4.neigh.default.ucast_solicit.
    pub neigh_ucast_solicit: u8,
    /// Probes for our own address before its first use (RFC 5227); ours, not Linux's. The standard says 3.
    pub address_probe_count: u8,
    /// Time between them, and of listening after the last, in milliseconds. The standard says 1000 and more.
    pub address_probe_interval_ms: u32,
}

const fn name_field(name: &[u8]) -> [u8; 16] {
    let mut field = [0; 16];
    let mut at = 0;
    while at < name.len() && at < 15 {
        field[at] = name[at];
        at += 1;
    }
    field
}

impl Default for Settings {
    /// The values of an untouched Linux 6.x with 4 GiB of memory or more.
    fn default() -> Self {
        Self {
            ip_local_port_range: (32_768, 60_999),
            ip_default_ttl: 64,
            ip_no_pmtu_disc: 0,
            tcp_sack: true,
            tcp_dsack: true,
            tcp_timestamps: 1,
            tcp_window_scaling: true,
            tcp_ecn: 2,
            tcp_ecn_fallback: true,
            tcp_syn_retries: 6,
            tcp_syn_linear_timeouts: 4,
            tcp_min_rtt_wlen: 300,
            tcp_synack_retries: 5,
            tcp_recovery: 1,
            tcp_early_retrans: 3,
            tcp_frto: 2,
            tcp_reordering: 3,
            tcp_max_reordering: 300,
            //= RFC 9293 §3.8.3 (SHLD-10)
            tcp_retries1: 3,
            //= RFC 9293 §3.8.3 (SHLD-11)
            tcp_retries2: 15,
            tcp_orphan_retries: 0,
            tcp_fin_timeout: 60,
            tcp_tw_reuse: 2,
            tcp_max_tw_buckets: 131_072,
            tcp_max_syn_backlog: 1_024,
            tcp_abort_on_overflow: false,
            tcp_syncookies: 1,
            //= RFC 9293 §3.8.4 (MUST-28)
            tcp_keepalive_time: 7_200,
            tcp_keepalive_intvl: 75,
            tcp_keepalive_probes: 9,
            tcp_rmem: [4_096, 131_072, 6_291_456],
            tcp_wmem: [4_096, 16_384, 4_194_304],
            tcp_mem: [94_317, 125_757, 188_634],
            tcp_max_orphans: 16_384,
            tcp_adv_win_scale: 1,
            tcp_moderate_rcvbuf: true,
            tcp_congestion_control: name_field(b"cubic"),
            tcp_pacing_ss_ratio: 200,
            tcp_pacing_ca_ratio: 120,
            tcp_slow_start_after_idle: true,
            tcp_autocorking: true,
            tcp_rfc1337: false,
            tcp_stdurg: false,
            tcp_challenge_ack_limit: i32::MAX as u32,
            tcp_invalid_ratelimit: 500,
            tcp_min_snd_mss: 48,
            tcp_base_mss: 1_024,
            tcp_mtu_probe_floor: 48,
            tcp_probe_interval: 600,
            tcp_probe_threshold: 8,
            tcp_mtu_probing: 0,
            tcp_notsent_lowat: u32::MAX,
            tcp_fastopen: 1,
            tcp_fastopen_key: [0; 32],
            tcp_fastopen_blackhole_timeout_sec: 0,
            tcp_min_tso_segs: 2,
            tcp_tso_win_divisor: 3,
            tcp_tso_rtt_log: 9,
            somaxconn: 4_096,
            rmem_default: 212_992,
            rmem_max: 212_992,
            wmem_default: 212_992,
            wmem_max: 212_992,
            ipfrag_time: 30,
            ipfrag_high_thresh: 4_194_304,
            accept_source_route: false,
            icmp_echo_ignore_all: false,
            icmp_echo_ignore_broadcasts: true,
            icmp_ratelimit: 1_000,
            ping_group_range: (1, 0),
            ip_unprivileged_port_start: 1_024,
            neigh_unres_qlen_bytes: 212_992,
            neigh_base_reachable_time_ms: 30_000,
            neigh_gc_stale_time: 60,
            neigh_delay_first_probe_time: 5,
            neigh_retrans_time_ms: 1_000,
            neigh_mcast_solicit: 3,
            neigh_ucast_solicit: 3,
            address_probe_count: 2,
            address_probe_interval_ms: 50,
        }
    }
}
