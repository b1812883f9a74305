//! The options that every protocol shares: SOL_SOCKET's and IPPROTO_IP's (`sk_setsockopt`, `do_ip_setsockopt`).

use super::error::OptionError;
use super::filter::{Instruction, Program};
use super::kept::Kept;
use super::options::{SetOption, SocketOptions};
use crate::settings::Settings;

/// Linux's SOCK_MIN_RCVBUF: 2048 bytes and a `struct sk_buff`, rounded to cache lines.
pub const LEAST_RECEIVE_BUFFER: u32 = 2_304;
/// Linux's SOCK_MIN_SNDBUF: twice that.
pub const LEAST_SEND_BUFFER: u32 = 4_608;
/// Highest IP_MTU_DISCOVER value (IP_PMTUDISC_OMIT).
const MTU_DISCOVER_LIMIT: i32 = 5;

/// What became of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is one of the common ones and is set; the protocol may still want to know.
    Set,
    /// It belongs to the protocol.
    NotCommon,
}

/// Sets an option if it is a common one.
///
/// # Errors
/// `Invalid` for a value out of range.
//= REF D-06
pub fn set_common(
    options: &mut SocketOptions,
    settings: &Settings,
    option: &SetOption,
) -> Result<Outcome, OptionError> {
    match option {
        SetOption::ReuseAddress(on) => options.reuse_address = *on,
        SetOption::ReusePort(on) => options.reuse_port = *on,
        SetOption::KeepAlive(on) => options.keepalive = *on,
        SetOption::Broadcast(on) => options.broadcast = *on,
        SetOption::OobInline(on) => options.oob_inline = *on,
        SetOption::DontRoute(on) => options.dont_route = *on,
        SetOption::Linger(time) => options.linger = *time,
        SetOption::ReceiveTimeout(time) => options.receive_timeout = *time,
        SetOption::SendTimeout(time) => options.send_timeout = *time,
        // Linux: negative means "as much as there is", zero means 1.
        SetOption::ReceiveLowWater(bytes) => {
            options.receive_low_water = u32::try_from(*bytes).unwrap_or(i32::MAX.unsigned_abs()).max(1);
        }
        SetOption::ReceiveBuffer(bytes, force) => {
            options.receive_buffer = buffer_size(*bytes, *force, settings.rmem_max, LEAST_RECEIVE_BUFFER);
            options.receive_buffer_locked = true;
        }
        SetOption::SendBuffer(bytes, force) => {
            options.send_buffer = buffer_size(*bytes, *force, settings.wmem_max, LEAST_SEND_BUFFER);
            options.send_buffer_locked = true;
        }
        SetOption::Priority(priority) => options.priority = *priority,
        SetOption::Mark(mark) => options.mark = *mark,
        SetOption::Timestamp(kind, new) => {
            options.timestamp = *kind;
            // `__sock_set_timestamps`: which form times have is one flag for all of them.
            if *kind != 0 {
                options.kept.write(Kept::TimestampingNew, i32::from(*new))?;
            }
        }
        SetOption::Kept(option, value) => options.kept.write(*option, *value)?,
        SetOption::Timestamping(flags, new) => set_timestamping(options, *flags, *new)?,
        SetOption::TxTime(clock, flags) => {
            // Realtime, monotonic and TAI; SOF_TXTIME_DEADLINE_MODE and SOF_TXTIME_REPORT_ERRORS.
            if !matches!(clock, 0 | 1 | 11) || flags & !3 != 0 {
                return Err(OptionError::Invalid);
            }
            options.kept.write(Kept::TxTime, 1)?;
            options.kept.write(Kept::TxTimeClock, *clock)?;
            options.kept.write(Kept::TxTimeFlags, *flags)?;
        }
        SetOption::BufferLock(which) => {
            if !(0..=3).contains(which) {
                return Err(OptionError::Invalid);
            }
            options.send_buffer_locked = which & 1 != 0;
            options.receive_buffer_locked = which & 2 != 0;
        }
        SetOption::Device(name, index, through) => {
            options.kept.write(Kept::BindToIfIndex, *index)?;
            options.through = *through;
            options.device.clone_from(name);
        }
        SetOption::Filter(program) => set_filter(options, program.as_deref())?,
        SetOption::GroupFilter(program) => set_group_filter(options, program.as_deref())?,
        SetOption::NoCheck(on) => options.no_check = *on,
        SetOption::IncomingCpu(cpu) => options.incoming_cpu = *cpu,
        SetOption::MaxPacingRate(rate) => options.max_pacing_rate = *rate,
        SetOption::Ttl(-1) => options.ttl = None,
        //= RFC 1122 §3.2.1.7 (MUST-15)
        SetOption::Ttl(ttl) => options.ttl = Some(in_range(*ttl, 1, 255)?),
        // Linux takes any int and keeps the byte; the ECN bits of a TCP socket are the protocol's.
        SetOption::Tos(tos) => set_tos(options, tos.to_le_bytes()[0]),
        SetOption::MtuDiscover(how) => options.mtu_discover = in_range(*how, 0, MTU_DISCOVER_LIMIT)?,
        SetOption::ReceiveErrors(on) => options.receive_errors = *on,
        SetOption::PacketInfo(on) => options.packet_info = *on,
        SetOption::ReceiveTtl(on) => options.receive_ttl = *on,
        SetOption::ReceiveTos(on) => options.receive_tos = *on,
        SetOption::ReceiveOriginalDestination(on) => options.receive_original_destination = *on,
        SetOption::FreeBind(on) => options.free_bind = *on,
        SetOption::BindAddressNoPort(on) => options.bind_address_no_port = *on,
        SetOption::MulticastTtl(-1) => options.multicast_ttl = 1,
        SetOption::MulticastTtl(ttl) => options.multicast_ttl = in_range(*ttl, 0, 255)?,
        SetOption::MulticastLoop(on) => options.multicast_loop = *on,
        SetOption::MulticastInterface(address, through) => {
            options.multicast_interface = *address;
            options.multicast_through = *through;
        }
        SetOption::UnicastInterface(value, through) => {
            options.kept.write(Kept::IpUnicastIf, *value)?;
            options.unicast_through = *through;
        }
        SetOption::V6Only(on) => options.v6_only = *on,
        SetOption::IpOptions(..)
        | SetOption::Membership(..)
        | SetOption::Source(..)
        | SetOption::Sources(..)
        | SetOption::NoDelay(_)
        | SetOption::Cork(_)
        | SetOption::MaxSegment(_)
        | SetOption::KeepIdle(_)
        | SetOption::KeepInterval(_)
        | SetOption::KeepCount(_)
        | SetOption::SynCount(_)
        | SetOption::Linger2(_)
        | SetOption::DeferAccept(_)
        | SetOption::WindowClamp(_)
        | SetOption::QuickAck(_)
        | SetOption::Congestion(_)
        | SetOption::UserTimeout(_)
        | SetOption::NotSentLowWater(_)
        | SetOption::Repair(_)
        | SetOption::RepairQueue(_)
        | SetOption::QueueSeq(_)
        | SetOption::RepairOptions(_)
        | SetOption::RepairWindow(_)
        | SetOption::TcpTimestamp(_)
        | SetOption::SaveSyn(_)
        | SetOption::FastOpen(_)
        | SetOption::FastOpenConnect(_)
        | SetOption::Inq(_)
        | SetOption::FastOpenNoCookie(_)
        | SetOption::FastOpenKey(_)
        | SetOption::SignatureKey(_)
        | SetOption::IcmpFilter(_)
        | SetOption::HeaderIncluded(_) => return Ok(Outcome::NotCommon),
    }
    Ok(Outcome::Set)
}

