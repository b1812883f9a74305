//! Socket calls of scripts: names, arguments and results as libc has them.

use std::net::SocketAddr;
use std::time::Duration;

use remora_stack::io::Collect;
use remora_stack::socket::error::SendError;
use remora_stack::socket::kept::Kept;
use remora_stack::socket::options::{OptionName, OptionValue, SetOption};
use remora_stack::socket::protocol::{
    AddressFamily, Readiness, ReceiveFlags, SendArguments, SendFlags, Shutdown, SocketType,
};

use crate::run::{Descriptor, LOCAL, LOCAL_PORT, Play, REMOTE};
use crate::script::arguments;
use crate::segment::{pattern, stream};

/// A call's result and errno; `None`: it waits.
pub type Outcome = Option<(i64, String)>;

const NAMES: &[(&str, i64)] = &[
    ("POLLIN", 1),
    ("POLLPRI", 2),
    ("POLLOUT", 4),
    ("POLLERR", 8),
    ("POLLHUP", 0x10),
    ("POLLRDNORM", 0x40),
    ("POLLWRNORM", 0x100),
    ("POLLRDHUP", 0x2000),
    ("MSG_OOB", 1),
    ("MSG_PEEK", 2),
    ("MSG_TRUNC", 0x20),
    ("MSG_DONTWAIT", 0x40),
    ("MSG_EOR", 0x80),
    ("MSG_MORE", 0x8000),
    ("MSG_NOSIGNAL", 0x4000),
    ("MSG_FASTOPEN", 0x2000_0000),
    ("O_RDWR", 2),
    ("O_NONBLOCK", 0x800),
    ("SHUT_RD", 0),
    ("SHUT_WR", 1),
    ("SHUT_RDWR", 2),
    ("IP_PMTUDISC_DONT", 0),
    ("IP_PMTUDISC_WANT", 1),
    ("IP_PMTUDISC_DO", 2),
    ("IP_PMTUDISC_PROBE", 3),
    ("ECONNREFUSED", 111),
    ("ECONNRESET", 104),
    ("ETIMEDOUT", 110),
    ("EPIPE", 32),
    ("EHOSTUNREACH", 113),
    ("ENETUNREACH", 101),
    ("ENOPROTOOPT", 92),
    ("EMSGSIZE", 90),
    ("EPROTO", 71),
    ("EHOSTDOWN", 112),
    ("ENONET", 64),
    ("ECONNABORTED", 103),
    ("EOPNOTSUPP", 95),
];

/// A number, a name, several of them joined by `|`, or one of these in `[ ]`.
fn value(text: &str) -> Result<i64, String> {
    let text = text.trim_start_matches('[').trim_end_matches(']').trim();
    let mut sum = 0;
    for part in text.split('|').map(str::trim) {
        let known = NAMES.iter().find(|(name, _)| *name == part).map(|(_, number)| *number);
        let hexadecimal = part.strip_prefix("0x").and_then(|digits| i64::from_str_radix(digits, 16).ok());
        sum |= known.or(hexadecimal).or_else(|| part.parse().ok()).ok_or_else(|| format!("{part} is no value"))?;
    }
    Ok(sum)
}

