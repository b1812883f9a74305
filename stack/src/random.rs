//! Randomness handed in by the host: one 256-bit secret at the start, from which keyed hashes and a stream of
//! random numbers come. The core never asks an operating system for any.

use core::hash::Hasher;
use siphasher::sip::{SipHasher13, SipHasher24};

/// 256 bits from the host's random number generator.
pub type Secret = [u8; 32];

/// Keyed hashes and random numbers of one stack.
#[derive(Clone, Debug)]
pub struct Random {
    hash_key: [u8; 16],
    stream_key: [u8; 16],
    count: u64,
}

impl Random {
    /// From the host's secret.
    #[must_use]
    pub fn new(secret: Secret) -> Self {
        let mut hash_key = [0; 16];
        let mut stream_key = [0; 16];
        hash_key.copy_from_slice(&secret[..16]);
        stream_key.copy_from_slice(&secret[16..]);
        Self { hash_key, stream_key, count: 0 }
    }

    /// A keyed hash (SipHash-2-4) of `input`, in the domain `purpose` so that two uses never give the same.
    #[must_use]
    pub fn keyed(&self, purpose: u64, input: &[u8]) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.hash_key);
        hasher.write_u64(purpose);
        hasher.write(input);
        hasher.finish()
    }

    /// The next random number of the stream.
    // An endless stream behind `&mut self`; an iterator's Option would only be in the way.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> u64 {
        self.count = self.count.wrapping_add(1);
        let mut hasher = SipHasher13::new_with_key(&self.stream_key);
        hasher.write_u64(self.count);
        hasher.finish()
    }

    /// A random number in `0..limit`; 0 when `limit` is 0.
    pub fn below(&mut self, limit: u32) -> u32 {
        // Multiply-shift: the bias is at most limit / 2^32, which no use here can notice.
        let scaled = (self.next() >> 32).wrapping_mul(u64::from(limit)) >> 32;
        u32::try_from(scaled).unwrap_or(0)
    }
}
