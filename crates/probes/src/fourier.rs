//! Fourier fits: how well a few frequencies describe a function of a digit (arXiv 2510.00184, section 4.3 and table 1).

use std::f64::consts::TAU;

use crate::{Error, Linear, Matrix, MatrixRef};

/// A Fourier basis over 0 .. period.
///
/// ```
/// use probes::{Fourier, Matrix};
///
/// let parity = Matrix::from_fn(1, 10, |_, n| (n % 2) as f64);
/// // parity is the highest frequency, and nothing else
/// assert!((Fourier::new(10, &[5])?.r_squared(parity.as_ref())?[0] - 1.).abs() < 1e-12);
/// assert!(Fourier::new(10, &[1, 2])?.r_squared(parity.as_ref())?[0].abs() < 1e-12);
/// # Ok::<(), probes::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Fourier {
    period: usize,
    /// The cosines and sines in columns, without the constant, `[period, waves]`.
    waves: Matrix,
}

impl Fourier {
    /// The constant, and cosine and sine of 2 pi k n / period for every distinct k in `frequencies` (no sine at half the
    /// period, where it is zero).
    ///
    /// # Errors
    /// When a frequency is above half the period.
    pub fn new(period: usize, frequencies: &[usize]) -> Result<Self, Error> {
        let most = period / 2;
        if let Some(found) = frequencies.iter().copied().find(|k| *k > most) {
            return Err(Error::Range { what: "a frequency", found, least: 0, most });
        }
        let mut columns: Vec<Vec<f64>> = Vec::new();
        // a repeated frequency spans nothing new, and would make the fit singular
        let distinct = frequencies.iter().enumerate().filter(|(i, k)| **k > 0 && !frequencies[..*i].contains(k));
        for k in distinct.map(|(_, k)| *k) {
            let angle = |n: usize| TAU * (k * n % period) as f64 / period as f64;
            columns.push((0..period).map(|n| angle(n).cos()).collect());
            if 2 * k != period {
                columns.push((0..period).map(|n| angle(n).sin()).collect());
            }
        }
        Ok(Self { period, waves: Matrix::from_fn(period, columns.len(), |n, wave| columns[wave][n]) })
    }

    /// Fraction of the variance of each row that the basis explains; constant rows are left out of the result.
    ///
    /// # Shapes
    /// `rows` `[rows, period]`.
    ///
    /// # Errors
    /// When the rows do not have the length of the period.
    pub fn r_squared(&self, rows: MatrixRef<'_>) -> Result<Vec<f64>, Error> {
        if rows.ncols() != self.period {
            return Err(Error::Columns { what: "the rows", found: rows.ncols(), expected: self.period });
        }
        let varying: Vec<usize> = (0..rows.nrows())
            .filter(|row| {
                let values: Vec<f64> = (0..self.period).map(|n| rows[(*row, n)]).collect();
                crate::standard_deviation(&values) > 1e-12 * values.iter().fold(0f64, |most, v| most.max(v.abs()))
            })
            .collect();
        if self.waves.ncols() == 0 {
            return Ok(vec![0.; varying.len()]);
        }
        let y = Matrix::from_fn(self.period, varying.len(), |n, row| rows[(varying[row], n)]);
        // the waves are orthogonal to each other and to the constant, so the fit needs no penalty
        let fit = Linear::ridge(self.waves.as_ref(), y.as_ref(), 0.)?;
        Ok(crate::r_squared(fit.predict(self.waves.as_ref()).as_ref(), y.as_ref()))
    }

