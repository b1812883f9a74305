//! A tee that writes each frame to a pcapng file (draft-ietf-opsawg-pcapng): section header, interface description, then an
//! enhanced packet block per frame with direction and nanosecond time of day. One write per block into a file opened
//! for appending, so that all members of a family share one descriptor and no block is torn. Several families may
//! append to one file: each begins a section of its own, which readers allow.

use super::{Device, DeviceError, DeviceStatistics, Scope, TransmitError, offload};
use crate::sys::call;
use crate::sys::{Errno, Fd};
use remora_stack::frame::{DeviceCapabilities, Medium, RxChecksum, RxMeta, Transmit};
use std::io::IoSlice;

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const ENHANCED_PACKET: u32 = 6;

const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;

/// LINKTYPE_ETHERNET and LINKTYPE_RAW.
const ETHERNET: u16 = 1;
const RAW: u16 = 101;

const OPTION_END: u16 = 0;
const IF_NAME: u16 = 2;
const IF_TIME_RESOLUTION: u16 = 9;
const EPB_FLAGS: u16 = 2;

/// Which way a frame went, as bits 0 and 1 of epb_flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Inbound = 1,
    Outbound = 2,
}

/// A file that frames are written to.
#[derive(Debug)]
pub struct PcapWriter {
    fd: Fd,
    /// Blocks that could not be written (a full disk).
    lost: u64,
}

fn option(block: &mut Vec<u8>, code: u16, value: &[u8]) {
    // An interface's name has at most 15 bytes; the others are shorter.
    let length = u16::try_from(value.len()).unwrap_or(0);
    block.extend_from_slice(&code.to_ne_bytes());
    block.extend_from_slice(&length.to_ne_bytes());
    block.extend_from_slice(value.get(..usize::from(length)).unwrap_or(&[]));
    block.resize(block.len().next_multiple_of(4), 0);
}

/// Wraps a body (whole words) with its type and its length in front and behind.
fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let length = (body.len() + 12) as u32;
    let mut whole = Vec::with_capacity(body.len() + 12);
    whole.extend_from_slice(&kind.to_ne_bytes());
    whole.extend_from_slice(&length.to_ne_bytes());
    whole.extend_from_slice(body);
    whole.extend_from_slice(&length.to_ne_bytes());
    whole
}

/// The blocks that begin a section with one interface.
fn preamble(name: &str, medium: Medium) -> Vec<u8> {
    let mut section = Vec::new();
    section.extend_from_slice(&BYTE_ORDER_MAGIC.to_ne_bytes());
    section.extend_from_slice(&1u16.to_ne_bytes());
    section.extend_from_slice(&0u16.to_ne_bytes());
    // Length of the section: unknown.
    section.extend_from_slice(&u64::MAX.to_ne_bytes());
    let mut interface = Vec::new();
    let link = if medium == Medium::Ethernet { ETHERNET } else { RAW };
    interface.extend_from_slice(&link.to_ne_bytes());
    interface.extend_from_slice(&[0; 2]);
    // No limit on the length of a frame.
    interface.extend_from_slice(&0u32.to_ne_bytes());
    option(&mut interface, IF_NAME, name.as_bytes());
    // Nanoseconds: ten to the power of minus nine.
    option(&mut interface, IF_TIME_RESOLUTION, &[9]);
    option(&mut interface, OPTION_END, &[]);
    let mut whole = block(SECTION_HEADER, &section);
    whole.extend_from_slice(&block(INTERFACE_DESCRIPTION, &interface));
    whole
}

impl PcapWriter {
    /// Opens `path` for appending and begins a section for the named interface.
    ///
    /// # Errors
    /// As open(2) and write(2).
    pub fn open(path: &str, interface: &str, medium: Medium) -> Result<Self, Errno> {
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND | libc::O_CLOEXEC;
        let low = call::with_path(path, |path| call::open(path, flags, 0o644))?;
        let fd = call::raise_high(low, call::private_floor())?;
        call::write(fd, &preamble(interface, medium)).inspect_err(|_| {
            let _ = call::close(fd);
        })?;
        Ok(Self { fd, lost: 0 })
    }

