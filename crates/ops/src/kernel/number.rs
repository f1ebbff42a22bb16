//! The number types of the kernels, with an exponential and an error function that vectorise.

use std::iter::Sum;
use std::ops::{AddAssign, DivAssign, MulAssign, SubAssign};

use candle_core::{CpuStorage, WithDType};
use num_traits::Float;

use super::lanes::Lanes;

/// A number type of the kernels: f32, or f64 for checks.
pub trait Real: Float + WithDType + Lanes + Sum + AddAssign + SubAssign + MulAssign + DivAssign + Send + Sync {
    /// The nearest number of this type.
    fn of(x: f64) -> Self;

    /// The same number as f64.
    fn wide(self) -> f64;

    /// e to the x; for f32 a polynomial that vectorises, accurate to 2 units in the last place.
    /// Subnormal results are 0, and results above 2.4e38 are infinite.
    fn exponential(self) -> Self;

    /// The error function; for f32 a rational approximation that vectorises, accurate to 4e-7.
    fn error_function(self) -> Self;

    /// The numbers of a storage, if they are of this type.
    fn numbers_mut(storage: &mut CpuStorage) -> Option<&mut Vec<Self>>;
}

impl Real for f32 {
    #[inline(always)]
    fn of(x: f64) -> Self {
        x as Self
    }

    #[inline(always)]
    fn wide(self) -> f64 {
        f64::from(self)
    }

    #[inline(always)]
    fn exponential(self) -> Self {
        // x = n ln 2 + r with |r| <= ln 2 / 2. Adding `SHIFT` leaves n + 127 in the low bits of the sum.
        const SHIFT: f32 = 12_582_912. + 127.;
        const LN_2_HIGH: f32 = 0.693_359_4;
        const LN_2_LOW: f32 = -2.121_944_4e-4;
        const LEAST: f32 = -87.3;
        const MOST: f32 = 88.37;
        let shifted = self * std::f32::consts::LOG2_E + SHIFT;
        let n = shifted - SHIFT;
        let r = (self - n * LN_2_HIGH) - n * LN_2_LOW;
        let mut p = 1.987_569_1e-4;
        for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
            p = p * r + c;
        }
        let p = p * r * r + r + 1.;
        let y = p * Self::from_bits(shifted.to_bits() << 23);
        // comparisons with NaN are false, so NaN passes through
        let y = if self > MOST { Self::INFINITY } else { y };
        if self < LEAST { 0. } else { y }
    }

    #[inline(always)]
    fn error_function(self) -> Self {
        const MOST: f32 = 3.832_507;
        let x = if self > MOST { MOST } else { self };
        let x = if x < -MOST { -MOST } else { x };
        let s = x * x;
        let mut p = 2.290_506_6e-4;
        for c in [3.408_291e-3, 5.095_569_5e-2, 1.852_083_2e-1, std::f32::consts::FRAC_2_SQRT_PI] {
            p = p * s + c;
        }
        let mut q = -1.179_160_3e-7;
        for c in [2.354_796_6e-5, 1.017_962_5e-3, 1.407_047e-2, 1.109_850_5e-1, 4.974_692_5e-1, 1.] {
            q = q * s + c;
        }
        x * p / q
    }

    fn numbers_mut(storage: &mut CpuStorage) -> Option<&mut Vec<Self>> {
        match storage {
            CpuStorage::F32(numbers) => Some(numbers),
            _ => None,
        }
    }
}

impl Real for f64 {
    #[inline(always)]
    fn of(x: f64) -> Self {
        x
    }

    #[inline(always)]
    fn wide(self) -> f64 {
        self
    }

    fn exponential(self) -> Self {
        self.exp()
    }

    fn error_function(self) -> Self {
        libm::erf(self)
    }

    fn numbers_mut(storage: &mut CpuStorage) -> Option<&mut Vec<Self>> {
        match storage {
            CpuStorage::F64(numbers) => Some(numbers),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponential_is_accurate_over_its_whole_range() {
        let mut worst = 0f64;
        for i in -87_000..=88_370 {
            let x = i as f32 * 1e-3;
            let (y, expected) = (f64::from(x.exponential()), f64::from(x).exp());
            worst = worst.max(((y - expected) / expected).abs());
        }
        assert!(worst < 2. * f64::from(f32::EPSILON), "{worst}");
        assert_eq!(0f32.exponential(), 1.);
        assert_eq!(f32::NEG_INFINITY.exponential(), 0.);
        assert_eq!(f32::INFINITY.exponential(), f32::INFINITY);
        assert_eq!(89f32.exponential(), f32::INFINITY);
        assert_eq!((-100f32).exponential(), 0.);
        assert!(f32::NAN.exponential().is_nan());
    }

    #[test]
    fn error_function_is_accurate_and_odd() {
        for i in -6000..=6000 {
            let x = i as f32 * 1e-3;
            let error = f64::from(x.error_function()) - libm::erf(f64::from(x));
            assert!(error.abs() < 4e-7, "{x}: {error}");
        }
        assert_eq!(f32::INFINITY.error_function(), 4f32.error_function());
        assert!(f32::NAN.error_function().is_nan());
    }
}
