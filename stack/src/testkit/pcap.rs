//! The classic pcap format, with nanoseconds, for looking at a test's exchange with the usual tools.

use alloc::vec::Vec;

use crate::time::Instant;

/// Magic number of a file with times in nanoseconds.
const MAGIC: u32 = 0xa1b2_3c4d;
const LINK_ETHERNET: u32 = 1;
const LONGEST: u32 = 262_144;

/// A file of these frames.
pub(super) fn file(frames: &[(Instant, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&MAGIC.to_le_bytes());
    // Version 2.4.
    bytes.extend_from_slice(&[2, 0, 4, 0]);
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(&LONGEST.to_le_bytes());
    bytes.extend_from_slice(&LINK_ETHERNET.to_le_bytes());
    for (at, frame) in frames {
        let seconds = u32::try_from(at.nanos() / 1_000_000_000).unwrap_or(u32::MAX);
        let nanos = u32::try_from(at.nanos() % 1_000_000_000).unwrap_or(0);
        let length = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        for number in [seconds, nanos, length, length] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(frame);
    }
    bytes
}
