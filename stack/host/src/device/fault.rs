//! Fault injection for tests: a device that loses, doubles, reorders and damages frames at given rates, repeatably from a
//! seed. Delays and rates are left to the virtual network.

use super::{Device, DeviceError, DeviceStatistics, Scope, TransmitError};
use crate::sys::Fd;
use remora_stack::frame::{DeviceCapabilities, RxMeta, Transmit};
use std::collections::VecDeque;

/// How often in a thousand frames; each direction draws for itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultRates {
    /// Lost.
    pub drop: u16,
    /// Delivered twice.
    pub duplicate: u16,
    /// Delivered after the next one.
    pub reorder: u16,
    /// With one bit turned.
    pub corrupt: u16,
}

/// What was done to frames so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Frames lost.
    pub dropped: u64,
    /// Frames delivered twice.
    pub duplicated: u64,
    /// Frames delivered late.
    pub reordered: u64,
    /// Frames damaged.
    pub corrupted: u64,
}

/// What happens to one frame.
#[derive(Clone, Copy, Debug, Default)]
struct Fate {
    drop: bool,
    duplicate: bool,
    reorder: bool,
    corrupt: Option<u64>,
}

/// A device with faults.
#[derive(Debug)]
pub struct FaultDevice<D> {
    inner: D,
    rates: FaultRates,
    state: u64,
    counts: FaultCounts,
    /// Received, and to be handed over next.
    due: VecDeque<(Vec<u8>, RxMeta)>,
    /// Received, and to be handed over after the next one.
    late: Option<(Vec<u8>, RxMeta)>,
    /// To be sent after the next one.
    held: Option<Vec<u8>>,
}

impl<D: Device> FaultDevice<D> {
    /// Puts faults in front of `inner`.
    pub const fn new(inner: D, rates: FaultRates, seed: u64) -> Self {
        let counts = FaultCounts { dropped: 0, duplicated: 0, reordered: 0, corrupted: 0 };
        Self { inner, rates, state: seed, counts, due: VecDeque::new(), late: None, held: None }
    }

    /// The device behind.
    pub const fn inner(&mut self) -> &mut D {
        &mut self.inner
    }

    /// What was done so far.
    #[must_use]
    pub const fn counts(&self) -> FaultCounts {
        self.counts
    }

    /// SplitMix64 (Steele, Lea, Flood 2014).
    const fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn happens(&mut self, rate: u16) -> bool {
        self.draw() % 1000 < u64::from(rate)
    }

    /// Draws and counts. A lost frame suffers nothing else.
    fn fate(&mut self) -> Fate {
        let rates = self.rates;
        if self.happens(rates.drop) {
            self.counts.dropped += 1;
            return Fate { drop: true, ..Fate::default() };
        }
        let duplicate = self.happens(rates.duplicate);
        let reorder = self.happens(rates.reorder);
        let corrupt = self.happens(rates.corrupt).then(|| self.draw());
        self.counts.duplicated += u64::from(duplicate);
        self.counts.reordered += u64::from(reorder);
        self.counts.corrupted += u64::from(corrupt.is_some());
        Fate { drop: false, duplicate, reorder, corrupt }
    }

    fn send_whole(&mut self, bytes: &[u8], like: Option<&Transmit<'_>>) -> Result<(), TransmitError> {
        let plain = Transmit {
            header: bytes,
            payload: [&[]; remora_stack::frame::MAX_PAYLOAD_SLICES],
            checksum: like.and_then(|frame| frame.checksum),
            gso_size: 0,
            purpose: like.map(|frame| frame.purpose).unwrap_or_default(),
        };
        self.inner.transmit(&plain)
    }

    /// Sends what was held back; lost if there is no room, as faults may be.
    fn release(&mut self) {
        if let Some(bytes) = self.held.take() {
            let _ = self.send_whole(&bytes, None);
        }
    }
}

fn turn_a_bit(bytes: &mut [u8], chance: u64) {
    let bits = bytes.len() as u64 * 8;
    if let Some(bit) = chance.checked_rem(bits)
        && let Some(byte) = bytes.get_mut((bit / 8) as usize)
    {
        *byte ^= 1 << (bit % 8);
    }
}

impl<D: Device> Device for FaultDevice<D> {
    /// Without offloads: faults apply to frames as they are on the wire.
    fn capabilities(&self) -> DeviceCapabilities {
        DeviceCapabilities { gso_max: 0, checksum_tx: false, ..self.inner.capabilities() }
    }

