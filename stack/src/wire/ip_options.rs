//! Options of the IPv4 header (RFC 791 §3.1, RFC 2113): those that a program gives, those of packets that come in, and
//! those that an answer echoes, each as Linux's `ip_options.c` reads and writes them. When packets with a source route
//! are taken is `ip/input.rs`.

use core::net::Ipv4Addr;

use super::ipv4::HEADER_LENGTH;

/// Most bytes that the options of one header take.
pub const LONGEST: usize = 40;

const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const RECORD_ROUTE: u8 = 7;
const TIMESTAMP: u8 = 0x44;
const LOOSE_ROUTE: u8 = 0x83;
const COMMERCIAL_SECURITY: u8 = 0x86;
const STRICT_ROUTE: u8 = 0x89;
const ROUTER_ALERT: u8 = 0x94;
/// The option goes into every fragment.
const COPIED: u8 = 0x80;
/// Flags of the timestamp option: times alone, with addresses, for addresses that are named.
const TIME_ALONE: u8 = 0;
const TIME_AND_ADDRESS: u8 = 1;
const TIME_OF_NAMED: u8 = 3;

/// An option is wrong; `at` counts from the start of the header, as ICMP's parameter problem does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionError {
    /// Place of the bad byte.
    pub at: u8,
}

/// Options that were understood (`struct ip_options`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)]
pub struct IpOptions {
    bytes: [u8; LONGEST],
    length: u8,
    /// Where in the bytes a source route begins.
    route: Option<u8>,
    strict: bool,
    /// Where its packets go first; the bytes hold the way after that.
    first_hop: Ipv4Addr,
    record: Option<u8>,
    record_needs_address: bool,
    time: Option<u8>,
    time_needs_time: bool,
    time_needs_address: bool,
    router_alert: bool,
}

/// Who reads options, and what the reader puts into them.
#[derive(Clone, Copy, Debug)]
pub enum Reader {
    /// A program sets them; the flag says whether it may use any option there is (CAP_NET_RAW).
    Program(bool),
    /// A packet came in: the address to record, and the time of day in milliseconds.
    Packet(Ipv4Addr, u32),
}

/// What of the state of reading matters beyond one option.
struct Reading<'a> {
    options: &'a mut IpOptions,
    reader: Reader,
    /// Whether an address is another host's.
    is_unicast: &'a dyn Fn(Ipv4Addr) -> bool,
}

fn wrong(at: usize) -> OptionError {
    // A header has at most 60 bytes, so every place fits.
    OptionError { at: u8::try_from(HEADER_LENGTH + at).unwrap_or(u8::MAX) }
}

fn address_at(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    super::read_u32(bytes, at).map(Ipv4Addr::from_bits)
}

fn put(bytes: &mut [u8], at: usize, value: [u8; 4]) {
    if let Some(place) = bytes.get_mut(at..at + 4) {
        place.copy_from_slice(&value);
    }
}

impl Default for IpOptions {
    fn default() -> Self {
        Self::NONE
    }
}

impl IpOptions {
    /// No options.
    pub const NONE: Self = Self {
        bytes: [0; LONGEST],
        length: 0,
        route: None,
        strict: false,
        first_hop: Ipv4Addr::UNSPECIFIED,
        record: None,
        record_needs_address: false,
        time: None,
        time_needs_time: false,
        time_needs_address: false,
        router_alert: false,
    };

    /// Options as a program gives them (`ip_options_get`): they are filled up to a multiple of four bytes.
    /// `is_unicast`: whether an address is another host's.
    ///
    /// # Errors
    /// The place of the first byte that is wrong; also when there are too many.
    pub fn from_program(
        given: &[u8],
        privileged: bool,
        is_unicast: &dyn Fn(Ipv4Addr) -> bool,
    ) -> Result<Self, OptionError> {
        let mut options = Self::NONE;
        let room = options.bytes.get_mut(..given.len()).ok_or(wrong(LONGEST))?;
        room.copy_from_slice(given);
        options.length = u8::try_from(given.len().next_multiple_of(4)).unwrap_or(0);
        options.compile(Reader::Program(privileged), is_unicast)?;
        Ok(options)
    }

