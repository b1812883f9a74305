//! The TCP header and its options on the wire (RFC 9293 §3.1, §3.2; RFC 7323 for window scale and timestamps,
//! RFC 2018 for SACK). What the fields mean to a connection is the business of `receive.rs` and `connect.rs`.

use bitflags::bitflags;

use super::sequence::Seq;

/// Length of a header without options.
pub const BASE_LENGTH: usize = 20;
/// Longest header: the data offset has four bits.
pub const LONGEST: usize = 60;
/// Bytes that the timestamps option takes with its padding (TCPOLEN_TSTAMP_ALIGNED).
pub const TIMESTAMPS_LENGTH: u16 = 12;
/// Bytes that the MD5 signature takes with its padding (TCPOLEN_MD5SIG_ALIGNED).
pub const SIGNATURE_LENGTH: u16 = 20;
/// Most SACK blocks that fit in 40 bytes of options.
pub const MOST_SACK_BLOCKS: usize = 4;
/// TCP_FASTOPEN_COOKIE_MAX.
const MOST_COOKIE: usize = 16;
/// RFC 7323 §2.3: larger shifts are taken as 14.
const LARGEST_SHIFT: u8 = 14;

bitflags! {
    /// Control bits.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Flags: u8 {
        /// No more data from the sender.
        const FIN = 0x01;
        /// Synchronise sequence numbers.
        const SYN = 0x02;
        /// Reset the connection.
        const RST = 0x04;
        /// Push.
        const PSH = 0x08;
        /// The acknowledgment field is valid.
        const ACK = 0x10;
        /// The urgent pointer is valid.
        const URG = 0x20;
        /// ECN echo.
        const ECE = 0x40;
        /// Congestion window reduced.
        const CWR = 0x80;
    }
}

/// One SACK block: first sequence number of the block and the one after its last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SackBlock {
    /// Left edge.
    pub start: Seq,
    /// Right edge.
    pub end: Seq,
}

/// Up to four SACK blocks, in the order of the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SackBlocks {
    blocks: [SackBlock; MOST_SACK_BLOCKS],
    count: u8,
}

impl SackBlocks {
    /// Adds a block; says whether there was room.
    pub fn push(&mut self, block: SackBlock) -> bool {
        match self.blocks.get_mut(usize::from(self.count)) {
            Some(place) => {
                *place = block;
                self.count += 1;
                true
            }
            None => false,
        }
    }

    /// The blocks.
    #[must_use]
    pub fn as_slice(&self) -> &[SackBlock] {
        self.blocks.get(..usize::from(self.count)).unwrap_or_default()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.count)
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// The two fields of the timestamps option.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timestamps {
    /// TSval: the sender's clock.
    pub value: u32,
    /// TSecr: the clock of the receiver as the sender last heard it.
    pub echo: u32,
}

/// A Fast Open cookie (RFC 7413 §4.1.1): none, or 4 to 16 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cookie {
    bytes: [u8; MOST_COOKIE],
    length: u8,
    /// It came in, and is answered in, the experimental option (RFC 6994).
    pub experimental: bool,
}

impl Cookie {
    /// A cookie of up to 16 bytes; more are cut.
    #[must_use]
    pub fn new(from: &[u8], experimental: bool) -> Self {
        let mut bytes = [0; MOST_COOKIE];
        let mut length = 0;
        for (place, byte) in bytes.iter_mut().zip(from) {
            *place = *byte;
            length += 1;
        }
        Self { bytes, length, experimental }
    }

    /// Its bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }

    /// It is a request for one.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// `tcp_parse_fastopen_option`: even lengths from 4 to 16, or none.
    fn parse(bytes: &[u8], experimental: bool) -> Option<Self> {
        //= RFC 7413 §4.1.1 (MUST-2)
        let fits = bytes.is_empty() || (bytes.len().is_multiple_of(2) && (4..=MOST_COOKIE).contains(&bytes.len()));
        fits.then(|| Self::new(bytes, experimental))
    }
}

