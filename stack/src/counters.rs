//! One named counter per event and per drop, under the names of /proc/net/snmp and /proc/net/netstat, plus our own
//! names for drops that Linux does not tell apart.

use crate::settings::Settings;

macro_rules! counters {
    ($( $group:literal { $( $field:ident = $name:literal; )* } )*) => {
        /// All counters of one stack. `snmp`-style names are in [`Counters::each`].
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $( $(
                #[doc = concat!($group, ": ", $name, ".")]
                pub $field: u64,
            )* )*
        }

        impl Counters {
            /// Every counter as (group, Linux's name, value), in the order of /proc/net.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                [ $( $( ($group, $name, self.$field), )* )* ].into_iter()
            }
        }
    };
}

//= REF C-19
counters! {
    "Ip" {
        ip_forwarding = "Forwarding"; ip_default_ttl = "DefaultTTL";
        ip_in_receives = "InReceives"; ip_in_hdr_errors = "InHdrErrors"; ip_in_addr_errors = "InAddrErrors";
        ip_forw_datagrams = "ForwDatagrams"; ip_in_unknown_protos = "InUnknownProtos"; ip_in_discards = "InDiscards";
        ip_in_delivers = "InDelivers"; ip_out_requests = "OutRequests"; ip_out_discards = "OutDiscards";
        ip_out_no_routes = "OutNoRoutes"; ip_reasm_timeout = "ReasmTimeout"; ip_reasm_reqds = "ReasmReqds";
        ip_reasm_oks = "ReasmOKs"; ip_reasm_fails = "ReasmFails"; ip_frag_oks = "FragOKs"; ip_frag_fails = "FragFails";
        ip_frag_creates = "FragCreates"; ip_out_transmits = "OutTransmits";
    }
    "Icmp" {
        icmp_in_msgs = "InMsgs"; icmp_in_errors = "InErrors"; icmp_in_csum_errors = "InCsumErrors";
        icmp_in_dest_unreachs = "InDestUnreachs"; icmp_in_time_excds = "InTimeExcds"; icmp_in_parm_probs = "InParmProbs";
        icmp_in_src_quenchs = "InSrcQuenchs"; icmp_in_redirects = "InRedirects";
        icmp_in_timestamps = "InTimestamps"; icmp_in_timestamp_reps = "InTimestampReps";
        icmp_in_addr_masks = "InAddrMasks"; icmp_in_addr_mask_reps = "InAddrMaskReps"; icmp_in_echos = "InEchos"; icmp_in_echo_reps = "InEchoReps";
        icmp_out_msgs = "OutMsgs"; icmp_out_errors = "OutErrors"; icmp_out_rate_limit_global = "OutRateLimitGlobal";
        icmp_out_rate_limit_host = "OutRateLimitHost"; icmp_out_dest_unreachs = "OutDestUnreachs";
        icmp_out_time_excds = "OutTimeExcds"; icmp_out_parm_probs = "OutParmProbs"; icmp_out_echos = "OutEchos";
        icmp_out_echo_reps = "OutEchoReps";
    }
    "IcmpMsg" {
        icmp_in_type0 = "InType0"; icmp_in_type3 = "InType3"; icmp_in_type4 = "InType4"; icmp_in_type5 = "InType5";
        icmp_in_type8 = "InType8"; icmp_in_type11 = "InType11"; icmp_in_type12 = "InType12"; icmp_in_type13 = "InType13";
        icmp_in_type14 = "InType14"; icmp_in_type17 = "InType17"; icmp_in_type18 = "InType18"; icmp_out_type0 = "OutType0";
        icmp_out_type3 = "OutType3"; icmp_out_type8 = "OutType8"; icmp_out_type11 = "OutType11";
        icmp_out_type12 = "OutType12"; icmp_out_type13 = "OutType13";
    }
    "Tcp" {
        tcp_rto_algorithm = "RtoAlgorithm"; tcp_rto_min = "RtoMin"; tcp_rto_max = "RtoMax";
        tcp_active_opens = "ActiveOpens"; tcp_passive_opens = "PassiveOpens"; tcp_attempt_fails = "AttemptFails";
        tcp_estab_resets = "EstabResets"; tcp_curr_estab = "CurrEstab"; tcp_in_segs = "InSegs"; tcp_out_segs = "OutSegs";
        tcp_retrans_segs = "RetransSegs"; tcp_in_errs = "InErrs"; tcp_out_rsts = "OutRsts"; tcp_in_csum_errors = "InCsumErrors";
    }
    "Udp" {
        udp_in_datagrams = "InDatagrams"; udp_no_ports = "NoPorts"; udp_in_errors = "InErrors";
        udp_out_datagrams = "OutDatagrams"; udp_rcvbuf_errors = "RcvbufErrors"; udp_sndbuf_errors = "SndbufErrors";
        udp_in_csum_errors = "InCsumErrors"; udp_ignored_multi = "IgnoredMulti"; udp_mem_errors = "MemErrors";
    }
    "UdpLite" {
        udp_lite_in_datagrams = "InDatagrams"; udp_lite_no_ports = "NoPorts"; udp_lite_in_errors = "InErrors";
        udp_lite_out_datagrams = "OutDatagrams"; udp_lite_rcvbuf_errors = "RcvbufErrors";
        udp_lite_sndbuf_errors = "SndbufErrors"; udp_lite_in_csum_errors = "InCsumErrors";
        udp_lite_ignored_multi = "IgnoredMulti"; udp_lite_mem_errors = "MemErrors";
    }
    "TcpExt" {
        syncookies_sent = "SyncookiesSent"; syncookies_recv = "SyncookiesRecv"; syncookies_failed = "SyncookiesFailed";
        embryonic_rsts = "EmbryonicRsts"; prune_called = "PruneCalled"; rcv_pruned = "RcvPruned"; ofo_pruned = "OfoPruned";
        out_of_window_icmps = "OutOfWindowIcmps"; lock_dropped_icmps = "LockDroppedIcmps"; arp_filter = "ArpFilter";
        time_waited = "TW"; tw_recycled = "TWRecycled"; tw_killed = "TWKilled"; paws_active = "PAWSActive";
        paws_estab = "PAWSEstab"; beyond_window = "BeyondWindow"; ts_ecr_rejected = "TSEcrRejected";
        paws_old_ack = "PAWSOldAck"; paws_timewait = "PAWSTimewait"; delayed_acks = "DelayedACKs"; delayed_ack_locked = "DelayedACKLocked";
        delayed_ack_lost = "DelayedACKLost"; listen_overflows = "ListenOverflows"; listen_drops = "ListenDrops";
        tcp_hp_hits = "TCPHPHits"; tcp_pure_acks = "TCPPureAcks"; tcp_hp_acks = "TCPHPAcks"; tcp_reno_recovery = "TCPRenoRecovery";
        tcp_sack_recovery = "TCPSackRecovery"; tcp_sack_reneging = "TCPSACKReneging"; tcp_sack_reorder = "TCPSACKReorder";
        tcp_reno_reorder = "TCPRenoReorder"; tcp_ts_reorder = "TCPTSReorder"; tcp_full_undo = "TCPFullUndo";
        tcp_partial_undo = "TCPPartialUndo"; tcp_dsack_undo = "TCPDSACKUndo"; tcp_loss_undo = "TCPLossUndo";
        tcp_lost_retransmit = "TCPLostRetransmit"; tcp_reno_failures = "TCPRenoFailures"; tcp_sack_failures = "TCPSackFailures";
        tcp_loss_failures = "TCPLossFailures"; tcp_fast_retrans = "TCPFastRetrans"; tcp_slow_start_retrans = "TCPSlowStartRetrans";
        tcp_timeouts = "TCPTimeouts"; tcp_loss_probes = "TCPLossProbes"; tcp_loss_probe_recovery = "TCPLossProbeRecovery";
        tcp_reno_recovery_fail = "TCPRenoRecoveryFail"; tcp_sack_recovery_fail = "TCPSackRecoveryFail";
        tcp_rcv_collapsed = "TCPRcvCollapsed"; tcp_dsack_old_sent = "TCPDSACKOldSent"; tcp_dsack_ofo_sent = "TCPDSACKOfoSent";
        tcp_sack_discard = "TCPSACKDiscard"; tcp_dsack_ignored_old = "TCPDSACKIgnoredOld";
        tcp_dsack_ignored_no_undo = "TCPDSACKIgnoredNoUndo"; tcp_dsack_ignored_dubious = "TCPDSACKIgnoredDubious";
        tcp_dsack_recv = "TCPDSACKRecv"; tcp_dsack_ofo_recv = "TCPDSACKOfoRecv"; tcp_abort_on_data = "TCPAbortOnData";
        tcp_abort_on_close = "TCPAbortOnClose"; tcp_abort_on_memory = "TCPAbortOnMemory"; tcp_abort_on_timeout = "TCPAbortOnTimeout";
        tcp_abort_on_linger = "TCPAbortOnLinger"; tcp_abort_failed = "TCPAbortFailed"; tcp_memory_pressures = "TCPMemoryPressures";
        tcp_memory_pressures_chrono = "TCPMemoryPressuresChrono";
        tcp_spurious_rtos = "TCPSpuriousRTOs"; tcp_backlog_drop = "TCPBacklogDrop"; tcp_min_ttl_drop = "TCPMinTTLDrop";
        tcp_defer_accept_drop = "TCPDeferAcceptDrop"; tcp_time_wait_overflow = "TCPTimeWaitOverflow";
        tcp_req_q_full_do_cookies = "TCPReqQFullDoCookies"; tcp_req_q_full_drop = "TCPReqQFullDrop";
        tcp_retrans_fail = "TCPRetransFail"; tcp_rcv_coalesce = "TCPRcvCoalesce"; tcp_ofo_queue = "TCPOFOQueue";
        tcp_ofo_drop = "TCPOFODrop"; tcp_ofo_merge = "TCPOFOMerge"; tcp_challenge_ack = "TCPChallengeACK";
        tcp_syn_challenge = "TCPSYNChallenge"; tcp_fast_open_active = "TCPFastOpenActive";
        tcp_fast_open_active_fail = "TCPFastOpenActiveFail"; tcp_fast_open_passive = "TCPFastOpenPassive";
        tcp_fast_open_passive_fail = "TCPFastOpenPassiveFail"; tcp_fast_open_listen_overflow = "TCPFastOpenListenOverflow";
        tcp_fast_open_cookie_reqd = "TCPFastOpenCookieReqd"; tcp_fast_open_blackhole = "TCPFastOpenBlackhole";
        tcp_fast_open_passive_alt_key = "TCPFastOpenPassiveAltKey"; tcp_spurious_rtx_host_queues = "TCPSpuriousRtxHostQueues";
        tcp_auto_corking = "TCPAutoCorking"; tcp_from_zero_window_adv = "TCPFromZeroWindowAdv";
        tcp_to_zero_window_adv = "TCPToZeroWindowAdv"; tcp_want_zero_window_adv = "TCPWantZeroWindowAdv";
        tcp_syn_retrans = "TCPSynRetrans"; tcp_orig_data_sent = "TCPOrigDataSent"; tcp_ack_skipped_syn_recv = "TCPACKSkippedSynRecv";
        tcp_ack_skipped_paws = "TCPACKSkippedPAWS"; tcp_ack_skipped_seq = "TCPACKSkippedSeq";
        tcp_ack_skipped_fin_wait2 = "TCPACKSkippedFinWait2"; tcp_ack_skipped_time_wait = "TCPACKSkippedTimeWait";
        tcp_ack_skipped_challenge = "TCPACKSkippedChallenge"; tcp_win_probe = "TCPWinProbe";
        tcp_md5_not_found = "TCPMD5NotFound"; tcp_md5_unexpected = "TCPMD5Unexpected"; tcp_md5_failure = "TCPMD5Failure"; tcp_keep_alive = "TCPKeepAlive";
        tcp_mtup_fail = "TCPMTUPFail"; tcp_mtup_success = "TCPMTUPSuccess"; tcp_delivered = "TCPDelivered";
        tcp_hystart_train_detect = "TCPHystartTrainDetect"; tcp_hystart_train_cwnd = "TCPHystartTrainCwnd";
        tcp_hystart_delay_detect = "TCPHystartDelayDetect"; tcp_hystart_delay_cwnd = "TCPHystartDelayCwnd";
        tcp_delivered_ce = "TCPDeliveredCE"; tcp_ack_compressed = "TCPAckCompressed"; tcp_zero_window_drop = "TCPZeroWindowDrop";
        tcp_rcv_q_drop = "TCPRcvQDrop"; tcp_timeout_rehash = "TcpTimeoutRehash"; tcp_dsack_recv_segs = "TCPDSACKRecvSegs";
    }
    "IpExt" {
        in_no_routes = "InNoRoutes"; in_truncated_pkts = "InTruncatedPkts"; in_mcast_pkts = "InMcastPkts";
        out_mcast_pkts = "OutMcastPkts"; in_bcast_pkts = "InBcastPkts"; out_bcast_pkts = "OutBcastPkts";
        in_mcast_octets = "InMcastOctets"; out_mcast_octets = "OutMcastOctets"; in_bcast_octets = "InBcastOctets";
        out_bcast_octets = "OutBcastOctets"; in_octets = "InOctets"; out_octets = "OutOctets"; in_csum_errors = "InCsumErrors"; in_noect_pkts = "InNoECTPkts";
        in_ect1_pkts = "InECT1Pkts"; in_ect0_pkts = "InECT0Pkts"; in_ce_pkts = "InCEPkts"; reasm_overlaps = "ReasmOverlaps";
    }
    "Remora" {
        link_truncated = "LinkTruncated"; link_not_for_us = "LinkNotForUs"; link_unknown_type = "LinkUnknownType";
        link_vlan_foreign = "LinkVlanForeign"; arp_malformed = "ArpMalformed"; arp_in = "ArpIn"; arp_out = "ArpOut";
        arp_conflicts = "ArpConflicts"; neighbour_queue_drops = "NeighbourQueueDrops"; neighbour_failures = "NeighbourFailures";
        ip_bad_options = "IpBadOptions"; ip_martian = "IpMartian"; ip_bad_checksum = "IpBadChecksum";
        icmp_malformed = "IcmpMalformed"; tcp_bad_header = "TcpBadHeader"; tcp_bad_options = "TcpBadOptions";
        udp_bad_length = "UdpBadLength"; transmit_no_room = "TransmitNoRoom"; transmit_errors = "TransmitErrors";
        memory_refused = "MemoryRefused"; raw_queue_drops = "RawQueueDrops"; link_down_drops = "LinkDownDrops";
        link_llc = "LinkLlc"; link_bad_tag = "LinkBadTag"; link_bad_length = "LinkBadLength"; ip_bad_version = "IpBadVersion";
        ip_bad_header_length = "IpBadHeaderLength"; ip_bad_length = "IpBadLength"; ip_truncated = "IpTruncated";
        ip_source_route = "IpSourceRoute"; ip_group_not_joined = "IpGroupNotJoined"; ipv6_ignored = "Ipv6Ignored";
    }
}

