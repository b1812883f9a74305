//! What a direction of the link does to its packets, and how that is written: `rate=20mbit,delay=20ms,loss=1%`.
//! The quantities themselves are left to `units`, their effect to `model`.

use crate::units::{self, Size};
use std::time::Duration;

/// Packets that wait at most when a rate is given and no limit: Linux's default for a device (txqueuelen) and for its
/// own emulator.
const DEFAULT_LIMIT: u64 = 1000;

/// How far a reordered packet is held back unless said otherwise: some packets' time at a few tens of Mbit/s.
const DEFAULT_HOLD: Duration = Duration::from_millis(5);

/// Loss in bursts (Gilbert 1960, Elliott 1963): a chain of two states with a loss probability each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Burst {
    /// Probability, per packet, to go from good to bad.
    pub to_bad: f64,
    /// Probability, per packet, to go from bad to good; its inverse is the mean length of a burst.
    pub to_good: f64,
    /// Probability to lose a packet while bad.
    pub loss_in_bad: f64,
    /// Probability to lose a packet while good.
    pub loss_in_good: f64,
}

/// The impairments of one direction.
#[derive(Clone, Debug, PartialEq)]
pub struct Impairments {
    /// Bits per second; `None` for a link without a bottleneck.
    pub rate: Option<u64>,
    /// Bytes that each packet takes on the link beside its own.
    pub overhead: u64,
    /// Packets that wait for the link at most.
    pub limit_packets: Option<u64>,
    /// Bytes that wait for the link at most.
    pub limit_bytes: Option<u64>,
    /// A longer queue than this marks packets of ECN-capable senders (RFC 3168 §5).
    pub ecn: Option<Size>,
    /// One-way delay, beside waiting and sending.
    pub delay: Duration,
    /// The delay varies evenly by so much in either direction.
    pub jitter: Duration,
    /// Whether jitter may let a packet overtake another.
    pub free_order: bool,
    /// Probability that a packet is lost, each for itself.
    pub loss: f64,
    /// Loss in bursts.
    pub burst: Option<Burst>,
    /// Probability that a packet is held back, so that later ones overtake it.
    pub reorder: f64,
    /// For how long.
    pub hold: Duration,
    /// Probability that a packet arrives twice.
    pub duplicate: f64,
    /// Probability that one bit of a packet, behind its link header, is turned over.
    pub corrupt: f64,
}

impl Default for Impairments {
    fn default() -> Self {
        Self {
            rate: None,
            overhead: 0,
            limit_packets: Some(DEFAULT_LIMIT),
            limit_bytes: None,
            ecn: None,
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            free_order: false,
            loss: 0.0,
            burst: None,
            reorder: 0.0,
            hold: DEFAULT_HOLD,
            duplicate: 0.0,
            corrupt: 0.0,
        }
    }
}

impl Impairments {
    /// From the option texts of a direction; a later setting of one key takes the place of an earlier one.
    ///
    /// # Errors
    /// A line that says which setting is wrong, and why.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut settings = Self::default();
        for text in texts {
            let mut limited = false;
            for setting in text.split(',').map(str::trim).filter(|setting| !setting.is_empty()) {
                settings.apply(setting, &mut limited).map_err(|reason| format!("{setting:?}: {reason}"))?;
            }
        }
        settings.check()?;
        Ok(settings)
    }

    /// `limited` says whether the same text has set a limit already: packets and bytes may stand side by side.
    fn apply(&mut self, setting: &str, limited: &mut bool) -> Result<(), String> {
        let (key, value) = setting.split_once('=').unwrap_or((setting, ""));
        match key.trim() {
            "rate" => self.rate = Some(units::rate(value)?),
            "overhead" => self.overhead = bytes_of(units::size(value)?)?,
            "limit" => {
                if !std::mem::replace(limited, true) {
                    (self.limit_packets, self.limit_bytes) = (None, None);
                }
                match units::size(value)? {
                    Size::Packets(count) => self.limit_packets = Some(count),
                    Size::Bytes(count) => self.limit_bytes = Some(count),
                }
            }
            "ecn" => self.ecn = Some(units::size(value)?),
            "delay" => self.delay = units::span(value)?,
            "jitter" => self.jitter = units::span(value)?,
            "order" => {
                self.free_order = match value {
                    "keep" => false,
                    "free" => true,
                    _ => return Err("allowed are keep and free".to_owned()),
                }
            }
            "loss" => self.loss = units::chance(value)?,
            "burst" => self.burst = Some(burst(value)?),
            "reorder" => {
                let (chance, hold) = value.split_once('/').unwrap_or((value, ""));
                self.reorder = units::chance(chance)?;
                self.hold = if hold.is_empty() { DEFAULT_HOLD } else { units::span(hold)? };
            }
            "duplicate" => self.duplicate = units::chance(value)?,
            "corrupt" => self.corrupt = units::chance(value)?,
            _ => {
                return Err(
                    "no such setting; there are rate, overhead, limit, ecn, delay, jitter, order, loss, burst, \
                            reorder, duplicate and corrupt"
                        .to_owned(),
                );
            }
        }
        Ok(())
    }

    /// What is wrong only in combination.
    fn check(&self) -> Result<(), String> {
        if self.jitter > self.delay {
            return Err("jitter must not be larger than delay: nothing arrives before it was sent".to_owned());
        }
        if self.rate.is_none() && (self.ecn.is_some() || self.limit_bytes.is_some()) {
            return Err("limit and ecn need a rate: without one there is no queue".to_owned());
        }
        Ok(())
    }
}

