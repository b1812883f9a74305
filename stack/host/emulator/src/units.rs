//! Quantities as people write them: rates, spans of time, probabilities, sizes. Every refusal says what would be right.

use std::time::Duration;

/// Splits `text` into its number and its unit, the latter in lower case.
fn number_and_unit(text: &str) -> Result<(f64, String), String> {
    let text = text.trim();
    let end = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: f64 = number.parse().map_err(|_| format!("{text:?} does not begin with a number"))?;
    Ok((number, unit.trim().to_ascii_lowercase()))
}

/// A positive whole number of something, from a number and what its unit multiplies by.
fn whole(text: &str, number: f64, factor: f64) -> Result<u64, String> {
    let value = (number * factor).round();
    // Up to here a float holds every whole number.
    if !(1.0..=9_007_199_254_740_992.0).contains(&value) {
        return Err(format!("{text:?} is too small or too large"));
    }
    Ok(value as u64)
}

/// A rate in bit/s: `20mbit`, `1.5gbit/s`, `64000`.
///
/// # Errors
/// When it is not of that form.
pub fn rate(text: &str) -> Result<u64, String> {
    let (number, unit) = number_and_unit(text)?;
    let factor = match unit.trim_end_matches("/s").trim_end_matches("ps") {
        "" | "bit" | "b" => 1.0,
        "k" | "kbit" | "kb" => 1e3,
        "m" | "mbit" | "mb" => 1e6,
        "g" | "gbit" | "gb" => 1e9,
        _ => return Err(format!("{text:?} is no rate; write it like 64000, 20mbit or 1.5gbit (bits per second)")),
    };
    whole(text, number, factor)
}

/// A span of time, with its unit: `20ms`, `150us`, `1.5s`, `0ms`.
///
/// # Errors
/// When it is not of that form, or longer than an hour.
pub fn span(text: &str) -> Result<Duration, String> {
    let (number, unit) = number_and_unit(text)?;
    let nanos = number
        * match unit.as_str() {
            "ns" => 1.0,
            "us" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            _ => return Err(format!("{text:?} is no span of time; write it like 150us, 20ms or 1.5s")),
        };
    if !(0.0..=3.6e12).contains(&nanos) {
        return Err(format!("{text:?} is longer than an hour"));
    }
    Ok(Duration::from_nanos(nanos.round() as u64))
}

/// A probability in percent: `1%`, `0.05%`. The sign is asked for, since `loss=1` would be read in two ways.
///
/// # Errors
/// When it is not of that form, or beyond 100 %.
pub fn chance(text: &str) -> Result<f64, String> {
    match number_and_unit(text) {
        Ok((number, unit)) if unit == "%" && number <= 100.0 => Ok(number / 100.0),
        _ => Err(format!("{text:?} is no probability; write it like 1% or 0.05%")),
    }
}

/// How much may wait in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// Packets, whatever their length.
    Packets(u64),
    /// Bytes, link headers included.
    Bytes(u64),
}

/// A number of packets or bytes: `100p`, `64kb`, `1mib`, `15000b`.
///
/// # Errors
/// When it is not of that form.
pub fn size(text: &str) -> Result<Size, String> {
    let (number, unit) = number_and_unit(text)?;
    let factor = match unit.as_str() {
        "p" | "packets" => return whole(text, number, 1.0).map(Size::Packets),
        "b" | "bytes" => 1.0,
        "kb" | "k" => 1e3,
        "kib" => 1024.0,
        "mb" | "m" => 1e6,
        "mib" => 1_048_576.0,
        _ => return Err(format!("{text:?} is no size; write it like 100p (packets), 15000b, 64kb or 1mib (bytes)")),
    };
    whole(text, number, factor).map(Size::Bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_people_write_them() {
        for (text, bits) in
            [("64000", 64_000), ("20mbit", 20_000_000), ("1.5Gbit/s", 1_500_000_000), ("200Mbps", 200_000_000)]
        {
            assert_eq!(rate(text), Ok(bits), "{text}");
        }
        for (text, micros) in [("150us", 150), ("20ms", 20_000), ("1.5s", 1_500_000), ("0ms", 0)] {
            assert_eq!(span(text), Ok(Duration::from_micros(micros)), "{text}");
        }
        assert_eq!(chance("1%"), Ok(0.01));
        assert_eq!(chance("100 %"), Ok(1.0));
        assert_eq!(size("100p"), Ok(Size::Packets(100)));
        assert_eq!(size("64kb"), Ok(Size::Bytes(64_000)));
        assert_eq!(size("1MiB"), Ok(Size::Bytes(1 << 20)));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for text in ["1", "0.01", "101%", "-1%", "%", "", "1e400%"] {
            assert!(chance(text).is_err(), "{text}");
        }
        for text in ["20", "1h", "ms", "-5ms", "4000s"] {
            assert!(span(text).is_err(), "{text}");
        }
        for text in ["0", "fast", "20mbyte", "1..5mbit", "99999999999gbit"] {
            assert!(rate(text).is_err(), "{text}");
        }
        for text in ["100", "0p", "64kbit"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
