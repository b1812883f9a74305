//! Reads pcapng (draft-ietf-opsawg-pcapng) as far as our own captures use it: sections of either byte order, interface
//! descriptions with a time resolution, enhanced packet blocks with a direction. Other blocks are passed over.

/// One captured frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    /// Nanoseconds since 1970.
    pub time: u64,
    /// Whether it was sent by us; `None` when the capture does not say.
    pub outbound: Option<bool>,
    /// Whether it begins with an Ethernet header; else it is bare IP.
    pub ethernet: bool,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const ENHANCED_PACKET: u32 = 6;
const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
const ETHERNET: u16 = 1;
const IF_TIME_RESOLUTION: u16 = 9;
const EPB_FLAGS: u16 = 2;
const NANOSECONDS: u64 = 1_000_000_000;

#[derive(Clone, Copy)]
struct Order {
    big: bool,
}

impl Order {
    fn word16(self, bytes: &[u8], at: usize) -> Option<u16> {
        let word = bytes.get(at..)?.first_chunk().copied()?;
        Some(if self.big { u16::from_be_bytes(word) } else { u16::from_le_bytes(word) })
    }

    fn word32(self, bytes: &[u8], at: usize) -> Option<u32> {
        let word = bytes.get(at..)?.first_chunk().copied()?;
        Some(if self.big { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) })
    }

    /// The value of an option in a list of them.
    fn option(self, mut list: &[u8], wanted: u16) -> Option<&[u8]> {
        loop {
            let code = self.word16(list, 0)?;
            let length = usize::from(self.word16(list, 2)?);
            if code == 0 {
                return None;
            }
            let value = list.get(4..)?.get(..length)?;
            if code == wanted {
                return Some(value);
            }
            list = list.get(4 + length.next_multiple_of(4)..)?;
        }
    }
}

/// What an interface description says.
#[derive(Clone, Copy)]
struct Interface {
    ethernet: bool,
    /// Ticks per second.
    resolution: u64,
}

/// All frames up to the end, or to the first damage: a capture may end within a block.
pub fn read(mut bytes: &[u8]) -> Vec<Captured> {
    let mut frames = Vec::new();
    let mut order = Order { big: cfg!(target_endian = "big") };
    let mut interfaces: Vec<Interface> = Vec::new();
    while let Some(kind) = order.word32(bytes, 0) {
        // The section header's type reads the same in both orders.
        if kind == SECTION_HEADER {
            let Some(magic) = (Order { big: true }).word32(bytes, 8) else { break };
            order = Order { big: magic == BYTE_ORDER_MAGIC };
            interfaces.clear();
        }
        let Some(length) = order.word32(bytes, 4).map(|length| length as usize) else { break };
        if length < 12 || length % 4 != 0 {
            break;
        }
        let (Some(body), Some(rest)) = (bytes.get(8..length - 4), bytes.get(length..)) else { break };
        bytes = rest;
        match kind {
            INTERFACE_DESCRIPTION => interfaces.extend(describe(order, body)),
            ENHANCED_PACKET => frames.extend(packet(order, body, &interfaces)),
            _ => {}
        }
    }
    frames
}

fn describe(order: Order, body: &[u8]) -> Option<Interface> {
    let exponent = order.option(body.get(8..)?, IF_TIME_RESOLUTION).and_then(|value| value.first().copied());
    let resolution = match exponent {
        Some(power) if power & 0x80 != 0 => 1u64.checked_shl(u32::from(power & 0x7f)),
        Some(power) => 10u64.checked_pow(u32::from(power)),
        None => Some(1_000_000),
    };
    Some(Interface { ethernet: order.word16(body, 0)? == ETHERNET, resolution: resolution? })
}

fn packet(order: Order, body: &[u8], interfaces: &[Interface]) -> Option<Captured> {
    let interface = interfaces.get(order.word32(body, 0)? as usize)?;
    let ticks = u64::from(order.word32(body, 4)?) << 32 | u64::from(order.word32(body, 8)?);
    let time = u128::from(ticks) * u128::from(NANOSECONDS) / u128::from(interface.resolution);
    let captured = order.word32(body, 12)? as usize;
    let frame = body.get(20..)?.get(..captured)?;
    let flags = body
        .get(20 + captured.next_multiple_of(4)..)
        .and_then(|options| order.option(options, EPB_FLAGS))
        .and_then(|value| order.word32(value, 0));
    let outbound = match flags.map(|flags| flags & 3) {
        Some(1) => Some(false),
        Some(2) => Some(true),
        _ => None,
    };
    Some(Captured { time: u64::try_from(time).ok()?, outbound, ethernet: interface.ethernet, bytes: frame.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(kind: u32, body: &[u8], big: bool) -> Vec<u8> {
        let word = |word: u32| if big { word.to_be_bytes() } else { word.to_le_bytes() };
        let length = word(body.len() as u32 + 12);
        [&word(kind)[..], &length, body, &length].concat()
    }

    fn capture(big: bool) -> Vec<u8> {
        let word = |word: u32| if big { word.to_be_bytes() } else { word.to_le_bytes() };
        let half = |half: u16| if big { half.to_be_bytes() } else { half.to_le_bytes() };
        let section = [&word(BYTE_ORDER_MAGIC)[..], &[0; 12]].concat();
        let interface = [&half(1)[..], &[0; 6], &half(9), &half(1), &[9, 0, 0, 0], &half(0), &half(0)].concat();
        let packet = [
            &word(0)[..],
            &word(1),
            &word(5),
            &word(3),
            &word(3),
            &[0xaa, 0xbb, 0xcc, 0],
            &half(2),
            &half(4),
            &word(2),
            &half(0),
            &half(0),
        ]
        .concat();
        [block(SECTION_HEADER, &section, big), block(INTERFACE_DESCRIPTION, &interface, big), block(9, &[0; 8], big)]
            .into_iter()
            .chain([block(ENHANCED_PACKET, &packet, big)])
            .flatten()
            .collect()
    }

    #[test]
    fn both_byte_orders_are_read() {
        for big in [false, true] {
            let frame =
                Captured { time: (1 << 32) + 5, outbound: Some(true), ethernet: true, bytes: vec![0xaa, 0xbb, 0xcc] };
            assert_eq!(read(&capture(big)), [frame]);
        }
    }

    #[test]
    fn several_sections_follow_each_other() {
        assert_eq!(read(&[capture(false), capture(true)].concat()).len(), 2);
    }

    #[test]
    fn a_capture_cut_anywhere_gives_what_is_whole() {
        let whole = capture(false);
        for length in 0..whole.len() {
            assert!(read(&whole[..length]).is_empty());
        }
        let mut wild = whole;
        for at in 0..wild.len() {
            wild[at] ^= 0xff;
            let _ = read(&wild);
            wild[at] ^= 0xff;
        }
    }
}
