//! Formats on the wire. Each module has a view of the bytes as they arrive, the meaning that a valid header has, and
//! a precise name for each way in which it can be wrong. Bytes are looked at once, here; the rest of the stack works
//! on meanings. IPv6 and ICMPv6 will stand beside their elder versions; TCP's header is with TCP.

pub mod arp;
pub mod checksum;
pub mod ethernet;
pub mod flow;
pub mod icmpv4;
pub mod ip_options;
pub mod ipv4;
pub mod udp;

/// The two bytes at `at` as a big-endian number.
#[must_use]
pub fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    let field = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes(field.try_into().ok()?))
}

/// The four bytes at `at` as a big-endian number.
#[must_use]
pub fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(field.try_into().ok()?))
}

/// Stores a big-endian number at `at`, where there is room for it; says whether there was.
pub fn write_u16(bytes: &mut [u8], at: usize, value: u16) -> bool {
    match at.checked_add(2).and_then(|end| bytes.get_mut(at..end)) {
        Some(field) => {
            field.copy_from_slice(&value.to_be_bytes());
            true
        }
        None => false,
    }
}