/// The errno of an error of the stack; the shim has the real table.
fn errno(call: &str, error: &dyn std::fmt::Debug) -> String {
    let text = format!("{error:?}");
    let name = text.strip_prefix("Fault(").map_or(text.as_str(), |rest| rest.trim_end_matches(')'));
    match (call, name) {
        ("connect" | "bind", "NotPermitted") | ("write", "NotPermitted") => "EACCES",
        ("connect", "NoPort") | (_, "AddressNotAvailable") => "EADDRNOTAVAIL",
        (_, "WouldBlock" | "NoPort") => "EAGAIN",
        (_, "NotPermitted") => "EPERM",
        (_, "ConnectionRefused") => "ECONNREFUSED",
        (_, "ConnectionReset") => "ECONNRESET",
        (_, "TimedOut") => "ETIMEDOUT",
        (_, "BrokenPipe") => "EPIPE",
        (_, "HostUnreachable" | "AccessDenied") => "EHOSTUNREACH",
        (_, "NetworkUnreachable") => "ENETUNREACH",
        (_, "ProtocolUnreachable" | "Unknown") => "ENOPROTOOPT",
        (_, "HostDown") => "EHOSTDOWN",
        (_, "NotOnNetwork") => "ENONET",
        (_, "MessageTooLong") => "EMSGSIZE",
        (_, "SourceRouteFailed" | "NotSupported") => "EOPNOTSUPP",
        (_, "Protocol") => "EPROTO",
        (_, "NetworkDown") => "ENETDOWN",
        (_, "Aborted") => "ECONNABORTED",
        (_, "Invalid") => "EINVAL",
        (_, "AddressInUse") => "EADDRINUSE",
        (_, "InProgress") => "EINPROGRESS",
        (_, "Already") => "EALREADY",
        (_, "IsConnected") => "EISCONN",
        (_, "NotConnected") => "ENOTCONN",
        (_, "DestinationRequired") => "EDESTADDRREQ",
        (_, "FamilyMismatch") => "EAFNOSUPPORT",
        (_, "TooBig") => "EFBIG",
        (_, "NotFound") => "ENOENT",
        (_, "NoMemory") => "ENOBUFS",
        (_, other) => return other.to_string(),
    }
    .to_string()
}

/// What a call answers, where it does not wait.
fn result<T, E: std::fmt::Debug>(call: &str, result: Result<T, E>, done: impl FnOnce(T) -> i64) -> Outcome {
    Some(match result {
        Ok(value) => (done(value), String::new()),
        Err(error) => (-1, errno(call, &error)),
    })
}

fn argument(arguments: &[String], at: usize) -> Result<&str, String> {
    arguments.get(at).map(String::as_str).ok_or_else(|| format!("argument {} is missing", at + 1))
}

/// Makes one call.
pub fn perform(play: &mut Play, name: &str, parts: &[String]) -> Result<Outcome, String> {
    let now = play.now;
    if name == "socket" {
        let kind = match argument(parts, 1)? {
            "SOCK_STREAM" => SocketType::Stream,
            "SOCK_DGRAM" => SocketType::Datagram,
            other => return Err(format!("{other}: no such socket type")),
        };
        let made = play.stack.socket(now, AddressFamily::Inet, kind, 0);
        return Ok(result(name, made, |id| play.place(Descriptor::new(id))));
    }
    if name == "poll" {
        return poll(play, argument(parts, 0)?).map(Some);
    }
    let fd = value(argument(parts, 0)?)?;
    let open = play.descriptors.get(&fd).cloned().ok_or_else(|| format!("no descriptor {fd}"))?;
    let id = open.id;
    Ok(match name {
        "bind" => {
            let port =
                if argument(parts, 1)? == "..." { LOCAL_PORT } else { u16::try_from(value(&parts[1])?).unwrap_or(0) };
            result(name, play.stack.bind(now, id, SocketAddr::new(LOCAL.into(), port)), |()| 0)
        }
        "listen" => {
            let backlog = i32::try_from(value(argument(parts, 1)?)?).unwrap_or(i32::MAX);
            result(name, play.stack.listen(now, id, backlog), |()| 0)
        }
        "connect" => connect(play, fd, &open, argument(parts, 1)?),
        "accept" => match play.stack.accept(now, id) {
            Err(error) if errno(name, &error) == "EAGAIN" && !open.nonblocking => None,
            accepted => result(name, accepted, |(id, _)| play.place(Descriptor::new(id))),
        },
        "fcntl" => {
            let flags = value(argument(parts, 2).unwrap_or("0"))?;
            play.descriptor(fd)?.nonblocking = flags & 0x800 != 0;
            Some((0, String::new()))
        }
        "write" | "send" | "sendto" | "sendmsg" => send(play, fd, &open, name, parts)?,
        "read" | "recv" | "recvfrom" => receive(play, fd, &open, parts)?,
        "close" => {
            play.descriptors.remove(&fd);
            play.stack.close(now, id);
            Some((0, String::new()))
        }
        "shutdown" => {
            let how = match value(argument(parts, 1)?)? {
                0 => Shutdown::Read,
                1 => Shutdown::Write,
                _ => Shutdown::Both,
            };
            result(name, play.stack.shutdown(now, id, how), |()| 0)
        }
        "ioctl" => {
            let wanted = value(argument(parts, 2)?)?;
            let found = match argument(parts, 1)? {
                "SIOCINQ" => play.stack.queued_input(id) as i64,
                "SIOCOUTQ" => play.stack.queued_output(id) as i64,
                "SIOCOUTQNSD" => play.stack.unsent_output(id) as i64,
                "SIOCATMARK" => i64::from(play.stack.at_mark(id)),
                other => return Err(format!("{other}: no such request")),
            };
            if found != wanted {
                return Err(format!("ioctl {}: expected {wanted}, got {found}", parts[1]));
            }
            Some((0, String::new()))
        }
        "setsockopt" => {
            let option = set_option(argument(parts, 2)?, argument(parts, 3)?)?;
            result(name, play.stack.set_option(now, id, &option), |()| 0)
        }
        "getsockopt" => get_option(play, &open, argument(parts, 2)?, argument(parts, 3)?)?,
        _ => return Err(format!("unknown call {name}")),
    })
}