    /// The descriptor, to be guarded.
    #[must_use]
    pub const fn fd(&self) -> Fd {
        self.fd
    }

    /// Blocks that could not be written.
    #[must_use]
    pub const fn lost(&self) -> u64 {
        self.lost
    }

    fn write(&mut self, frame: &[u8], direction: Direction) {
        let captured = frame.len() as u32;
        let padding = frame.len().next_multiple_of(4) - frame.len();
        // Head of 28 bytes, frame, padding, flags (8), end of options (4), length again.
        let total = 28 + captured + padding as u32 + 12 + 4;
        let time = u64::try_from(call::wall_clock().as_nanos()).unwrap_or(u64::MAX);
        let mut head = [0u8; 28];
        let words = [ENHANCED_PACKET, total, 0, (time >> 32) as u32, time as u32, captured, captured];
        for (slot, word) in head.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *slot = word.to_ne_bytes();
        }
        let mut tail = [0u8; 16];
        let [code0, code1] = EPB_FLAGS.to_ne_bytes();
        let [length0, length1] = 4u16.to_ne_bytes();
        tail[..4].copy_from_slice(&[code0, code1, length0, length1]);
        tail[4..8].copy_from_slice(&(direction as u32).to_ne_bytes());
        tail[12..].copy_from_slice(&total.to_ne_bytes());
        let parts =
            [IoSlice::new(&head), IoSlice::new(frame), IoSlice::new(&[0; 3][..padding.min(3)]), IoSlice::new(&tail)];
        if call::write_vectored(self.fd, &parts) != Ok(total as usize) {
            self.lost += 1;
        }
    }
}

/// A device whose frames are written down as they pass.
#[derive(Debug)]
pub struct PcapTee<D> {
    inner: D,
    writer: PcapWriter,
    scratch: Vec<u8>,
}

impl<D: Device> PcapTee<D> {
    /// Puts the tee in front of `inner`.
    pub const fn new(inner: D, writer: PcapWriter) -> Self {
        Self { inner, writer, scratch: Vec::new() }
    }

    /// The file.
    #[must_use]
    pub const fn writer(&self) -> &PcapWriter {
        &self.writer
    }
}

impl<D: Device> Device for PcapTee<D> {
    fn capabilities(&self) -> DeviceCapabilities {
        self.inner.capabilities()
    }

    fn receive(&mut self, buffer: &mut Vec<u8>) -> Result<Option<RxMeta>, DeviceError> {
        let meta = self.inner.receive(buffer)?;
        let Some(received) = meta else { return Ok(None) };
        let medium = self.inner.capabilities().medium;
        let request = match received.checksum {
            RxChecksum::Partial => offload::partial(buffer, medium),
            RxChecksum::Unverified | RxChecksum::Valid => None,
        };
        if let Some(request) = request {
            // Completed in the copy, or readers would call the frame broken.
            self.scratch.clear();
            self.scratch.extend_from_slice(buffer);
            offload::complete(&mut self.scratch, request);
            self.writer.write(&self.scratch, Direction::Inbound);
        } else {
            self.writer.write(buffer, Direction::Inbound);
        }
        Ok(meta)
    }

    fn transmit(&mut self, frame: &Transmit<'_>) -> Result<(), TransmitError> {
        self.inner.transmit(frame)?;
        self.scratch.clear();
        self.scratch.extend_from_slice(frame.header);
        for slice in frame.payload {
            self.scratch.extend_from_slice(slice);
        }
        if let Some(request) = frame.checksum {
            offload::complete(&mut self.scratch, request);
        }
        self.writer.write(&self.scratch, Direction::Outbound);
        Ok(())
    }

    fn fd(&self) -> Fd {
        self.inner.fd()
    }