/// Options of a segment. Unknown ones are skipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Maximum segment size (only looked at in a SYN).
    pub mss: Option<u16>,
    /// Window scale (only looked at in a SYN), at most 14.
    pub window_scale: Option<u8>,
    /// SACK permitted (only looked at in a SYN).
    pub sack_permitted: bool,
    /// Timestamps.
    pub timestamps: Option<Timestamps>,
    /// SACK blocks.
    pub sack: SackBlocks,
    /// Fast Open cookie (only looked at in a SYN); an empty one asks for one.
    pub fast_open: Option<Cookie>,
    /// MD5 signature (RFC 2385).
    pub signature: Option<[u8; 16]>,
}

/// What a TCP header says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// Sequence number.
    pub seq: Seq,
    /// Acknowledgment number.
    pub ack: Seq,
    /// Control bits.
    pub flags: Flags,
    /// Window as it stands in the header, not scaled.
    pub window: u16,
    /// Urgent pointer.
    pub urgent: u16,
    /// Options.
    pub options: Options,
}

/// A header that was understood, and what is worth counting about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// The header.
    pub header: Header,
    /// Its length in bytes, options included.
    pub length: usize,
    /// An option had an impossible length; it and those after it were not looked at.
    pub bad_options: bool,
}

/// Why a header could not be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Fewer than 20 bytes.
    Short,
    /// The data offset is less than 20 bytes or beyond the end of the segment.
    Offset,
}

fn word16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..).and_then(|rest| rest.first_chunk::<2>()).map(|pair| u16::from_be_bytes(*pair))
}

fn word32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..).and_then(|rest| rest.first_chunk::<4>()).map(|four| u32::from_be_bytes(*four))
}

impl Header {
    /// Reads the header at the start of `segment`, which is header and payload. The checksum is not looked at.
    ///
    /// # Errors
    /// See [`Malformed`].
    pub fn parse(segment: &[u8]) -> Result<Parsed, Malformed> {
        let base = segment.first_chunk::<BASE_LENGTH>().ok_or(Malformed::Short)?;
        let length = usize::from(base[12] >> 4) * 4;
        if length < BASE_LENGTH {
            return Err(Malformed::Offset);
        }
        let options = segment.get(BASE_LENGTH..length).ok_or(Malformed::Offset)?;
        let flags = Flags::from_bits_truncate(base[13]);
        //= RFC 9293 §3.1 (MUST-5)
        let (options, bad_options) = parse_options(options, flags.contains(Flags::SYN));
        let header = Self {
            source_port: u16::from_be_bytes([base[0], base[1]]),
            destination_port: u16::from_be_bytes([base[2], base[3]]),
            seq: Seq(u32::from_be_bytes([base[4], base[5], base[6], base[7]])),
            ack: Seq(u32::from_be_bytes([base[8], base[9], base[10], base[11]])),
            flags,
            //= RFC 9293 §3.1 (MUST-1)
            window: u16::from_be_bytes([base[14], base[15]]),
            urgent: u16::from_be_bytes([base[18], base[19]]),
            options,
        };
        Ok(Parsed { header, length, bad_options })
    }

