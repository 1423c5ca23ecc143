//! Exact money. Floats never touch a price: a binary fraction of a cent is a wrong invoice.
//!
//! Amounts are whole micro-dollars (`NUMERIC(18,6)`), rates are whole hundred-millionths of a dollar per million
//! units (`NUMERIC(18,8)`); a cost is summed in 128 bits and rounded once, half up.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Sub};

use serde::{Deserialize, Serialize};

/// An amount in millionths of a US dollar.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct MicroUsd(pub i64);

/// A price in 0.00000001 USD per million units (tokens, requests; images are priced per image times a million).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Rate(pub i64);

/// Decimal places of an amount.
const AMOUNT_PLACES: u32 = 6;
/// Decimal places of a rate.
const RATE_PLACES: u32 = 8;
/// `tokens × Rate` is in 1e-14 USD (1e-8 per 1e6 tokens); this many of them make one micro-dollar.
const PARTS_PER_MICRO: i128 = 100_000_000;

impl MicroUsd {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// Reads the shortest decimal text of `usd`, as the wire carries it, rounding half up to 6 places.
    /// `None` when it is not finite or beyond what `NUMERIC(18,6)` holds.
    pub fn from_f64(usd: f64) -> Option<Self> {
        scaled(usd, AMOUNT_PLACES).map(Self)
    }

    /// The nearest double: its shortest text is the exact decimal of every amount that the databases hold.
    pub fn to_f64(self) -> f64 {
        // One division of two exact doubles rounds once. Larger amounts would be rounded before it, too.
        if self.0.unsigned_abs() < 1 << f64::MANTISSA_DIGITS {
            return self.0 as f64 / 1e6;
        }
        self.to_string().parse().unwrap_or(f64::MAX)
    }

    /// `self`, or nothing when negative.
    #[must_use]
    pub fn or_zero(self) -> Self {
        self.max(Self::ZERO)
    }
}

impl Rate {
    /// The largest rate the databases hold: `NUMERIC(18,8)`.
    pub const MAX_USD: f64 = 9_999_999_999.0;

    /// Reads the shortest decimal text of `usd_per_million`, rounding half up to 8 places; `None` out of range.
    pub fn from_f64(usd_per_million: f64) -> Option<Self> {
        scaled(usd_per_million, RATE_PLACES).map(Self)
    }

    /// The nearest double, in USD per million.
    pub fn to_f64(self) -> f64 {
        self.0 as f64 / 1e8
    }
}

impl Add for MicroUsd {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sub for MicroUsd {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl AddAssign for MicroUsd {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for MicroUsd {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Add::add)
    }
}

impl fmt::Display for MicroUsd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let n = self.0.unsigned_abs();
        write!(f, "{sign}{}.{:06}", n / 1_000_000, n % 1_000_000)
    }
}

/// The cost of `quantities`, each priced at its rate, rounded once, half up, to a micro-dollar.
///
/// Saturates instead of wrapping: an absurd price must refuse the caller, never credit them.
pub fn cost(quantities: &[(u64, Rate)]) -> MicroUsd {
    // One product fits into 128 bits; a sum of the largest would not.
    let parts = quantities
        .iter()
        .map(|&(units, rate)| i128::from(units) * i128::from(rate.0))
        .fold(0, i128::saturating_add);
    let micros = parts.saturating_add(PARTS_PER_MICRO / 2).div_euclid(PARTS_PER_MICRO);
    MicroUsd(i64::try_from(micros).unwrap_or(i64::MAX))
}

/// The shortest decimal text of `value` times ten to the `places`, rounded half away from zero.
fn scaled(value: f64, places: u32) -> Option<i64> {
    if !value.is_finite() {
        return None;
    }
    // `{:e}` prints the shortest digits that read back as the same double: `1.25e-3`.
    let text = format!("{value:e}");
    let (mantissa, exponent) = text.split_once('e')?;
    let exponent: i32 = exponent.parse().ok()?;
    let (negative, mantissa) = match mantissa.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, mantissa),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let shift = exponent + i32::try_from(places).ok()? - i32::try_from(fraction.len()).ok()?;
    let units = match u32::try_from(shift) {
        Ok(up) => digits.checked_mul(10_i128.checked_pow(up)?)?,
        // 39 digits divide any i128 to less than one half.
        Err(_) if shift < -38 => 0,
        Err(_) => {
            let divisor = 10_i128.pow(shift.unsigned_abs());
            (digits + divisor / 2) / divisor
        }
    };
    i64::try_from(if negative { -units } else { units }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_read_through_their_decimal_text() {
        assert_eq!(MicroUsd::from_f64(0.1), Some(MicroUsd(100_000)));
        assert_eq!(MicroUsd::from_f64(1e-7), Some(MicroUsd(0)), "below half a micro-dollar");
        assert_eq!(MicroUsd::from_f64(5e-7), Some(MicroUsd(1)), "half rounds up");
        assert_eq!(MicroUsd::from_f64(999_999_999_999.0), Some(MicroUsd(999_999_999_999_000_000)));
        assert_eq!(MicroUsd::from_f64(1e300), None, "beyond the column");
        assert_eq!(MicroUsd::from_f64(f64::NAN), None);
        assert_eq!(Rate::from_f64(0.075), Some(Rate(7_500_000)));
        assert_eq!(Rate::from_f64(1e-300), Some(Rate(0)));
    }

    #[test]
    fn amounts_print_as_their_decimal() {
        assert_eq!(MicroUsd(50_100).to_f64().to_string(), "0.0501");
        assert_eq!(MicroUsd(1).to_f64().to_string(), "0.000001");
        assert_eq!(MicroUsd(-1_500_000).to_string(), "-1.500000");
        assert_eq!(MicroUsd(999_999_999_999_000_000).to_f64().to_string(), "999999999999");
    }

    #[test]
    fn a_cost_is_rounded_once_and_half_up() {
        let one_dollar = Rate(100_000_000);
        // 0.5 micro-dollars of input and 0.5 of output are one micro-dollar, not two and not zero.
        let half = Rate(50_000_000);
        assert_eq!(cost(&[(1, half), (1, half)]), MicroUsd(1));
        assert_eq!(cost(&[(1, half)]), MicroUsd(1), "half rounds up");
        assert_eq!(cost(&[(1, Rate(49_999_999))]), MicroUsd(0));
        assert_eq!(cost(&[(100, one_dollar), (50, Rate(100_000_000_000))]), MicroUsd(50_100));
        let most = (u64::MAX, Rate(i64::MAX));
        assert_eq!(cost(&[most, most, most]), MicroUsd(i64::MAX), "saturates");
    }
}