fn connect(play: &mut Play, fd: i64, open: &Descriptor, address: &str) -> Outcome {
    let now = play.now;
    if address == "AF_UNSPEC" {
        return result("connect", play.stack.disconnect(now, open.id), |()| 0);
    }
    if open.waiting {
        let done = play.stack.finish_connect(now, open.id)?;
        if let Ok(open) = play.descriptor(fd) {
            open.waiting = false;
        }
        return result("connect", done, |()| 0);
    }
    let answer = play.stack.connect(now, open.id, SocketAddr::new(REMOTE.into(), LOCAL_PORT));
    if let Err(error) = &answer
        && matches!(errno("connect", error).as_str(), "EINPROGRESS" | "EALREADY")
        && !open.nonblocking
    {
        if let Ok(open) = play.descriptor(fd) {
            open.waiting = true;
        }
        return None;
    }
    result("connect", answer, |()| 0)
}

fn send(play: &mut Play, fd: i64, open: &Descriptor, name: &str, parts: &[String]) -> Result<Outcome, String> {
    let length = u32::try_from(value(argument(parts, 2)?)?).map_err(|_| "a length is wrong")?;
    let flags = if name == "write" { 0 } else { value(argument(parts, 3)?)? };
    let bytes = stream(open.written, length - open.taken);
    let to = (name == "sendto" && parts.len() > 4).then(|| SocketAddr::new(REMOTE.into(), LOCAL_PORT));
    let mut flags = SendFlags::from_bits_truncate(u32::try_from(flags).unwrap_or(0));
    flags.set(SendFlags::DONTWAIT, open.nonblocking || flags.contains(SendFlags::DONTWAIT));
    flags.set(SendFlags::WAITS, open.waiting);
    let mut source = bytes.as_slice();
    let arguments = SendArguments { to, flags, ..SendArguments::default() };
    let mut sent = play.stack.send(play.now, open.id, &mut source, &arguments);
    if sent == Err(SendError::Deferred) {
        let arguments = SendArguments { flags: flags | SendFlags::FASTOPEN, ..arguments };
        sent = play.stack.send(play.now, open.id, &mut source, &arguments);
    }
    let open = play.descriptor(fd)?;
    let blocked = sent.as_ref().is_err_and(|error| errno("write", error) == "EAGAIN");
    open.waiting = !open.nonblocking && (blocked || sent.as_ref().is_ok_and(|count| *count < bytes.len()));
    if let Ok(count) = &sent {
        open.written += u32::try_from(*count).unwrap_or(0);
        open.taken += u32::try_from(*count).unwrap_or(0);
    }
    if !open.nonblocking && (blocked || (sent.is_ok() && open.taken < length)) {
        return Ok(None);
    }
    let taken = i64::from(std::mem::take(&mut open.taken));
    Ok(if taken > 0 { Some((taken, String::new())) } else { result("write", sent, |count| count as i64) })
}