    /// The bytes of the header, checksum field zero, in the order of options that Linux uses.
    #[must_use]
    pub fn emit(&self) -> HeaderBytes {
        let mut out = HeaderBytes::default();
        out.push(&self.source_port.to_be_bytes());
        out.push(&self.destination_port.to_be_bytes());
        out.push(&self.seq.0.to_be_bytes());
        out.push(&self.ack.0.to_be_bytes());
        out.push(&[0, self.flags.bits()]);
        out.push(&self.window.to_be_bytes());
        out.push(&[0, 0]);
        out.push(&self.urgent.to_be_bytes());
        let options = &self.options;
        if let Some(signature) = options.signature {
            out.push(&[1, 1, 19, 18]);
            out.push(&signature);
        }
        if let Some(mss) = options.mss {
            out.push(&[2, 4]);
            out.push(&mss.to_be_bytes());
        }
        if let Some(timestamps) = options.timestamps {
            out.push(if options.sack_permitted { &[4, 2, 8, 10] } else { &[1, 1, 8, 10] });
            out.push(&timestamps.value.to_be_bytes());
            out.push(&timestamps.echo.to_be_bytes());
        } else if options.sack_permitted {
            out.push(&[1, 1, 4, 2]);
        }
        if let Some(shift) = options.window_scale {
            out.push(&[1, 3, 3, shift]);
        }
        let room = (LONGEST - out.len).saturating_sub(4) / 8;
        let count = options.sack.len().min(room);
        // Timestamps and a signature leave no room for a block.
        if count > 0 {
            out.push(&[1, 1, 5, u8::try_from(2 + 8 * count).unwrap_or(2)]);
            for block in options.sack.as_slice().iter().take(count) {
                out.push(&block.start.0.to_be_bytes());
                out.push(&block.end.0.to_be_bytes());
            }
        }
        let fits = |cookie: &Cookie| {
            let length = if cookie.experimental { 4 } else { 2 } + cookie.as_slice().len();
            length.next_multiple_of(4) <= LONGEST - out.len
        };
        if let Some(cookie) = options.fast_open.filter(fits) {
            let length = u8::try_from(cookie.as_slice().len()).unwrap_or(0);
            if cookie.experimental {
                out.push(&[254, 4 + length, 0xf9, 0x89]);
            } else {
                //= RFC 7413 §9 (SHLD-8, SHLD-9)
                out.push(&[34, 2 + length]);
            }
            out.push(cookie.as_slice());
            while !out.len.is_multiple_of(4) && out.len < LONGEST {
                out.push(&[1]);
            }
        }
        out.bytes[12] = u8::try_from(out.len / 4).unwrap_or(5) << 4;
        out
    }
}

/// `tcp_parse_options`: stops at the first option whose length cannot be.
fn parse_options(mut rest: &[u8], syn: bool) -> (Options, bool) {
    let mut options = Options::default();
    loop {
        let (kind, tail) = match rest {
            //= RFC 9293 §3.1 (MUST-4)
            [] | [0, ..] => return (options, false),
            [1, tail @ ..] => {
                rest = tail;
                continue;
            }
            [kind, tail @ ..] => (*kind, tail),
        };
        //= RFC 9293 §3.1 (MUST-68)
        let Some(&length) = tail.first() else { return (options, true) };
        let length = usize::from(length);
        //= RFC 9293 §3.1 (MUST-7)
        if length < 2 || length > rest.len() {
            return (options, true);
        }
        //= RFC 9293 §3.2 (MUST-64)
        let (option, next) = rest.split_at(length);
        rest = next;
        //= RFC 9293 §3.1 (MUST-6)
        match (kind, length) {
            (2, 4) if syn => options.mss = word16(option, 2).filter(|mss| *mss != 0),
            //= RFC 7323 §2.2 (MUST-2)
            //= RFC 7323 §2.3 (MUST-9)
            (3, 3) if syn => options.window_scale = option.get(2).map(|shift| (*shift).min(LARGEST_SHIFT)),
            (4, 2) if syn => options.sack_permitted = true,
            //= RFC 7413 §4.1.1 (MUST-3)
            (34, _) if syn => options.fast_open = option.get(2..).and_then(|bytes| Cookie::parse(bytes, false)),
            (254, 4..) if syn && option.get(2..4) == Some(&[0xf9, 0x89]) => {
                options.fast_open = option.get(4..).and_then(|bytes| Cookie::parse(bytes, true));
            }
            (19, 18) => options.signature = option.get(2..).and_then(|bytes| bytes.first_chunk().copied()),
            (8, 10) => {
                if let (Some(value), Some(echo)) = (word32(option, 2), word32(option, 6)) {
                    options.timestamps = Some(Timestamps { value, echo });
                }
            }
            (5, 10 | 18 | 26 | 34) => {
                options.sack = SackBlocks::default();
                for at in (2..length).step_by(8) {
                    if let (Some(start), Some(end)) = (word32(option, at), word32(option, at + 4)) {
                        options.sack.push(SackBlock { start: Seq(start), end: Seq(end) });
                    }
                }
            }
            _ => {}
        }
    }
}

/// A header on its way out.
#[derive(Clone, Copy, Debug)]
pub struct HeaderBytes {
    bytes: [u8; LONGEST],
    len: usize,
}

