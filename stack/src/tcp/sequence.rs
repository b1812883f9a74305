//! Sequence numbers (RFC 9293 §3.4): 32 bits that wrap, so they have distances and no order.

use core::ops::{Add, AddAssign, Sub};

/// A sequence number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Seq(pub u32);

impl Seq {
    /// Whether `self` comes before `other`, both being within 2^31 of each other.
    #[must_use]
    pub const fn before(self, other: Self) -> bool {
        self.offset_from(other) < 0
    }

    /// Whether `self` comes after `other`.
    #[must_use]
    pub const fn after(self, other: Self) -> bool {
        self.offset_from(other) > 0
    }

    /// Bytes from `other` to `self`; negative when `self` comes before.
    #[must_use]
    pub const fn offset_from(self, other: Self) -> i32 {
        self.0.wrapping_sub(other.0).cast_signed()
    }

    /// Bytes from `other` to `self`; zero when `self` comes before.
    #[must_use]
    pub const fn distance_from(self, other: Self) -> u32 {
        let offset = self.offset_from(other);
        if offset < 0 { 0 } else { offset.cast_unsigned() }
    }

    /// Whether `self` lies in `first..=last`.
    #[must_use]
    pub const fn is_between(self, first: Self, last: Self) -> bool {
        last.0.wrapping_sub(first.0) >= self.0.wrapping_sub(first.0)
    }

    /// The later of two.
    #[must_use]
    pub const fn later(self, other: Self) -> Self {
        if self.before(other) { other } else { self }
    }

    /// The earlier of two.
    #[must_use]
    pub const fn earlier(self, other: Self) -> Self {
        if self.after(other) { other } else { self }
    }
}

impl Add<u32> for Seq {
    type Output = Self;
    fn add(self, count: u32) -> Self {
        Self(self.0.wrapping_add(count))
    }
}

impl AddAssign<u32> for Seq {
    fn add_assign(&mut self, count: u32) {
        *self = *self + count;
    }
}

impl Sub<u32> for Seq {
    type Output = Self;
    fn sub(self, count: u32) -> Self {
        Self(self.0.wrapping_sub(count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_kept_across_the_wrap() {
        let end = Seq(u32::MAX);
        assert!(end.before(end + 1));
        assert!((end + 5).after(end));
        assert_eq!((end + 5).distance_from(end), 5);
        assert_eq!(end.distance_from(end + 5), 0);
        assert_eq!(end.offset_from(end + 5), -5);
        assert!((end + 2).is_between(end, end + 3));
        assert!(!(end + 4).is_between(end, end + 3));
        assert_eq!(end.later(end + 1), end + 1);
        assert_eq!(end.earlier(end + 1), end);
    }
}
