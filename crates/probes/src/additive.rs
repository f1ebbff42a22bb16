//! Additive models of activations: one vector per value of each factor (the test of a Minkowski sum).

use crate::{Error, Matrix, MatrixRef, column_means, finite};

/// Fraction of the variance, over all features, that an additive model explains: `x = mu + A[i] + B[j]`, with one vector
/// for each value of each factor (arXiv 2510.00184, section 4.2), fitted by least squares.
///
/// ```
/// use probes::{Matrix, additive_r2};
///
/// let (tens, units): (Vec<usize>, Vec<usize>) = (0..100).map(|n| (n / 10, n % 10)).unzip();
/// let sum = Matrix::from_fn(100, 1, |n, _| (tens[n] * 3 + units[n] * units[n]) as f64);
/// assert!(additive_r2(sum.as_ref(), &[&tens, &units])? > 0.999_999);
/// # Ok::<(), probes::Error>(())
/// ```
///
/// # Shapes
/// `x` `[samples, features]`; each of `factors` holds one value per sample.
///
/// # Errors
/// When lengths differ, a value is not finite, or there are fewer than two samples.
pub fn additive_r2(x: MatrixRef<'_>, factors: &[&[usize]]) -> Result<f64, Error> {
    if x.nrows() < 2 {
        return Err(Error::TooFew { found: x.nrows(), least: 2 });
    }
    if let Some(factor) = factors.iter().find(|factor| factor.len() != x.nrows()) {
        return Err(Error::Rows { what: "a factor", found: factor.len(), expected: x.nrows() });
    }
    finite("the samples", x)?;
    let levels: Vec<usize> = factors.iter().map(|factor| factor.iter().max().map_or(0, |most| most + 1)).collect();
    let starts: Vec<usize> = levels.iter().scan(0, |start, n| Some(std::mem::replace(start, *start + n))).collect();
    let design = Matrix::from_fn(x.nrows(), levels.iter().sum(), |sample, column| {
        let hit = factors.iter().zip(&starts).any(|(factor, start)| start + factor[sample] == column);
        f64::from(u8::from(hit))
    });
    // the indicator columns of each factor sum to one, so the design is rank deficient: a tiny penalty makes it solvable
    let fit = crate::Linear::ridge(design.as_ref(), x, 1e-6)?.predict(design.as_ref());
    let means = column_means(x);
    let (mut error, mut total) = (0., 0.);
    for feature in 0..x.ncols() {
        for sample in 0..x.nrows() {
            error += (x[(sample, feature)] - fit[(sample, feature)]).powi(2);
            total += (x[(sample, feature)] - means[feature]).powi(2);
        }
    }
    Ok(1. - error / total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_is_additive_and_a_product_is_not() {
        let (i, j): (Vec<usize>, Vec<usize>) = (0..100).map(|n| (n / 10, n % 10)).unzip();
        let sum = Matrix::from_fn(100, 3, |n, d| (i[n] as f64 + d as f64).sin() + (j[n] * (d + 1)) as f64);
        assert!(additive_r2(sum.as_ref(), &[&i, &j]).unwrap() > 0.999_999);
        // the product of two centred factors has no additive part
        let product = Matrix::from_fn(100, 1, |n, _| (i[n] as f64 - 4.5) * (j[n] as f64 - 4.5));
        assert!(additive_r2(product.as_ref(), &[&i, &j]).unwrap().abs() < 1e-6);
        assert!(additive_r2(product.as_ref(), &[&i[1..]]).is_err());
    }
}
