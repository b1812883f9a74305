//! Options that are one number, kept per socket: which values Linux takes for each (`sk_setsockopt`,
//! `do_ip_setsockopt`, `udp_lib_setsockopt`, `do_ipv6_setsockopt`), and what a fresh socket shows. Whoever acts on one
//! reads it here; many are kept and shown only, as they tune what the stack has no counterpart of.

use alloc::vec::Vec;

use super::error::OptionError;

/// The options, by Linux's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are Linux's, socket(7), ip(7), udp(7), ipv6(7)")]
pub enum Kept {
    Debug,
    BsdCompat,
    RxqOvfl,
    WifiStatus,
    PeekOff,
    NoFcs,
    LockFilter,
    SelectErrQueue,
    BusyPoll,
    PreferBusyPoll,
    BusyPollBudget,
    CnxAdvice,
    ZeroCopy,
    BindToIfIndex,
    /// SO_TXTIME was set, whatever to.
    TxTime,
    TxTimeClock,
    TxTimeFlags,
    TxRehash,
    RcvMark,
    RcvPriority,
    /// SO_TIMESTAMPING's flags, however they were set.
    Timestamping,
    /// They were set by the number with 64-bit times.
    TimestampingNew,
    IpRouterAlert,
    IpRecvOpts,
    IpRetOpts,
    IpPassSec,
    IpTransparent,
    IpMinTtl,
    IpNoDefrag,
    IpChecksum,
    IpRecvFragSize,
    IpRecvErrRfc4884,
    IpMulticastAll,
    IpUnicastIf,
    /// Lowest port in the lower half, highest in the upper; 0 is the setting's.
    IpLocalPortRange,
    TcpThinLinearTimeouts,
    /// Taken and forgotten, as by Linux since 4.14.
    TcpThinDupack,
    /// Departures are put off by a queue that knows times (fq) only; there is none here.
    TcpTxDelay,
    /// In milliseconds.
    TcpRtoMaxMs,
    /// In microseconds.
    TcpRtoMinUs,
    /// In microseconds.
    TcpDelackMaxUs,
    UdpCork,
    UdpNoCheck6Tx,
    UdpNoCheck6Rx,
    UdpSegment,
    UdpGro,
    /// UDPLITE_SEND_CSCOV; -1 while it was not set.
    UdpLiteSend,
    /// UDPLITE_RECV_CSCOV; -1 while it was not set.
    UdpLiteReceive,
    V6OldPacketInfo,
    V6OldHopOptions,
    V6OldDestinationOptions,
    V6OldRoutingHeader,
    V6OldHopLimit,
    V6FlowInfo,
    /// IPV6_UNICAST_HOPS: of IPv6 packets only; those of a mapped address go by IP_TTL.
    V6UnicastHops,
    V6MulticastHops,
    V6MulticastLoop,
    V6MtuDiscover,
    V6Mtu,
    V6RecvErr,
    V6MulticastAll,
    V6RouterAlertIsolate,
    V6RecvErrRfc4884,
    V6FlowInfoSend,
    V6RecvPacketInfo,
    V6RecvHopLimit,
    V6RecvHopOptions,
    V6RecvRoutingHeader,
    V6RecvDestinationOptions,
    V6RecvPathMtu,
    V6DontFragment,
    V6RecvTrafficClass,
    V6TrafficClass,
    V6AutoFlowLabel,
    V6MinHopCount,
    V6OriginalDestination,
    V6RecvFragSize,
    /// IPV6_MULTICAST_IF: of IPv6 packets only.
    V6MulticastIf,
    /// IPV6_ADDR_PREFERENCES as it is shown.
    V6AddressPreferences,
}

/// What values an option takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    /// Anything; what is not 0 is 1.
    Flag,
    /// Anything, and it has no effect at all.
    Nothing,
    /// Anything.
    Any,
    /// From the first to the second.
    Range(i32, i32),
    /// As a range, rounded up to whole jiffies of 4 ms; the number is what a jiffy is in the option's unit.
    Jiffies(i32, i32, i32),
    /// As a range, and always 0.
    RangeOfNothing(i32, i32),
    /// As a range, and -1 for the default.
    RangeOrDefault(i32, i32),
}

/// The options of one socket that differ from the default.
#[derive(Clone, Debug, Default)]
pub struct KeptOptions(Vec<(Kept, i32)>);