/// What happens to a datagram, of UDP or of UDP-Lite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OfDatagram {
    InDatagrams,
    NoPorts,
    InErrors,
    OutDatagrams,
    RcvbufErrors,
    SndbufErrors,
    InCsumErrors,
    IgnoredMulti,
}

impl Counters {
    /// Counts for UDP, or for UDP-Lite, which has counters of its own.
    pub(crate) const fn count_datagram(&mut self, lite: bool, what: OfDatagram) {
        let counter = match (what, lite) {
            (OfDatagram::InDatagrams, false) => &mut self.udp_in_datagrams,
            (OfDatagram::InDatagrams, true) => &mut self.udp_lite_in_datagrams,
            (OfDatagram::NoPorts, false) => &mut self.udp_no_ports,
            (OfDatagram::NoPorts, true) => &mut self.udp_lite_no_ports,
            (OfDatagram::InErrors, false) => &mut self.udp_in_errors,
            (OfDatagram::InErrors, true) => &mut self.udp_lite_in_errors,
            (OfDatagram::OutDatagrams, false) => &mut self.udp_out_datagrams,
            (OfDatagram::OutDatagrams, true) => &mut self.udp_lite_out_datagrams,
            (OfDatagram::RcvbufErrors, false) => &mut self.udp_rcvbuf_errors,
            (OfDatagram::RcvbufErrors, true) => &mut self.udp_lite_rcvbuf_errors,
            (OfDatagram::SndbufErrors, false) => &mut self.udp_sndbuf_errors,
            (OfDatagram::SndbufErrors, true) => &mut self.udp_lite_sndbuf_errors,
            (OfDatagram::InCsumErrors, false) => &mut self.udp_in_csum_errors,
            (OfDatagram::InCsumErrors, true) => &mut self.udp_lite_in_csum_errors,
            (OfDatagram::IgnoredMulti, false) => &mut self.udp_ignored_multi,
            (OfDatagram::IgnoredMulti, true) => &mut self.udp_lite_ignored_multi,
        };
        *counter += 1;
    }