    fn has_frames(&self) -> bool {
        self.inner.has_frames()
    }

    fn is_drained(&self) -> bool {
        self.inner.is_drained()
    }

    fn statistics(&mut self) -> DeviceStatistics {
        self.inner.statistics()
    }

    fn set_scope(&mut self, scope: &Scope) -> Result<(), DeviceError> {
        self.inner.set_scope(scope)
    }

    fn refresh(&mut self) -> Result<DeviceCapabilities, DeviceError> {
        self.inner.refresh()
    }

    fn close(&mut self) {
        self.inner.close();
        let _ = call::close(std::mem::replace(&mut self.writer.fd, Fd::NONE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::testlab::{Memory, plain};
    use remora_stack::frame::PartialChecksum;
    use std::net::Ipv4Addr;

    /// The blocks of a file as (type, body).
    fn blocks(mut bytes: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let word = |bytes: &[u8], at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let length = word(bytes, 4) as usize;
            assert_eq!(length % 4, 0);
            assert_eq!(word(bytes, length - 4) as usize, length);
            found.push((word(bytes, 0), bytes[8..length - 4].to_vec()));
            bytes = &bytes[length..];
        }
        found
    }

    #[test]
    fn both_directions_are_written_with_complete_checksums() {
        let path = std::env::temp_dir().join(format!("remora-test-{}.pcapng", call::getpid()));
        let text = path.to_str().unwrap();
        let addresses = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let frame = offload::samples::tcp_partial(([2; 6], [4; 6]), addresses, b"hello");
        for _ in 0..2 {
            let writer = PcapWriter::open(text, "eth9", Medium::Ethernet).unwrap();
            assert!(writer.fd().raw() >= call::private_floor());
            let mut tee = PcapTee::new(Memory::default(), writer);
            let request = PartialChecksum { start: 34, offset: 16 };
            let (header, payload) = frame.split_at(54);
            let mut outgoing = plain(header);
            outgoing.payload[0] = payload;
            outgoing.checksum = Some(request);
            tee.transmit(&outgoing).unwrap();
            let mut buffer = Vec::new();
            tee.inner.meta.checksum = RxChecksum::Partial;
            let meta = tee.receive(&mut buffer).unwrap().unwrap();
            assert_eq!((meta.checksum, buffer.as_slice()), (RxChecksum::Partial, frame.as_slice()));
            assert_eq!(tee.receive(&mut buffer), Ok(None));
            assert_eq!(tee.writer().lost(), 0);
            tee.close();
        }
        let bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let blocks = blocks(&bytes);
        let kinds: Vec<u32> = blocks.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, [SECTION_HEADER, 1, 6, 6, SECTION_HEADER, 1, 6, 6]);
        assert_eq!(&blocks[1].1[8..16], [2, 0, 4, 0, b'e', b't', b'h', b'9']);
        for (index, direction) in [(2, 2u8), (3, 1)] {
            let body = &blocks[index].1;
            let length = frame.len();
            assert_eq!(body[12..16], (length as u32).to_ne_bytes());
            assert!(offload::samples::tcp_is_valid(&body[20..20 + length]));
            let options = &body[20 + length.next_multiple_of(4)..];
            assert_eq!(options, [2, 0, 4, 0, direction, 0, 0, 0, 0, 0, 0, 0]);
            let high = u64::from(u32::from_ne_bytes(body[4..8].try_into().unwrap()));
            let low = u64::from(u32::from_ne_bytes(body[8..12].try_into().unwrap()));
            let age = call::wall_clock().as_nanos() as u64 - ((high << 32) | low);
            assert!(age < 60_000_000_000, "{age} ns");
        }
    }

    #[test]
    fn missing_directory_is_an_error() {
        let result = PcapWriter::open("/no/such/directory/x", "eth0", Medium::Ip);
        assert_eq!(result.err(), Some(Errno(libc::ENOENT)));
    }
}