impl Kept {
    const fn takes(self) -> Takes {
        match self {
            Self::BsdCompat | Self::CnxAdvice => Takes::Nothing,
            Self::PeekOff | Self::TxTimeClock | Self::TxTimeFlags | Self::Timestamping | Self::IpUnicastIf => {
                Takes::Any
            }
            Self::BusyPoll | Self::BindToIfIndex => Takes::Range(0, i32::MAX),
            Self::BusyPollBudget | Self::UdpSegment => Takes::Range(0, 65_535),
            Self::IpMinTtl | Self::V6MinHopCount => Takes::Range(0, 255),
            Self::TcpThinDupack => Takes::RangeOfNothing(0, 1),
            // `tcp_set_tx_delay`: what fits into 31 bits of eighths.
            Self::TcpTxDelay => Takes::Range(0, (1 << 28) - 1),
            Self::TcpRtoMaxMs => Takes::Jiffies(1_000, 120_000, 4),
            // Two jiffies at least (TCP_TIMEOUT_MIN).
            Self::TcpRtoMinUs | Self::TcpDelackMaxUs => Takes::Jiffies(4_001, 200_000, 4_000),
            Self::TcpThinLinearTimeouts
            | Self::ZeroCopy
            | Self::IpRecvErrRfc4884
            | Self::IpMulticastAll
            | Self::V6MulticastLoop
            | Self::V6RecvErrRfc4884 => Takes::Range(0, 1),
            Self::TxRehash => Takes::RangeOrDefault(0, 1),
            Self::V6UnicastHops | Self::V6MulticastHops | Self::V6TrafficClass => Takes::RangeOrDefault(0, 255),
            Self::V6MtuDiscover => Takes::Range(0, 5),
            Self::V6MulticastIf | Self::V6AddressPreferences => Takes::Any,
            // Checked below: they are more than a range.
            Self::V6Mtu | Self::IpLocalPortRange | Self::UdpLiteSend | Self::UdpLiteReceive => Takes::Any,
            _ => Takes::Flag,
        }
    }

    /// What a fresh AF_INET socket shows. One of AF_INET6 differs in IP_MULTICAST_ALL, see [`KeptOptions::v6`].
    const fn default(self) -> i32 {
        match self {
            Self::PeekOff | Self::UdpLiteSend | Self::UdpLiteReceive => -1,
            Self::V6UnicastHops => 64,
            // IPV6_PREFER_SRC_PUBTMP_DEFAULT and _HOME.
            Self::V6AddressPreferences => 0x500,
            Self::TcpRtoMaxMs => 120_000,
            Self::TcpRtoMinUs | Self::TcpDelackMaxUs => 200_000,
            Self::TxRehash
            | Self::IpMulticastAll
            | Self::V6MulticastHops
            | Self::V6MulticastLoop
            | Self::V6MtuDiscover
            | Self::V6MulticastAll
            | Self::V6AutoFlowLabel => 1,
            _ => 0,
        }
    }

    /// The value that is kept for one that was given.
    fn judge(self, value: i32) -> Result<i32, OptionError> {
        match self.takes() {
            Takes::Nothing => Ok(0),
            Takes::Flag => Ok(i32::from(value != 0)),
            Takes::RangeOrDefault(..) if value == -1 => Ok(self.default()),
            Takes::Range(least, most)
            | Takes::RangeOrDefault(least, most)
            | Takes::RangeOfNothing(least, most)
            | Takes::Jiffies(least, most, _)
                if !(least..=most).contains(&value) =>
            {
                Err(OptionError::Invalid)
            }
            Takes::RangeOfNothing(..) => Ok(0),
            Takes::Jiffies(.., jiffy) => Ok((value + jiffy - 1) / jiffy * jiffy),
            _ => match self {
                // IPV6_MIN_MTU.
                Self::V6Mtu if value != 0 && value < 1_280 => Err(OptionError::Invalid),
                Self::IpLocalPortRange => {
                    let (low, high) = (value & 0xffff, (value.cast_unsigned() >> 16).cast_signed());
                    if low != 0 && high != 0 && low > high { Err(OptionError::Invalid) } else { Ok(value) }
                }
                // `udp_lib_setsockopt`: the header is always covered.
                Self::UdpLiteSend | Self::UdpLiteReceive if value != 0 => Ok(value.clamp(8, 65_535)),
                _ => Ok(value),
            },
        }
    }
}

impl KeptOptions {
    /// Those of a fresh AF_INET socket.
    pub const EMPTY: Self = Self(Vec::new());

    /// Those of a fresh AF_INET6 socket.
    #[must_use]
    pub fn v6() -> Self {
        // `inet6_create`: it has MC6_ALL instead.
        Self(alloc::vec![(Kept::IpMulticastAll, 0)])
    }