fn bytes_of(size: Size) -> Result<u64, String> {
    match size {
        Size::Bytes(count) => Ok(count),
        Size::Packets(_) => Err("bytes are asked for, like 24b".to_owned()),
    }
}

/// `P/R`, `P/R/BAD` or `P/R/BAD/GOOD`.
fn burst(text: &str) -> Result<Burst, String> {
    let parts = text.split('/').map(units::chance).collect::<Result<Vec<f64>, String>>()?;
    let (to_bad, to_good, loss_in_bad, loss_in_good) = match *parts {
        [to_bad, to_good] => (to_bad, to_good, 1.0, 0.0),
        [to_bad, to_good, bad] => (to_bad, to_good, bad, 0.0),
        [to_bad, to_good, bad, good] => (to_bad, to_good, bad, good),
        _ => return Err("write it like 0.3%/25%: to the bad state, back to the good one".to_owned()),
    };
    if to_good == 0.0 && to_bad > 0.0 {
        return Err("with 0% the bad state would never end".to_owned());
    }
    Ok(Burst { to_bad, to_good, loss_in_bad, loss_in_good })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_settings_of_a_direction() {
        let text = "rate=20mbit,overhead=24b,limit=100p,limit=64kb,ecn=20p,delay=20ms,jitter=2ms,order=free,loss=1%,\
                    burst=0.5%/25%/90%,reorder=2%/3ms,duplicate=0.1%,corrupt=0.01%";
        let expected = Impairments {
            rate: Some(20_000_000),
            overhead: 24,
            limit_packets: Some(100),
            limit_bytes: Some(64_000),
            ecn: Some(Size::Packets(20)),
            delay: Duration::from_millis(20),
            jitter: Duration::from_millis(2),
            free_order: true,
            loss: 0.01,
            burst: Some(Burst { to_bad: 0.005, to_good: 0.25, loss_in_bad: 0.9, loss_in_good: 0.0 }),
            reorder: 0.02,
            hold: Duration::from_millis(3),
            duplicate: 0.001,
            corrupt: 0.0001,
        };
        assert_eq!(Impairments::parse([text]), Ok(expected));
    }

    #[test]
    fn the_directions_own_settings_come_after_those_of_both() {
        let settings = Impairments::parse(["rate=1mbit,limit=10p,loss=5%,delay=1ms", "limit=3kb, loss=0%"]).unwrap();
        assert_eq!((settings.limit_packets, settings.limit_bytes), (None, Some(3000)));
        assert_eq!((settings.loss, settings.delay), (0.0, Duration::from_millis(1)));
    }

    #[test]
    fn nonsense_is_refused_with_its_reason() {
        for (text, reason) in [
            ("speed=1mbit", "no such setting"),
            ("loss=1", "write it like 1%"),
            ("loss", "write it like 1%"),
            ("delay=1ms,jitter=2ms", "jitter must not"),
            ("limit=64kb", "need a rate"),
            ("ecn=5p", "need a rate"),
            ("burst=1%", "write it like"),
            ("burst=1%/0%", "never end"),
            ("order=maybe", "keep and free"),
            ("overhead=4p", "bytes are asked for"),
        ] {
            let error = Impairments::parse([text]).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
