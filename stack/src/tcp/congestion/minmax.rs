//! The greatest, or the least, of the samples of a sliding window, approximately and in constant space (Kathleen Nichols' filter,
//! Linux's `lib/win_minmax.c`): the best sample, and the best of those after it, twice.

/// A sample and when it was taken, in the unit of the window.
type Taken = (u32, u32);

/// The filter.
#[derive(Clone, Copy, Debug, Default)]
pub struct WindowedMax {
    best: [Taken; 3],
}

const fn age(now: u32, taken: Taken) -> u32 {
    now.wrapping_sub(taken.0)
}

impl WindowedMax {
    /// The greatest.
    pub const fn value(&self) -> u32 {
        let [(_, value), _, _] = self.best;
        value
    }

    /// Takes a sample; those older than `window` are forgotten.
    pub fn take(&mut self, window: u32, now: u32, value: u32) {
        let new = (now, value);
        let [first, second, third] = &mut self.best;
        if value >= first.1 || age(now, *third) > window {
            self.best = [new; 3];
            return;
        }
        if value >= second.1 {
            (*second, *third) = (new, new);
        } else if value >= third.1 {
            *third = new;
        }
        if age(now, *first) > window {
            (*first, *second, *third) = (*second, *third, new);
            if age(now, *first) > window {
                (*first, *second, *third) = (*second, *third, new);
            }
        } else if second.0 == first.0 && age(now, *first) > window / 4 {
            // A quarter of the window went by without a second best: this is the one.
            (*second, *third) = (new, new);
        } else if third.0 == second.0 && age(now, *first) > window / 2 {
            *third = new;
        }
    }
}

/// The same of the least: a great number is a small one seen from the other end.
#[derive(Clone, Copy, Debug, Default)]
pub struct WindowedMin(WindowedMax);

impl WindowedMin {
    /// The least; `u32::MAX` before there is one.
    pub const fn value(&self) -> u32 {
        u32::MAX - self.0.value()
    }

    /// Takes a sample; those older than `window` are forgotten.
    pub fn take(&mut self, window: u32, now: u32, value: u32) {
        self.0.take(window, now, u32::MAX - value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greatest_of_the_last_ten_is_kept_and_then_forgotten() {
        let mut filter = WindowedMax::default();
        filter.take(10, 1, 100);
        for now in 2..=11 {
            filter.take(10, now, 50 + now);
            assert_eq!(filter.value(), 100, "at {now}");
        }
        filter.take(10, 12, 20);
        assert_eq!(filter.value(), 61, "the best of those after it");
        let mut least = WindowedMin::default();
        assert_eq!(least.value(), u32::MAX);
        for (now, value, expected) in [(1, 30, 30), (5, 50, 30), (11, 60, 30), (12, 90, 50), (13, 20, 20)] {
            least.take(10, now, value);
            assert_eq!(least.value(), expected, "at {now}");
        }
        filter.take(10, 13, 200);
        assert_eq!(filter.value(), 200);
    }
}