    /// What the option is set to.
    #[must_use]
    pub fn read(&self, option: Kept) -> i32 {
        self.0.iter().find(|(kept, _)| *kept == option).map_or(option.default(), |(_, value)| *value)
    }

    /// Whether the option is not 0.
    #[must_use]
    pub fn has(&self, option: Kept) -> bool {
        self.read(option) != 0
    }

    /// Whether it is not what a fresh socket has.
    #[must_use]
    pub fn is_changed(&self, option: Kept) -> bool {
        self.read(option) != option.default()
    }

    /// IPV6_MULTICAST_HOPS of an accepted stream: the TTL of what opened it (`tcp_v6_syn_recv_sock`).
    pub fn note_hops(&mut self, ttl: u8) {
        self.place(Kept::V6MulticastHops, i32::from(ttl));
    }

    /// Sets an option.
    ///
    /// # Errors
    /// `Invalid` for a value that Linux does not take; `NotPermitted` for SO_LOCK_FILTER taken back.
    pub fn write(&mut self, option: Kept, value: i32) -> Result<(), OptionError> {
        let value = option.judge(value)?;
        match (option, value) {
            (Kept::LockFilter, 0) if self.has(option) => return Err(OptionError::NotPermitted),
            // `ip_ra_control`: the socket is on the list of those, or it is not.
            (Kept::IpRouterAlert, 0) if !self.has(option) => return Err(OptionError::NoMemory),
            (Kept::IpRouterAlert, 1) if self.has(option) => return Err(OptionError::AddressInUse),
            _ => {}
        }
        self.place(option, value);
        Ok(())
    }

    fn place(&mut self, option: Kept, value: i32) {
        match self.0.iter_mut().find(|(kept, _)| *kept == option) {
            Some((_, place)) => *place = value,
            None if value == option.default() => {}
            None => self.0.push((option, value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    //= test REF D-06
    fn values_are_taken_as_linux_takes_them() {
        let mut options = KeptOptions::default();
        assert_eq!(options.read(Kept::PeekOff), -1);
        assert_eq!(options.write(Kept::BusyPoll, -1), Err(OptionError::Invalid));
        assert_eq!(options.write(Kept::Debug, 7), Ok(()));
        assert_eq!(options.read(Kept::Debug), 1);
        assert_eq!(options.write(Kept::TxRehash, 0), Ok(()));
        assert_eq!(options.write(Kept::TxRehash, -1), Ok(()));
        assert_eq!(options.read(Kept::TxRehash), 1);
        assert_eq!(options.write(Kept::IpLocalPortRange, 0x0005_0006), Err(OptionError::Invalid));
        assert_eq!(options.write(Kept::IpLocalPortRange, 0x0006_0000), Ok(()));
        assert_eq!(options.write(Kept::UdpSegment, 65_536), Err(OptionError::Invalid));
        assert_eq!(options.write(Kept::IpMinTtl, 256), Err(OptionError::Invalid));
        assert_eq!(options.write(Kept::TcpRtoMinUs, 4_000), Err(OptionError::Invalid));
        assert_eq!(options.write(Kept::TcpRtoMinUs, 4_001), Ok(()));
        assert_eq!(options.read(Kept::TcpRtoMinUs), 8_000);
        assert_eq!(options.write(Kept::TcpRtoMaxMs, 1_001), Ok(()));
        assert_eq!(options.read(Kept::TcpRtoMaxMs), 1_004);
    }

    #[test]
    //= test REF D-06
    fn a_locked_filter_stays_locked_and_a_router_alert_is_asked_for_once() {
        let mut options = KeptOptions::default();
        assert_eq!(options.write(Kept::LockFilter, 0), Ok(()));
        assert_eq!(options.write(Kept::LockFilter, 1), Ok(()));
        assert_eq!(options.write(Kept::LockFilter, 0), Err(OptionError::NotPermitted));
        assert_eq!(options.write(Kept::IpRouterAlert, 0), Err(OptionError::NoMemory));
        assert_eq!(options.write(Kept::IpRouterAlert, 5), Ok(()));
        assert_eq!(options.write(Kept::IpRouterAlert, 1), Err(OptionError::AddressInUse));
        assert_eq!(options.write(Kept::IpRouterAlert, 0), Ok(()));
    }

    #[test]
    fn a_socket_of_af_inet6_hears_its_own_groups_only() {
        assert!(KeptOptions::default().has(Kept::IpMulticastAll));
        assert!(!KeptOptions::v6().has(Kept::IpMulticastAll));
    }
}