/// IP_TOS, which brings a priority with it (`__ip_sock_set_tos`, `rt_tos2priority`).
fn set_tos(options: &mut SocketOptions, tos: u8) {
    if options.tos == tos {
        return;
    }
    options.tos = tos;
    // TC_PRIO_BESTEFFORT, _BULK, _INTERACTIVE and _INTERACTIVE_BULK, by the two upper of the four bits.
    options.priority = match tos >> 3 & 3 {
        0 => 0,
        1 => 2,
        2 => 6,
        _ => 4,
    };
}

/// SO_ATTACH_FILTER and SO_DETACH_FILTER (`sk_attach_filter`, `sk_detach_filter`).
fn set_filter(options: &mut SocketOptions, program: Option<&[Instruction]>) -> Result<(), OptionError> {
    if options.kept.has(Kept::LockFilter) {
        return Err(OptionError::NotPermitted);
    }
    match program {
        Some(program) => options.filter = Some(Program::new(program).ok_or(OptionError::Invalid)?),
        None => drop(options.filter.take().ok_or(OptionError::NotFound)?),
    }
    Ok(())
}

/// SO_ATTACH_REUSEPORT_CBPF and SO_DETACH_REUSEPORT_BPF (`reuseport_attach_prog`, `reuseport_detach_prog`).
fn set_group_filter(options: &mut SocketOptions, program: Option<&[Instruction]>) -> Result<(), OptionError> {
    match program {
        Some(_) if options.kept.has(Kept::LockFilter) => return Err(OptionError::NotPermitted),
        Some(program) => {
            let program = Program::new(program).ok_or(OptionError::Invalid)?;
            // Without SO_REUSEPORT there is no group.
            if !options.reuse_port {
                return Err(OptionError::Invalid);
            }
            options.group_filter = Some(program);
        }
        None if !options.reuse_port => return Err(OptionError::Invalid),
        None => drop(options.group_filter.take().ok_or(OptionError::NotFound)?),
    }
    Ok(())
}