    /// Options of a verified header that came in. What the reader adds to them (an address, a time) is in the answer's
    /// bytes, and belongs into the packet.
    ///
    /// # Errors
    /// The place of the first byte that is wrong, beside what was understood before it.
    pub fn from_packet(
        header: &[u8],
        reader: Reader,
        is_unicast: &dyn Fn(Ipv4Addr) -> bool,
    ) -> Result<Self, (OptionError, Self)> {
        let mut options = Self::NONE;
        let given = header.get(HEADER_LENGTH..).unwrap_or(&[]);
        for (place, byte) in options.bytes.iter_mut().zip(given) {
            *place = *byte;
        }
        options.length = u8::try_from(given.len().min(LONGEST)).unwrap_or(0);
        match options.compile(reader, is_unicast) {
            Ok(()) => Ok(options),
            Err(error) => Err((error, options)),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Bytes that they take in a header, a multiple of four.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.length)
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.len()).unwrap_or(&[])
    }

    /// Where packets with a source route go first, in place of their destination.
    #[must_use]
    pub const fn first_hop(&self) -> Option<Ipv4Addr> {
        if self.route.is_some() { Some(self.first_hop) } else { None }
    }

    /// A strict source route: the first hop must be a neighbour.
    #[must_use]
    pub const fn is_strict(&self) -> bool {
        self.route.is_some() && self.strict
    }

    /// Routers and hosts on the way are to look into the packet (RFC 2113).
    #[must_use]
    pub const fn is_router_alert(&self) -> bool {
        self.router_alert
    }

    /// What is left of a source route: the hops from the pointer on, and whether the last is cut off.
    #[must_use]
    pub fn hops_left(&self) -> Option<HopsLeft> {
        let at = usize::from(self.route?);
        let [length, pointer] = [1, 2].map(|offset| usize::from(self.byte(at + offset)));
        Some(HopsLeft { at, length, pointer })
    }

    /// One of the hops.
    #[must_use]
    pub fn hop(&self, place: &HopsLeft) -> Option<Ipv4Addr> {
        address_at(self.as_slice(), place.at + place.pointer - 1)
    }

    fn byte(&self, at: usize) -> u8 {
        self.bytes.get(at).copied().unwrap_or(0)
    }

    fn set_byte(&mut self, at: usize, value: u8) {
        if let Some(place) = self.bytes.get_mut(at) {
            *place = value;
        }
    }

    /// `__ip_options_compile`.
    //= REF C-09
    fn compile(&mut self, reader: Reader, is_unicast: &dyn Fn(Ipv4Addr) -> bool) -> Result<(), OptionError> {
        let end = self.len();
        let mut at = 0;
        while at < end {
            let kind = self.byte(at);
            if kind == END {
                // What follows is padding, whatever it was.
                if let Some(rest) = self.bytes.get_mut(at..end) {
                    rest.fill(END);
                }
                break;
            }
            if kind == NO_OPERATION {
                at += 1;
                continue;
            }
            if end - at < 2 {
                return Err(wrong(at));
            }
            let length = usize::from(self.byte(at + 1));
            if length < 2 || length > end - at {
                return Err(wrong(at));
            }
            Reading { options: self, reader, is_unicast }.one(kind, at, length)?;
            at += length;
        }
        Ok(())
    }

    /// The header's bytes for a packet to `destination`, sent from `source` at this time of day (`ip_options_build`).
    #[must_use]
    pub fn built(&self, source: Ipv4Addr, destination: Ipv4Addr, time: u32) -> Self {
        let mut built = *self;
        let pointer = |at: usize| usize::from(self.byte(at + 2));
        if let Some(at) = self.route.map(usize::from) {
            let length = usize::from(self.byte(at + 1));
            put(&mut built.bytes, at + length.saturating_sub(4), destination.octets());
        }
        if let Some(at) = self.record.map(usize::from).filter(|_| self.record_needs_address) {
            put(&mut built.bytes, at + pointer(at).saturating_sub(5), source.octets());
        }
        if let Some(at) = self.time.map(usize::from) {
            if self.time_needs_address {
                put(&mut built.bytes, at + pointer(at).saturating_sub(9), source.octets());
            }
            if self.time_needs_time {
                put(&mut built.bytes, at + pointer(at).saturating_sub(5), time.to_be_bytes());
            }
        }
        built
    }

    /// The options of the fragments after the first: those without the copy bit are blotted out
    /// (`ip_options_fragment`).
    //= REF N-01
    #[must_use]
    pub fn for_later_fragments(&self) -> Self {
        let mut copied = *self;
        let end = self.len();
        let mut at = 0;
        while at < end {
            let kind = self.byte(at);
            if kind == END {
                break;
            }
            if kind == NO_OPERATION {
                at += 1;
                continue;
            }
            let length = usize::from(self.byte(at + 1));
            if length < 2 || length > end - at {
                break;
            }
            if kind & COPIED == 0
                && let Some(option) = copied.bytes.get_mut(at..at + length)
            {
                option.fill(NO_OPERATION);
            }
            at += length;
        }
        copied
    }

    /// The options of an answer to a packet from `sender` with these (`__ip_options_echo`). `None`: it cannot be
    /// answered.
    #[must_use]
    pub fn echoed(&self, sender: Ipv4Addr, is_unicast: &dyn Fn(Ipv4Addr) -> bool) -> Option<Self> {
        let mut echo = Self::NONE;
        if let Some(at) = self.record.map(usize::from) {
            let copy = echo.append(self, at)?;
            let (length, pointer) = (self.byte(at + 1), self.byte(at + 2));
            echo.record = u8::try_from(copy).ok();
            if self.record_needs_address && pointer <= length {
                if pointer + 3 > length {
                    return None;
                }
                echo.set_byte(copy + 2, pointer + 4);
                echo.record_needs_address = true;
            }
        }
        if let Some(at) = self.time.map(usize::from) {
            echo.echo_time(self, at, is_unicast)?;
        }
        if let Some(at) = self.route.map(usize::from) {
            echo.reverse_route(self, at, sender);
        }
        echo.length = u8::try_from(echo.len().next_multiple_of(4)).ok()?;
        Some(echo)
    }

    /// Appends a copy of the option at `at` of another header; gives its place.
    fn append(&mut self, from: &Self, at: usize) -> Option<usize> {
        let length = usize::from(from.byte(at + 1));
        let option = from.bytes.get(at..at + length)?;
        let copy = self.len();
        self.bytes.get_mut(copy..copy + length)?.copy_from_slice(option);
        self.length = u8::try_from(copy + length).ok()?;
        Some(copy)
    }

    fn echo_time(&mut self, from: &Self, at: usize, is_unicast: &dyn Fn(Ipv4Addr) -> bool) -> Option<()> {
        let copy = self.append(from, at)?;
        let [length, mut pointer, flags] = [1, 2, 3].map(|offset| usize::from(from.byte(at + offset)));
        self.time = u8::try_from(copy).ok();
        if pointer > length {
            return Some(());
        }
        if from.time_needs_address {
            if pointer + 3 > length {
                return None;
            }
            self.time_needs_address = true;
            pointer += 4;
        }
        if from.time_needs_time {
            if pointer + 3 > length {
                return None;
            }
            if flags & 15 == usize::from(TIME_OF_NAMED) {
                let named = address_at(&from.bytes, at + pointer - 1);
                if pointer + 7 <= length && named.is_some_and(|named| !is_unicast(named)) {
                    self.time_needs_time = true;
                    pointer += 8;
                }
            } else {
                self.time_needs_time = true;
                pointer += 4;
            }
        }
        self.set_byte(copy + 2, u8::try_from(pointer).ok()?);
        Some(())
    }

    /// The way back: the hops that were passed, the last first.
    //= RFC 9293 §3.9.2.1 (MUST-53)
    fn reverse_route(&mut self, from: &Self, at: usize, sender: Ipv4Addr) {
        let [length, pointer] = [1, 2].map(|offset| usize::from(from.byte(at + offset)));
        let pointer = if pointer > length { length + 1 } else { pointer };
        let hop = |pointer: usize| address_at(&from.bytes, at + pointer - 1);
        // The pointer shows behind the last hop that was passed.
        let Some(mut pointer) = pointer.checked_sub(4).filter(|pointer| *pointer > 3) else { return };
        let Some(first) = hop(pointer) else { return };
        let copy = self.len();
        let mut filled = 4;
        pointer -= 4;
        while pointer > 3 {
            if let Some(hop) = hop(pointer) {
                put(&mut self.bytes, copy + filled - 1, hop.octets());
            }
            pointer -= 4;
            filled += 4;
        }
        // RFC 1812 wants illegal source routes set right: one that begins at the sender.
        if hop(pointer + 4) == Some(sender) {
            filled -= 4;
        }
        if filled > 3 {
            self.first_hop = first;
            self.set_byte(copy, from.byte(at));
            self.set_byte(copy + 1, u8::try_from(filled + 3).unwrap_or(0));
            self.set_byte(copy + 2, 4);
            self.route = u8::try_from(copy).ok();
            self.strict = from.strict;
            self.length = u8::try_from(copy + filled + 3).unwrap_or(0);
        }
        // What was written ahead and does not count is padding.
        let end = self.len();
        if let Some(rest) = self.bytes.get_mut(end..) {
            rest.fill(END);
        }
    }

    /// As a program would give them to send as these are sent (`ip_options_undo`).
    #[must_use]
    pub fn undone(&self) -> Self {
        let mut undone = *self;
        if let Some(at) = self.route.map(usize::from) {
            let length = usize::from(self.byte(at + 1));
            if length > 7 {
                undone.bytes.copy_within(at + 3..at + length - 4, at + 7);
            }
            put(&mut undone.bytes, at + 3, self.first_hop.octets());
        }
        let clear = |options: &mut Self, at: usize| {
            let pointer = options.byte(at + 2).saturating_sub(4);
            options.set_byte(at + 2, pointer);
            put(&mut options.bytes, at + usize::from(pointer).saturating_sub(1), [0; 4]);
        };
        if let Some(at) = self.record.map(usize::from).filter(|_| self.record_needs_address) {
            clear(&mut undone, at);
        }
        if let Some(at) = self.time.map(usize::from) {
            if self.time_needs_time {
                clear(&mut undone, at);
                if self.byte(at + 3) & 15 == TIME_OF_NAMED {
                    let pointer = undone.byte(at + 2).saturating_sub(4);
                    undone.set_byte(at + 2, pointer);
                }
            }
            if self.time_needs_address {
                clear(&mut undone, at);
            }
        }
        undone
    }
}