impl Default for HeaderBytes {
    fn default() -> Self {
        Self { bytes: [0; LONGEST], len: 0 }
    }
}

impl HeaderBytes {
    fn push(&mut self, more: &[u8]) {
        for byte in more {
            if let Some(place) = self.bytes.get_mut(self.len) {
                *place = *byte;
                self.len += 1;
            }
        }
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn syn() -> Header {
        Header {
            source_port: 40_000,
            destination_port: 80,
            seq: Seq(7),
            ack: Seq(0),
            flags: Flags::SYN,
            window: 64_240,
            urgent: 0,
            options: Options {
                mss: Some(1_460),
                window_scale: Some(7),
                sack_permitted: true,
                timestamps: Some(Timestamps { value: 5, echo: 0 }),
                sack: SackBlocks::default(),
                fast_open: None,
                signature: None,
            },
        }
    }

    #[test]
    fn syn_options_are_laid_out_as_linux_does() {
        let bytes = syn().emit();
        assert_eq!(&bytes.as_slice()[20..], &[2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 5, 0, 0, 0, 0, 1, 3, 3, 7]);
        let parsed = Header::parse(bytes.as_slice()).expect("own header");
        assert_eq!(parsed.header, syn());
        assert_eq!(parsed.length, 40);
    }

    #[test]
    fn three_sack_blocks_fit_beside_timestamps() {
        let mut header = syn();
        header.flags = Flags::ACK;
        header.options = Options { timestamps: Some(Timestamps { value: 1, echo: 2 }), ..Options::default() };
        for n in 0..4 {
            header.options.sack.push(SackBlock { start: Seq(n * 100), end: Seq(n * 100 + 50) });
        }
        let bytes = header.emit();
        assert_eq!(bytes.as_slice().len(), 60);
        let parsed = Header::parse(bytes.as_slice()).expect("own header");
        assert_eq!(parsed.header.options.sack.len(), 3);
    }

    //= test RFC 9293 §3.1 (MUST-68, MUST-7)
    #[test]
    fn impossible_option_length_is_told_and_the_rest_skipped() {
        let mut bytes: Vec<u8> = syn().emit().as_slice().to_vec();
        bytes[21] = 0;
        let parsed = Header::parse(&bytes).expect("header itself is good");
        assert!(parsed.bad_options);
        assert_eq!(parsed.header.options, Options::default());
    }

    #[test]
    fn bad_offsets_are_refused() {
        let mut bytes: Vec<u8> = syn().emit().as_slice().to_vec();
        bytes[12] = 0x40;
        assert_eq!(Header::parse(&bytes), Err(Malformed::Offset));
        bytes[12] = 0xf0;
        assert_eq!(Header::parse(&bytes), Err(Malformed::Offset));
        assert_eq!(Header::parse(&bytes[..19]), Err(Malformed::Short));
    }

    //= test RFC 7413 §4.1.1 (MUST-2, MUST-3)
    #[test]
    fn cookies_of_odd_or_impossible_length_and_outside_of_a_syn_are_passed_over() {
        let read = |flags: Flags, cookie: &[u8]| {
            let mut bytes = Header { flags, ..Header::default() }.emit().as_slice().to_vec();
            bytes.extend_from_slice(&[34, u8::try_from(2 + cookie.len()).unwrap_or(2)]);
            bytes.extend_from_slice(cookie);
            while !bytes.len().is_multiple_of(4) {
                bytes.push(1);
            }
            bytes[12] = u8::try_from(bytes.len() / 4).unwrap_or(5) << 4;
            Header::parse(&bytes).expect("well-formed").header.options.fast_open
        };
        for length in [0, 4, 6, 8, 16] {
            assert_eq!(read(Flags::SYN, &[7; 16][..length]), Some(Cookie::new(&[7; 16][..length], false)));
            assert_eq!(read(Flags::ACK, &[7; 16][..length]), None);
        }
        for length in [1, 2, 3, 5, 7, 15, 17, 18] {
            assert_eq!(read(Flags::SYN, &[7; 18][..length]), None, "{length} bytes");
        }
    }
}