/// SO_TIMESTAMPING (`sock_set_timestamping`); what only a stream must be asked was asked.
fn set_timestamping(options: &mut SocketOptions, flags: i32, new: bool) -> Result<(), OptionError> {
    use timestamping as flag;
    if flags & !flag::ALL != 0
        || (flags & flag::OPT_ID_TCP != 0 && flags & flag::OPT_ID == 0)
        || (flags & flag::OPT_STATS != 0 && flags & flag::OPT_TSONLY == 0)
    {
        return Err(OptionError::Invalid);
    }
    // There is no hardware clock to bind to.
    if flags & flag::BIND_PHC != 0 {
        return Err(OptionError::NotSupported);
    }
    options.kept.write(Kept::Timestamping, flags)?;
    options.kept.write(Kept::TimestampingNew, i32::from(new))
}

/// SO_TIMESTAMPING's flags (linux/net_tstamp.h).
pub mod timestamping {
    /// SOF_TIMESTAMPING_TX_SOFTWARE.
    pub const TX_SOFTWARE: i32 = 1 << 1;
    /// SOF_TIMESTAMPING_RX_SOFTWARE.
    pub const RX_SOFTWARE: i32 = 1 << 3;
    /// SOF_TIMESTAMPING_SOFTWARE.
    pub const SOFTWARE: i32 = 1 << 4;
    /// SOF_TIMESTAMPING_OPT_ID.
    pub const OPT_ID: i32 = 1 << 7;
    /// SOF_TIMESTAMPING_TX_SCHED.
    pub const TX_SCHED: i32 = 1 << 8;
    /// SOF_TIMESTAMPING_TX_RECORD_MASK: what a control message may ask for; by hardware, by software, when scheduled,
    /// acknowledged and completed.
    pub const TX_RECORD: i32 = 1 | TX_SOFTWARE | TX_SCHED | TX_ACK | 1 << 18;
    /// SOF_TIMESTAMPING_TX_ACK.
    pub const TX_ACK: i32 = 1 << 9;
    /// SOF_TIMESTAMPING_OPT_CMSG.
    pub const OPT_CMSG: i32 = 1 << 10;
    /// SOF_TIMESTAMPING_OPT_TSONLY.
    pub const OPT_TSONLY: i32 = 1 << 11;
    /// SOF_TIMESTAMPING_OPT_STATS.
    pub const OPT_STATS: i32 = 1 << 12;
    /// SOF_TIMESTAMPING_BIND_PHC.
    pub const BIND_PHC: i32 = 1 << 15;
    /// SOF_TIMESTAMPING_OPT_ID_TCP.
    pub const OPT_ID_TCP: i32 = 1 << 16;
    /// SOF_TIMESTAMPING_MASK of Linux 6.18.
    pub const ALL: i32 = (1 << 19) - 1;
}

fn in_range(value: i32, least: i32, most: i32) -> Result<u8, OptionError> {
    if (least..=most).contains(&value) {
        u8::try_from(value).map_err(|_| OptionError::Invalid)
    } else {
        Err(OptionError::Invalid)
    }
}

/// SO_RCVBUF and SO_SNDBUF: capped by the sysctl (a negative number compares as a huge one), then doubled for the
/// overhead, and never below the least (`__sock_set_rcvbuf`).
fn buffer_size(asked: i32, force: bool, limit: u32, least: u32) -> u32 {
    let asked = if force { asked.max(0).unsigned_abs() } else { asked.cast_unsigned().min(limit) };
    asked.min(i32::MAX.unsigned_abs() / 2).saturating_mul(2).max(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    //= test REF T-06
    fn buffers_are_doubled_and_clamped_as_linux_does() {
        let settings = Settings::default();
        let mut options = SocketOptions::new(1, 1);
        for (asked, force, shown) in [
            (1, false, 2_304),
            (5_000, false, 10_000),
            (10_000_000, false, 425_984),
            (-1, false, 425_984),
            (1_000_000, true, 2_000_000),
        ] {
            set_common(&mut options, &settings, &SetOption::ReceiveBuffer(asked, force)).unwrap();
            assert_eq!(options.receive_buffer, shown, "{asked}");
        }
        set_common(&mut options, &settings, &SetOption::SendBuffer(0, false)).unwrap();
        assert_eq!(options.send_buffer, LEAST_SEND_BUFFER);
        assert!(options.receive_buffer_locked && options.send_buffer_locked);
    }

    //= test RFC 1122 §3.2.1.7 (MUST-15)
    #[test]
    //= test REF D-06
    fn values_out_of_range_are_refused() {
        let settings = Settings::default();
        let mut options = SocketOptions::new(1, 1);
        for option in [
            SetOption::Ttl(0),
            SetOption::Ttl(256),
            SetOption::MtuDiscover(6),
            SetOption::MulticastTtl(-2),
            SetOption::Ttl(-2),
        ] {
            assert_eq!(set_common(&mut options, &settings, &option), Err(OptionError::Invalid), "{option:?}");
        }
    }
}