    fn receive(&mut self, buffer: &mut Vec<u8>) -> Result<Option<RxMeta>, DeviceError> {
        self.release();
        loop {
            if let Some((bytes, meta)) = self.due.pop_front() {
                buffer.clear();
                buffer.extend_from_slice(&bytes);
                return Ok(Some(meta));
            }
            let Some(meta) = self.inner.receive(buffer)? else {
                // Nothing comes after the late one now: it must not wait for ever.
                match self.late.take() {
                    Some(frame) => self.due.push_back(frame),
                    None => return Ok(None),
                }
                continue;
            };
            let fate = self.fate();
            if fate.drop {
                continue;
            }
            let mut bytes = std::mem::take(buffer);
            if let Some(chance) = fate.corrupt {
                turn_a_bit(&mut bytes, chance);
            }
            if fate.duplicate {
                self.due.push_back((bytes.clone(), meta));
            }
            if fate.reorder && self.late.is_none() {
                self.late = Some((bytes, meta));
            } else {
                self.due.push_back((bytes, meta));
                self.due.extend(self.late.take());
            }
        }
    }

    fn transmit(&mut self, frame: &Transmit<'_>) -> Result<(), TransmitError> {
        let fate = self.fate();
        if fate.drop {
            return Ok(());
        }
        let mut bytes = frame.to_vec();
        if let Some(request) = frame.checksum {
            super::offload::complete(&mut bytes, request);
        }
        if let Some(chance) = fate.corrupt {
            turn_a_bit(&mut bytes, chance);
        }
        if fate.reorder && self.held.is_none() {
            self.held = Some(bytes);
            return Ok(());
        }
        let complete = Transmit { checksum: None, ..*frame };
        self.send_whole(&bytes, Some(&complete))?;
        if fate.duplicate {
            let _ = self.send_whole(&bytes, Some(&complete));
        }
        self.release();
        Ok(())
    }

    fn fd(&self) -> Fd {
        self.inner.fd()
    }

    fn has_frames(&self) -> bool {
        !self.due.is_empty() || self.inner.has_frames()
    }

    fn statistics(&mut self) -> DeviceStatistics {
        self.inner.statistics()
    }

    fn set_scope(&mut self, scope: &Scope) -> Result<(), DeviceError> {
        self.inner.set_scope(scope)
    }

    fn refresh(&mut self) -> Result<DeviceCapabilities, DeviceError> {
        self.inner.refresh().map(|_| self.capabilities())
    }

    fn close(&mut self) {
        self.inner.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::testlab::{Memory, plain};

    fn pass(rates: FaultRates, seed: u64, count: u16) -> (Vec<Vec<u8>>, FaultCounts) {
        let mut device = FaultDevice::new(Memory::default(), rates, seed);
        for number in 0..count {
            device.transmit(&plain(&number.to_be_bytes())).unwrap();
        }
        device.rates = FaultRates::default();
        let mut buffer = Vec::new();
        let mut arrived = Vec::new();
        while device.receive(&mut buffer).unwrap().is_some() {
            arrived.push(buffer.clone());
        }
        (arrived, device.counts())
    }

    #[test]
    fn without_faults_everything_passes_in_order() {
        let (arrived, counts) = pass(FaultRates::default(), 1, 100);
        let expected: Vec<Vec<u8>> = (0..100u16).map(|number| number.to_be_bytes().to_vec()).collect();
        assert_eq!((arrived, counts), (expected, FaultCounts::default()));
    }

    #[test]
    fn rates_are_kept_and_repeatable_from_the_seed() {
        let rates = FaultRates { drop: 100, duplicate: 50, reorder: 50, corrupt: 20 };
        let (arrived, counts) = pass(rates, 42, 10_000);
        assert_eq!((arrived.clone(), counts), pass(rates, 42, 10_000));
        assert_ne!(arrived, pass(rates, 43, 10_000).0);
        assert!((800..1200).contains(&counts.dropped), "{counts:?}");
        assert!((300..600).contains(&counts.duplicated), "{counts:?}");
        assert!((300..600).contains(&counts.reordered), "{counts:?}");
        assert!((100..300).contains(&counts.corrupted), "{counts:?}");
        // A frame held back is sent once even if it was to be doubled.
        let length = arrived.len() as u64;
        assert!(length <= 10_000 - counts.dropped + counts.duplicated);
        assert!(length >= 10_000 - counts.dropped);
    }

    #[test]
    fn late_frames_arrive_even_when_nothing_follows() {
        let all_late = FaultRates { reorder: 1000, ..FaultRates::default() };
        let mut device = FaultDevice::new(Memory::default(), all_late, 7);
        device.inner().transmit(&plain(b"1")).unwrap();
        device.inner().transmit(&plain(b"2")).unwrap();
        let mut buffer = Vec::new();
        assert!(device.receive(&mut buffer).unwrap().is_some());
        assert_eq!(buffer, b"2");
        assert!(device.receive(&mut buffer).unwrap().is_some());
        assert_eq!(buffer, b"1");
        assert_eq!(device.receive(&mut buffer), Ok(None));
        device.transmit(&plain(b"held")).unwrap();
        assert!(device.receive(&mut buffer).unwrap().is_some(), "sent and come back");
        assert_eq!(buffer, b"held");
    }
}