    /// Fraction of the total variance of all rows at each frequency 1 ..= period / 2; the fractions sum to one.
    ///
    /// # Errors
    /// When all rows are constant.
    pub fn power(rows: MatrixRef<'_>) -> Result<Vec<f64>, Error> {
        let period = rows.ncols();
        let means: Vec<f64> =
            (0..rows.nrows()).map(|row| (0..period).map(|n| rows[(row, n)]).sum::<f64>() / period as f64).collect();
        let power = |k: usize| -> f64 {
            let sides = if 2 * k == period { 1. } else { 2. };
            let wave: Vec<[f64; 2]> = (0..period)
                .map(|n| (TAU * (k * n % period) as f64 / period as f64).sin_cos())
                .map(|(sin, cos)| [cos, sin])
                .collect();
            let row = |row: usize| -> f64 {
                let part = |i: usize| -> f64 { (0..period).map(|n| (rows[(row, n)] - means[row]) * wave[n][i]).sum() };
                part(0).powi(2) + part(1).powi(2)
            };
            (0..rows.nrows()).map(row).sum::<f64>() * sides
        };
        let power: Vec<f64> = (1..=period / 2).map(power).collect();
        let all: f64 = power.iter().sum();
        if all > 0. {
            Ok(power.into_iter().map(|p| p / all).collect())
        } else {
            Err(Error::Constant { what: "the rows" })
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha12Rng;
    use rand_distr::{Distribution, Normal};

    use super::*;

    fn row(of: impl Fn(f64) -> f64) -> Matrix {
        Matrix::from_fn(1, 10, |_, n| of(n as f64))
    }

    #[test]
    fn control_functions_have_the_published_scores() {
        // the basis of arXiv 2510.00184: a ramp scores .840, a square .851, a single digit .556, noise .556 on average
        let basis = Fourier::new(10, &[0, 1, 2, 5]).unwrap();
        let of = |rows: Matrix| basis.r_squared(rows.as_ref()).unwrap()[0];
        assert!((of(row(|n| n)) - 0.840).abs() < 5e-4);
        assert!((of(row(|n| n * n)) - 0.851).abs() < 5e-4);
        assert!((of(row(|n| f64::from(u8::from(n == 3.)))) - 5. / 9.).abs() < 1e-12);
        let mut rng = ChaCha12Rng::seed_from_u64(2);
        let normal = Normal::new(0., 1.).unwrap();
        let noise = Matrix::from_fn(20_000, 10, |_, _| normal.sample(&mut rng));
        let r2 = basis.r_squared(noise.as_ref()).unwrap();
        assert!((crate::mean(&r2) - 5. / 9.).abs() < 0.005 && (crate::median(&r2) - 0.564).abs() < 0.01);
        let power = Fourier::power(noise.as_ref()).unwrap();
        for (power, expected) in power.iter().zip([2., 2., 2., 2., 1.]) {
            assert!((power - expected / 9.).abs() < 0.01, "{power}");
        }
    }

    #[test]
    fn all_frequencies_fit_everything() {
        let all = Fourier::new(10, &[0, 1, 2, 3, 4, 5]).unwrap();
        assert!((all.r_squared(row(|n| (n * n * 1.7).sin()).as_ref()).unwrap()[0] - 1.).abs() < 1e-12);
        let twice = Fourier::new(10, &[1, 3, 1]).unwrap().r_squared(row(|n| n * n).as_ref()).unwrap();
        assert_eq!(twice, Fourier::new(10, &[1, 3]).unwrap().r_squared(row(|n| n * n).as_ref()).unwrap());
        let parity = Fourier::power(row(|n| if n % 2. == 0. { 1. } else { -1. }).as_ref()).unwrap();
        assert!((parity[4] - 1.).abs() < 1e-12, "{parity:?}");
    }

    #[test]
    fn constant_rows_are_left_out() {
        let two = Matrix::from_fn(2, 10, |row, n| if row == 0 { 4. } else { n as f64 });
        assert_eq!(Fourier::new(10, &[1]).unwrap().r_squared(two.as_ref()).unwrap().len(), 1);
        assert_eq!(Fourier::new(10, &[0]).unwrap().r_squared(two.as_ref()).unwrap(), [0.]);
        assert!(Fourier::power(two.subrows(0, 1)).unwrap_err().to_string().contains("must vary"));
        assert!(Fourier::new(10, &[6]).is_err() && Fourier::new(8, &[1]).unwrap().r_squared(two.as_ref()).is_err());
    }
}