    /// Counts an ICMP message by its type (`icmpmsg_statistics`); of those that nobody sends there is no counter.
    pub(crate) const fn count_icmp_type(&mut self, kind: u8, out: bool) {
        let counter = match (kind, out) {
            (0, false) => &mut self.icmp_in_type0,
            (3, false) => &mut self.icmp_in_type3,
            (4, false) => &mut self.icmp_in_type4,
            (5, false) => &mut self.icmp_in_type5,
            (8, false) => &mut self.icmp_in_type8,
            (11, false) => &mut self.icmp_in_type11,
            (12, false) => &mut self.icmp_in_type12,
            (13, false) => &mut self.icmp_in_type13,
            (14, false) => &mut self.icmp_in_type14,
            (17, false) => &mut self.icmp_in_type17,
            (18, false) => &mut self.icmp_in_type18,
            (0, true) => &mut self.icmp_out_type0,
            (3, true) => &mut self.icmp_out_type3,
            (8, true) => &mut self.icmp_out_type8,
            (11, true) => &mut self.icmp_out_type11,
            (12, true) => &mut self.icmp_out_type12,
            (13, true) => &mut self.icmp_out_type13,
            _ => return,
        };
        *counter += 1;
    }

    /// What Linux shows among the counters is not all counted: settings stand there, too.
    pub(crate) fn show_settings(&mut self, settings: &Settings) {
        // MIB-II: 1 is a router, 2 a host; RtoAlgorithm 1 is "other".
        self.ip_forwarding = 2;
        self.ip_default_ttl = u64::from(settings.ip_default_ttl);
        self.tcp_rto_algorithm = 1;
        self.tcp_rto_min = 200;
        self.tcp_rto_max = 120_000;
    }
}