fn receive(play: &mut Play, fd: i64, open: &Descriptor, parts: &[String]) -> Result<Outcome, String> {
    let length = usize::try_from(value(argument(parts, 2)?)?).map_err(|_| "a length is wrong")?;
    let bits = parts.get(3).map_or(Ok(0), |text| value(text))?;
    let flags = ReceiveFlags::from_bits_truncate(u32::try_from(bits).unwrap_or(0));
    let mut sink = Collect::new(length);
    let got = play.stack.receive(play.now, open.id, &mut sink, flags);
    let is_stream = play.stack.kind(open.id).is_some_and(|(_, kind, _)| kind == SocketType::Stream);
    match got {
        Err(error) if errno("read", &error) == "EAGAIN" && !open.nonblocking && bits & 0x40 == 0 => Ok(None),
        Err(error) => Ok(Some((-1, errno("read", &error)))),
        Ok(received) => {
            let open = play.descriptor(fd)?;
            if received.urgent || flags.contains(ReceiveFlags::OOB) {
                open.checked = false;
            }
            if is_stream && open.checked {
                for (offset, byte) in sink.bytes.iter().enumerate() {
                    let place = open.read + u32::try_from(offset).unwrap_or(0);
                    if *byte != pattern(place) {
                        return Err(format!("read: the byte at {place} of the stream is not what the peer sent"));
                    }
                }
            }
            if !flags.contains(ReceiveFlags::PEEK) {
                open.read += u32::try_from(received.length).unwrap_or(0);
            }
            Ok(Some((received.length as i64, String::new())))
        }
    }
}

/// `[{fd=4, events=POLLIN, revents=POLLIN}]`.
fn poll(play: &Play, text: &str) -> Result<(i64, String), String> {
    let mut ready = 0;
    let entries = text.trim_start_matches('[').trim_end_matches(']');
    for entry in arguments(entries) {
        let mut numbers = [0; 3];
        for part in arguments(entry.trim_start_matches('{').trim_end_matches('}')) {
            let (name, number) = part.split_once('=').ok_or("poll: NAME=VALUE")?;
            let place = ["fd", "events", "revents"].iter().position(|known| *known == name.trim());
            numbers[place.ok_or_else(|| format!("poll: {name}"))?] = value(number)?;
        }
        let [fd, events, revents] = numbers;
        let open = play.descriptors.get(&fd).ok_or_else(|| format!("no descriptor {fd}"))?;
        let asked = Readiness::from_bits_truncate(u32::try_from(events).unwrap_or(0)) | Readiness::ERR | Readiness::HUP;
        let found = play.stack.readiness(open.id) & asked;
        let wanted = Readiness::from_bits_truncate(u32::try_from(revents).unwrap_or(0));
        if found != wanted {
            return Err(format!("poll: expected {wanted:?} of {fd}, got {found:?}"));
        }
        ready += i64::from(!found.is_empty());
    }
    Ok((ready, String::new()))
}

