//! Dice: one seeded stream of random numbers per direction and purpose, so that turning one impairment on leaves the
//! decisions of the others as they were, and so does what happens in the other direction.

use remora_stack::random::{Random, Secret};

/// What a stream is for; its number is part of the stream's key.
#[derive(Clone, Copy, Debug)]
pub enum Purpose {
    /// Loss of single packets.
    Loss = 1,
    /// The chain behind loss in bursts.
    Burst = 2,
    /// Jitter.
    Jitter = 3,
    /// Holding back.
    Reorder = 4,
    /// Duplication.
    Duplicate = 5,
    /// Corruption: whether, and which bit.
    Corrupt = 6,
}

/// One stream.
#[derive(Clone, Debug)]
pub struct Dice {
    random: Random,
}

/// Random bits that a decision uses: as many as a float holds exactly.
const BITS: u32 = 53;

impl Dice {
    /// The stream for `purpose` in direction number `direction`.
    #[must_use]
    pub fn new(seed: u64, direction: u64, purpose: Purpose) -> Self {
        let mut secret: Secret = [0; 32];
        let words = [seed, direction, purpose as u64, seed.rotate_left(29) ^ (purpose as u64) << 8 ^ direction];
        for (place, word) in secret.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        Self { random: Random::new(secret) }
    }

    /// Whether something of this probability (0 to 1) happens. No number is drawn for what never happens.
    pub fn happens(&mut self, probability: f64) -> bool {
        if probability <= 0.0 {
            return false;
        }
        let drawn = self.random.next() >> (u64::BITS - BITS);
        (drawn as f64) < probability * (1_u64 << BITS) as f64
    }

    /// A number in `0..limit`; 0 when `limit` is 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        // Multiply-shift; the product of two 64-bit numbers has 128 bits, its upper half fits.
        u64::try_from((u128::from(self.random.next()) * u128::from(limit)) >> 64).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(mut dice: Dice) -> Vec<u64> {
        (0..8).map(|_| dice.below(1_000_000)).collect()
    }

    #[test]
    fn a_seed_repeats_itself_and_streams_differ() {
        let first = draws(Dice::new(7, 0, Purpose::Loss));
        assert_eq!(first, draws(Dice::new(7, 0, Purpose::Loss)));
        for other in [Dice::new(8, 0, Purpose::Loss), Dice::new(7, 1, Purpose::Loss), Dice::new(7, 0, Purpose::Jitter)]
        {
            assert_ne!(first, draws(other));
        }
    }

    #[test]
    fn certain_and_impossible_things() {
        let mut dice = Dice::new(1, 0, Purpose::Loss);
        assert!((0..10_000).all(|_| dice.happens(1.0)));
        assert!((0..10_000).all(|_| !dice.happens(0.0)));
        assert_eq!(dice.below(0), 0);
        assert!((0..10_000).all(|_| dice.below(3) < 3));
    }
}
