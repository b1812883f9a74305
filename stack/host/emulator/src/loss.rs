//! Which packets are lost: each for itself, and in bursts by the chain of Gilbert and Elliott.

use crate::chance::{Dice, Purpose};
use crate::impairments::{Burst, Impairments};

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes on.
    Kept,
    /// It was lost by itself.
    LostAlone,
    /// It was lost in a burst.
    LostInBurst,
}

/// Decides on one packet after the other.
#[derive(Clone, Debug)]
pub struct Loss {
    alone: f64,
    alone_dice: Dice,
    burst: Option<Burst>,
    burst_dice: Dice,
    bad: bool,
}

impl Loss {
    /// For one direction.
    #[must_use]
    pub fn new(settings: &Impairments, seed: u64, direction: u64) -> Self {
        Self {
            alone: settings.loss,
            alone_dice: Dice::new(seed, direction, Purpose::Loss),
            burst: settings.burst,
            burst_dice: Dice::new(seed, direction, Purpose::Burst),
            bad: false,
        }
    }

    /// The fate of the next packet. Both models draw for every packet, so that neither shifts the other's stream.
    pub fn decide(&mut self) -> Fate {
        let alone = self.alone_dice.happens(self.alone);
        let in_burst = self.burst.is_some_and(|burst| self.step(burst));
        match (in_burst, alone) {
            (true, _) => Fate::LostInBurst,
            (false, true) => Fate::LostAlone,
            (false, false) => Fate::Kept,
        }
    }

    /// Moves the chain, then asks the state it is in.
    fn step(&mut self, burst: Burst) -> bool {
        if self.burst_dice.happens(if self.bad { burst.to_good } else { burst.to_bad }) {
            self.bad = !self.bad;
        }
        self.burst_dice.happens(if self.bad { burst.loss_in_bad } else { burst.loss_in_good })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKETS: u32 = 200_000;

    fn fates(text: &str, seed: u64) -> Vec<Fate> {
        let mut loss = Loss::new(&Impairments::parse([text]).unwrap(), seed, 0);
        (0..PACKETS).map(|_| loss.decide()).collect()
    }

    fn share(fates: &[Fate], wanted: Fate) -> f64 {
        fates.iter().filter(|fate| **fate == wanted).count() as f64 / fates.len() as f64
    }

    /// Lengths of the runs of lost packets.
    fn bursts(fates: &[Fate]) -> Vec<usize> {
        fates.split(|fate| *fate == Fate::Kept).map(<[Fate]>::len).filter(|length| *length > 0).collect()
    }

    #[test]
    fn single_loss_has_the_share_that_was_asked_for() {
        for (text, expected) in [("loss=0.1%", 0.001), ("loss=1%", 0.01), ("loss=30%", 0.3)] {
            let share = share(&fates(text, 42), Fate::LostAlone);
            // Six standard deviations of a binomial distribution; the seed is fixed besides.
            let margin = 6.0 * (expected * (1.0 - expected) / f64::from(PACKETS)).sqrt();
            assert!((share - expected).abs() < margin, "{text}: {share}");
        }
    }

    #[test]
    fn bursts_have_the_length_and_the_share_of_the_chain() {
        // Share of the bad state: p / (p + r); mean stay: 1 / r.
        let fates = fates("burst=1%/25%", 42);
        let share = share(&fates, Fate::LostInBurst);
        assert!((share - 0.01 / 0.26).abs() < 0.004, "{share}");
        let bursts = bursts(&fates);
        let mean = bursts.iter().sum::<usize>() as f64 / bursts.len() as f64;
        assert!((mean - 4.0).abs() < 0.3, "{mean}");
        // Geometric: a quarter of the bursts ends after its first packet.
        let single = bursts.iter().filter(|length| **length == 1).count() as f64 / bursts.len() as f64;
        assert!((single - 0.25).abs() < 0.04, "{single}");
    }

    #[test]
    fn the_good_state_may_lose_and_the_bad_one_keep() {
        let fates = fates("burst=50%/50%/20%/10%", 9);
        let share = share(&fates, Fate::LostInBurst);
        assert!((share - 0.15).abs() < 0.01, "{share}");
    }

    #[test]
    fn a_seed_repeats_itself_and_models_do_not_disturb_each_other() {
        assert_eq!(fates("loss=5%,burst=1%/25%", 3), fates("loss=5%,burst=1%/25%", 3));
        assert_ne!(fates("loss=5%", 3), fates("loss=5%", 4));
        let both = fates("loss=5%,burst=1%/25%", 3);
        let burst = fates("burst=1%/25%", 3);
        for (both, burst) in both.iter().zip(burst) {
            assert_eq!(*both == Fate::LostInBurst, burst == Fate::LostInBurst);
        }
    }
}
