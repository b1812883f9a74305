//! How large a super-frame an interface takes, asked over rtnetlink (IFLA_GSO_MAX_SIZE and its IPv4 sibling of kernels
//! from 6.3): sysfs does not tell.

use crate::sys::call;
use std::time::Duration;

/// RTM_GETLINK's answer: struct nlmsghdr and struct ifinfomsg before the attributes.
const HEADER: usize = 16;
const LINK: usize = 16;

/// Attributes of a link.
const GSO_MAX_SIZE: u16 = 41;
const GSO_IPV4_MAX_SIZE: u16 = 63;

/// The largest super-frame in bytes, the smaller of what the interface says for all and for IPv4; `None` when the kernel
/// does not tell.
pub(super) fn gso_max(index: i32) -> Option<u32> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    let fd = call::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE).ok()?;
    let answer = ask(fd, index);
    let _ = call::close(fd);
    answer
}

fn ask(fd: call::Fd, index: i32) -> Option<u32> {
    let mut request = [0u8; HEADER + LINK];
    request[..4].copy_from_slice(&((HEADER + LINK) as u32).to_ne_bytes());
    request[4..6].copy_from_slice(&libc::RTM_GETLINK.to_ne_bytes());
    request[6..8].copy_from_slice(&(libc::NLM_F_REQUEST as u16).to_ne_bytes());
    request[HEADER + 4..HEADER + 8].copy_from_slice(&index.to_ne_bytes());
    call::send(fd, &request, libc::MSG_DONTWAIT).ok()?;
    // The kernel answers before the send returns; the wait is a bound, not a need.
    let mut ready = [libc::pollfd { fd: fd.raw(), events: libc::POLLIN, revents: 0 }];
    call::ppoll(&mut ready, Some(Duration::from_millis(100)), None).ok()?;
    let mut answer = [0u8; 8192];
    let length = call::receive(fd, &mut answer, libc::MSG_DONTWAIT).ok()?;
    parse(answer.get(..length)?)
}

/// The limit in an RTM_NEWLINK message.
fn parse(message: &[u8]) -> Option<u32> {
    let kind = u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?);
    if kind != libc::RTM_NEWLINK {
        return None;
    }
    let mut attributes = message.get(HEADER + LINK..)?;
    let mut limit = None;
    while let Some(header) = attributes.first_chunk::<4>() {
        let [l0, l1, k0, k1] = *header;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let Some(value) = attributes.get(4..length) else { break };
        if matches!(u16::from_ne_bytes([k0, k1]), GSO_MAX_SIZE | GSO_IPV4_MAX_SIZE)
            && let Some(bytes) = value.first_chunk()
        {
            let size = u32::from_ne_bytes(*bytes);
            limit = Some(limit.map_or(size, |other: u32| other.min(size)));
        }
        attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    }
    limit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_tells_and_nonsense_does_not() {
        let index = call::interface("lo").unwrap().index;
        assert!(gso_max(index).unwrap() >= 65_536);
        assert_eq!(gso_max(i32::MAX), None);
        assert_eq!(parse(&[]), None);
        assert_eq!(parse(&[0xff; 100]), None);
        let mut message = vec![0u8; HEADER + LINK];
        message[4..6].copy_from_slice(&libc::RTM_NEWLINK.to_ne_bytes());
        assert_eq!(parse(&message), None);
        // An attribute of no length must not turn in circles.
        message.extend_from_slice(&[0; 8]);
        assert_eq!(parse(&message), None);
    }
}