fn set_option(name: &str, text: &str) -> Result<SetOption, String> {
    if name == "SO_LINGER" {
        let inside = text.trim_start_matches('{').trim_end_matches('}');
        let mut numbers =
            arguments(inside).into_iter().filter_map(|part| part.split_once('=')?.1.trim().parse::<u64>().ok());
        let on = numbers.next().ok_or("SO_LINGER: {onoff=1, linger=0}")? != 0;
        let seconds = numbers.next().ok_or("SO_LINGER: {onoff=1, linger=0}")?;
        return Ok(SetOption::Linger(on.then(|| Duration::from_secs(seconds))));
    }
    if name == "TCP_CONGESTION" {
        return Ok(SetOption::Congestion(text.trim_matches(['[', ']', '"']).to_string()));
    }
    if name == "TCP_FASTOPEN_KEY" {
        return Ok(SetOption::FastOpenKey(text.bytes().take(16).collect()));
    }
    if name == "TCP_REPAIR_OPTIONS" {
        // [{2,1000},{4,0}]: kind and value of each.
        let pairs = arguments(text.trim_start_matches('[').trim_end_matches(']')).into_iter().filter_map(|pair| {
            let (kind, value) = pair.trim_start_matches('{').trim_end_matches('}').split_once(',')?;
            Some((kind.trim().parse().ok()?, value.trim().parse().ok()?))
        });
        return Ok(SetOption::RepairOptions(pairs.collect()));
    }
    if name == "TCP_REPAIR_WINDOW" {
        let fields = arguments(text.trim_start_matches('[').trim_end_matches(']'));
        let fields: Vec<u32> = fields.iter().filter_map(|field| field.parse().ok()).collect();
        return Ok(SetOption::RepairWindow(fields.try_into().map_err(|_| "TCP_REPAIR_WINDOW: five numbers")?));
    }
    if name == "TCP_QUEUE_SEQ" {
        return Ok(SetOption::QueueSeq(u32::try_from(value(text)?).map_err(|_| "a sequence number")?));
    }
    let number = i32::try_from(value(text)?).map_err(|_| "an option's value is an int")?;
    let on = number != 0;
    Ok(match name {
        "TCP_REPAIR" => SetOption::Repair(number),
        "TCP_REPAIR_QUEUE" => SetOption::RepairQueue(number),
        "TCP_TIMESTAMP" => SetOption::TcpTimestamp(number.unsigned_abs()),
        "TCP_SAVE_SYN" => SetOption::SaveSyn(number),
        "TCP_INQ" => SetOption::Inq(number),
        "IP_MINTTL" => SetOption::Kept(Kept::IpMinTtl, number),
        "TCP_THIN_LINEAR_TIMEOUTS" => SetOption::Kept(Kept::TcpThinLinearTimeouts, number),
        "TCP_RTO_MAX_MS" => SetOption::Kept(Kept::TcpRtoMaxMs, number),
        "TCP_RTO_MIN_US" => SetOption::Kept(Kept::TcpRtoMinUs, number),
        "TCP_DELACK_MAX_US" => SetOption::Kept(Kept::TcpDelackMaxUs, number),
        "SO_REUSEADDR" => SetOption::ReuseAddress(on),
        "SO_REUSEPORT" => SetOption::ReusePort(on),
        "SO_KEEPALIVE" => SetOption::KeepAlive(on),
        "SO_OOBINLINE" => SetOption::OobInline(on),
        "SO_RCVLOWAT" => SetOption::ReceiveLowWater(number),
        "SO_RCVBUF" => SetOption::ReceiveBuffer(number, false),
        "SO_SNDBUF" => SetOption::SendBuffer(number, false),
        "SO_SNDBUFFORCE" => SetOption::SendBuffer(number, true),
        "IP_TTL" => SetOption::Ttl(number),
        "IP_TOS" => SetOption::Tos(number),
        "IP_MTU_DISCOVER" => SetOption::MtuDiscover(number),
        "IP_RECVERR" => SetOption::ReceiveErrors(on),
        "TCP_NODELAY" => SetOption::NoDelay(on),
        "TCP_CORK" => SetOption::Cork(on),
        "TCP_MAXSEG" => SetOption::MaxSegment(number),
        "TCP_KEEPIDLE" => SetOption::KeepIdle(number),
        "TCP_KEEPINTVL" => SetOption::KeepInterval(number),
        "TCP_KEEPCNT" => SetOption::KeepCount(number),
        "TCP_SYNCNT" => SetOption::SynCount(number),
        "TCP_LINGER2" => SetOption::Linger2(number),
        "TCP_DEFER_ACCEPT" => SetOption::DeferAccept(number),
        "TCP_WINDOW_CLAMP" => SetOption::WindowClamp(number),
        "TCP_QUICKACK" => SetOption::QuickAck(number),
        "TCP_USER_TIMEOUT" => SetOption::UserTimeout(number),
        "TCP_NOTSENT_LOWAT" => SetOption::NotSentLowWater(u32::try_from(number).unwrap_or(u32::MAX)),
        "TCP_FASTOPEN" => SetOption::FastOpen(number),
        "TCP_FASTOPEN_CONNECT" => SetOption::FastOpenConnect(on),
        "TCP_FASTOPEN_NO_COOKIE" => SetOption::FastOpenNoCookie(on),
        _ => return Err(format!("{name}: no such option")),
    })
}