/// Where the pointer of a source route stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HopsLeft {
    /// Where in the bytes of the options the option begins.
    pub at: usize,
    /// Its length.
    pub length: usize,
    /// Its pointer, which counts from 1.
    pub pointer: usize,
}

impl Reading<'_> {
    fn one(&mut self, kind: u8, at: usize, length: usize) -> Result<(), OptionError> {
        match kind {
            LOOSE_ROUTE | STRICT_ROUTE => self.source_route(kind, at, length),
            RECORD_ROUTE => self.record_route(at, length),
            TIMESTAMP => self.timestamp(at, length),
            ROUTER_ALERT => {
                if length < 4 {
                    return Err(wrong(at + 1));
                }
                self.options.router_alert = self.options.byte(at + 2) == 0 && self.options.byte(at + 3) == 0;
                Ok(())
            }
            // `cipso_v4_validate`: no domain of interpretation is known here.
            COMMERCIAL_SECURITY if !matches!(self.reader, Reader::Packet(..)) => Err(wrong(at)),
            // Others pass without meaning, but not everybody may send them.
            _ if matches!(self.reader, Reader::Program(false)) => Err(wrong(at)),
            _ => Ok(()),
        }
    }

    fn source_route(&mut self, kind: u8, at: usize, length: usize) -> Result<(), OptionError> {
        let options = &mut *self.options;
        if length < 3 {
            return Err(wrong(at + 1));
        }
        if options.byte(at + 2) < 4 {
            return Err(wrong(at + 2));
        }
        //= RFC 1122 §3.2.1.8 (MUST-26)
        if options.route.is_some() {
            return Err(wrong(at));
        }
        if matches!(self.reader, Reader::Program(_)) {
            if options.byte(at + 2) != 4 || length < 7 || (length - 3) & 3 != 0 {
                return Err(wrong(at + 1));
            }
            // The first hop stands in the header's destination, and the destination behind the other hops.
            options.first_hop = address_at(&options.bytes, at + 3).unwrap_or(Ipv4Addr::UNSPECIFIED);
            if length > 7 {
                options.bytes.copy_within(at + 7..at + length, at + 3);
            }
        }
        options.strict = kind == STRICT_ROUTE;
        options.route = u8::try_from(at).ok();
        Ok(())
    }

    fn record_route(&mut self, at: usize, length: usize) -> Result<(), OptionError> {
        let options = &mut *self.options;
        if options.record.is_some() {
            return Err(wrong(at));
        }
        if length < 3 {
            return Err(wrong(at + 1));
        }
        let pointer = usize::from(options.byte(at + 2));
        if pointer < 4 {
            return Err(wrong(at + 2));
        }
        if pointer <= length {
            if pointer + 3 > length {
                return Err(wrong(at + 2));
            }
            if let Reader::Packet(own, _) = self.reader {
                put(&mut options.bytes, at + pointer - 1, own.octets());
            }
            options.set_byte(at + 2, u8::try_from(pointer + 4).unwrap_or(u8::MAX));
            options.record_needs_address = true;
        }
        options.record = u8::try_from(at).ok();
        Ok(())
    }

    fn timestamp(&mut self, at: usize, length: usize) -> Result<(), OptionError> {
        let options = &mut *self.options;
        if options.time.is_some() {
            return Err(wrong(at));
        }
        if length < 4 {
            return Err(wrong(at + 1));
        }
        let (pointer, flags) = (usize::from(options.byte(at + 2)), options.byte(at + 3));
        if pointer < 5 {
            return Err(wrong(at + 2));
        }
        let kind = flags & 15;
        if pointer <= length {
            let with_address = matches!(kind, TIME_AND_ADDRESS | TIME_OF_NAMED);
            if pointer + if with_address { 7 } else { 3 } > length {
                return Err(wrong(at + 2));
            }
            let packet = match self.reader {
                Reader::Packet(own, time) => Some((own, time)),
                Reader::Program(_) => None,
            };
            let mut time_at = None;
            match kind {
                TIME_ALONE => time_at = Some(at + pointer - 1),
                TIME_AND_ADDRESS => {
                    if let Some((own, _)) = packet {
                        put(&mut options.bytes, at + pointer - 1, own.octets());
                    }
                    options.time_needs_address = true;
                    time_at = Some(at + pointer + 3);
                }
                TIME_OF_NAMED => {
                    let named = address_at(&options.bytes, at + pointer - 1);
                    // Another host's place is for that host to fill.
                    if named.is_some_and(|named| !(self.is_unicast)(named)) {
                        time_at = Some(at + pointer + 3);
                    }
                }
                _ if matches!(self.reader, Reader::Program(false)) => return Err(wrong(at + 3)),
                _ => {}
            }
            if let Some(place) = time_at {
                options.time_needs_time = true;
                let step = if with_address { 8 } else { 4 };
                options.set_byte(at + 2, u8::try_from(pointer + step).unwrap_or(u8::MAX));
                if let Some((_, time)) = packet {
                    put(&mut options.bytes, place, time.to_be_bytes());
                }
            }
        } else if kind != TIME_OF_NAMED {
            if flags >> 4 == 15 {
                return Err(wrong(at + 3));
            }
            if matches!(self.reader, Reader::Packet(..)) {
                options.set_byte(at + 3, flags.wrapping_add(16));
            }
        }
        options.time = u8::try_from(at).ok();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    const OURS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const THEIRS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

    fn is_unicast(address: Ipv4Addr) -> bool {
        address != OURS && !address.is_loopback()
    }

    fn given(bytes: &[u8]) -> Result<IpOptions, OptionError> {
        IpOptions::from_program(bytes, true, &is_unicast)
    }

    fn received(bytes: &[u8]) -> Result<IpOptions, OptionError> {
        let mut header = alloc::vec![0; HEADER_LENGTH];
        header.extend_from_slice(bytes);
        IpOptions::from_packet(&header, Reader::Packet(OURS, 0x0102_0304), &is_unicast).map_err(|(error, _)| error)
    }

    #[test]
    fn options_are_read_to_the_byte_that_is_wrong() {
        assert!(received(&[1, 1, 0, 9]).unwrap().as_slice() == [1, 1, 0, 0]);
        assert!(received(&[0x94, 4, 0, 0]).unwrap().is_router_alert());
        assert_eq!(received(&[1, 1, 1, 0x83]), Err(OptionError { at: 23 }));
        assert_eq!(received(&[0x07, 9, 4, 0]), Err(OptionError { at: 20 }));
        assert_eq!(received(&[0x07, 1, 4, 0]), Err(OptionError { at: 20 }));
        assert_eq!(received(&[0x07, 3, 2, 0]), Err(OptionError { at: 22 }));
        assert_eq!(received(&[0x44, 4, 4, 0]), Err(OptionError { at: 22 }));
        assert_eq!(received(&[0x44, 4, 9, 0xf0]), Err(OptionError { at: 23 }));
        //= test RFC 1122 §3.2.1.8 (MUST-26)
        assert_eq!(received(&[0x83, 3, 4, 0x89, 3, 4, 0, 0]), Err(OptionError { at: 23 }));
        // An option that nobody knows.
        assert!(received(&[0x1e, 4, 0, 0]).is_ok());
    }

    #[test]
    //= test REF C-09
    fn a_program_without_the_right_may_send_the_plain_ones_only() {
        let plain = |bytes: &[u8]| IpOptions::from_program(bytes, false, &is_unicast).is_ok();
        assert!(plain(&[0x07, 7, 4, 0, 0, 0, 0]) && plain(&[0x94, 4, 0, 0]) && plain(&[0x44, 8, 5, 0, 0, 0, 0, 0]));
        assert!(!plain(&[0x88, 4, 0, 1]) && !plain(&[0x1e, 2]) && !plain(&[0x44, 8, 5, 2, 0, 0, 0, 0]));
        assert!(given(&[0x88, 4, 0, 1]).is_ok());
    }

    #[test]
    //= test REF C-09
    fn a_source_route_goes_to_its_first_hop_and_ends_at_the_destination() {
        let bytes = [0x83, 11, 4, 10, 0, 0, 7, 10, 0, 0, 8, 0];
        let options = given(&bytes).unwrap();
        assert_eq!(options.first_hop(), Some(Ipv4Addr::new(10, 0, 0, 7)));
        assert!(!options.is_strict());
        let built = options.built(OURS, THEIRS, 0);
        assert_eq!(built.as_slice(), [0x83, 11, 4, 10, 0, 0, 8, 10, 0, 0, 2, 0]);
        assert_eq!(options.undone().as_slice(), bytes);
    }

    #[test]
    //= test RFC 9293 §3.9.2.1 (MUST-53)
    fn a_route_that_was_passed_is_turned_round() {
        // From 10.0.0.2 by .8 and .9 to us; the pointer is behind both.
        let passed = received(&[0x89, 11, 12, 10, 0, 0, 8, 10, 0, 0, 9, 0]).unwrap();
        let back = passed.echoed(THEIRS, &is_unicast).unwrap();
        assert_eq!(back.first_hop(), Some(Ipv4Addr::new(10, 0, 0, 9)));
        assert!(back.is_strict());
        assert_eq!(back.built(OURS, THEIRS, 0).as_slice(), [0x89, 11, 4, 10, 0, 0, 8, 10, 0, 0, 2, 0][..].to_vec());
        assert_eq!(back.undone().as_slice().get(..11), Some(&[0x89, 11, 4, 10, 0, 0, 9, 10, 0, 0, 8][..]));
        // One that begins at its sender is set right; one that has not begun is none.
        let illegal = received(&[0x83, 11, 12, 10, 0, 0, 2, 10, 0, 0, 9, 0]).unwrap();
        let back = illegal.echoed(THEIRS, &is_unicast).unwrap();
        assert_eq!(back.as_slice().get(..2), Some(&[0x83, 7][..]));
        let idle = received(&[0x83, 7, 4, 10, 0, 0, 1, 0]).unwrap();
        assert!(idle.echoed(THEIRS, &is_unicast).unwrap().is_empty());
    }

    #[test]
    //= test REF C-09
    fn addresses_and_times_are_filled_in_here_and_on_the_way_back() {
        let route = received(&[0x07, 15, 8, 10, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
        assert_eq!(route.as_slice().get(2..11), Some(&[12, 10, 0, 0, 2, 10, 0, 0, 1][..]));
        let back = route.echoed(THEIRS, &is_unicast).unwrap().built(OURS, THEIRS, 0);
        assert_eq!(back.as_slice().get(2..15), Some(&[16, 10, 0, 0, 2, 10, 0, 0, 1, 10, 0, 0, 1][..]));
        let times = received(&[0x44, 20, 5, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
        assert_eq!(times.as_slice().get(2..12), Some(&[13, 1, 10, 0, 0, 1, 1, 2, 3, 4][..]));
        let back = times.echoed(THEIRS, &is_unicast).unwrap().built(OURS, THEIRS, 5);
        assert_eq!(back.as_slice().get(12..20), Some(&[10, 0, 0, 1, 0, 0, 0, 5][..]));
        // Places of others are for others to fill.
        let named = received(&[0x44, 12, 5, 3, 10, 0, 0, 9, 0, 0, 0, 0]).unwrap();
        assert_eq!(named.as_slice().get(2..12), Some(&[5, 3, 10, 0, 0, 9, 0, 0, 0, 0][..]));
        let ours = received(&[0x44, 12, 5, 3, 10, 0, 0, 1, 0, 0, 0, 0]).unwrap();
        assert_eq!(ours.as_slice().get(2..12), Some(&[13, 3, 10, 0, 0, 1, 1, 2, 3, 4][..]));
        // Who finds no place counts itself.
        assert_eq!(received(&[0x44, 4, 5, 0]).unwrap().as_slice(), [0x44, 4, 5, 0x10]);
    }

    #[test]
    //= test REF N-01
    fn only_options_with_the_copy_bit_are_in_later_fragments() {
        let bytes = [0x07, 7, 4, 0, 0, 0, 0, 0x94, 4, 0, 0, 0];
        let later = given(&bytes).unwrap().for_later_fragments();
        assert_eq!(later.as_slice(), [1, 1, 1, 1, 1, 1, 1, 0x94, 4, 0, 0, 0]);
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let mut state = 1_u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        };
        let kinds = [0, 1, 7, 0x44, 0x83, 0x89, 0x94, 0x86, 0xff];
        for round in 0..20_000_u32 {
            let mut bytes: Vec<u8> = (0..40).map(|_| random() % 48).collect();
            for at in [0, 8, 20] {
                bytes[at] = kinds[usize::from(random()) % kinds.len()];
                bytes[at + 3] = random() % 5;
            }
            bytes.truncate(usize::try_from(round % 11).unwrap() * 4);
            for options in [received(&bytes), given(&bytes)].into_iter().flatten() {
                let _ = (options.undone(), options.built(OURS, THEIRS, 1), options.for_later_fragments());
                if let Some(echo) = options.echoed(THEIRS, &is_unicast) {
                    assert!(echo.len() <= LONGEST);
                    let _ = (echo.undone(), echo.built(OURS, THEIRS, 1));
                }
            }
        }
    }
}