fn get_option(play: &mut Play, open: &Descriptor, name: &str, text: &str) -> Result<Outcome, String> {
    let name = match name {
        "SO_ERROR" => {
            let wanted = value(text)?;
            let found = play.stack.take_error(open.id).map(|fault| errno("", &fault)).unwrap_or_default();
            let number = if found.is_empty() { 0 } else { value(&found)? };
            if number != wanted {
                return Err(format!("SO_ERROR: expected {text}, got [{number}] ({found})"));
            }
            return Ok(Some((0, String::new())));
        }
        "IP_MTU" => OptionName::Mtu,
        "TCP_NODELAY" => OptionName::NoDelay,
        "TCP_CORK" => OptionName::Cork,
        "TCP_MAXSEG" => OptionName::MaxSegment,
        "TCP_KEEPIDLE" => OptionName::KeepIdle,
        "TCP_KEEPINTVL" => OptionName::KeepInterval,
        "TCP_KEEPCNT" => OptionName::KeepCount,
        "TCP_SYNCNT" => OptionName::SynCount,
        "TCP_LINGER2" => OptionName::Linger2,
        "TCP_DEFER_ACCEPT" => OptionName::DeferAccept,
        "TCP_WINDOW_CLAMP" => OptionName::WindowClamp,
        "TCP_QUICKACK" => OptionName::QuickAck,
        "TCP_USER_TIMEOUT" => OptionName::UserTimeout,
        "TCP_FASTOPEN" => OptionName::FastOpen,
        "TCP_FASTOPEN_CONNECT" => OptionName::FastOpenConnect,
        "TCP_FASTOPEN_NO_COOKIE" => OptionName::FastOpenNoCookie,
        "TCP_NOTSENT_LOWAT" => OptionName::NotSentLowWater,
        "TCP_CONGESTION" => OptionName::Congestion,
        "TCP_REPAIR" => OptionName::Repair,
        "TCP_REPAIR_QUEUE" => OptionName::RepairQueue,
        "TCP_REPAIR_WINDOW" => OptionName::RepairWindow,
        "TCP_QUEUE_SEQ" => OptionName::QueueSeq,
        "TCP_SAVE_SYN" => OptionName::SaveSyn,
        "TCP_INQ" => OptionName::Inq,
        _ => return Err(format!("{name}: no such option")),
    };
    let got = play.stack.option(play.now, open.id, name);
    if let Ok(OptionValue::Int(found)) = &got
        && i64::from(*found) != value(text)?
    {
        return Err(format!("getsockopt {name:?}: expected {text}, got [{found}]"));
    }
    if let Ok(OptionValue::Bytes(found)) = &got {
        let text = text.trim_matches(['[', ']', '"']);
        let shown = if name == OptionName::Congestion {
            String::from_utf8_lossy(found).trim_end_matches('\0').to_string()
        } else {
            let words = found.chunks(4).filter_map(|word| Some(u32::from_ne_bytes(word.try_into().ok()?).to_string()));
            words.collect::<Vec<_>>().join(", ")
        };
        if shown != text {
            return Err(format!("getsockopt {name:?}: expected {text}, got {shown}"));
        }
    }
    Ok(result("getsockopt", got, |_| 0))
}
