//! Principal components, singular vectors, and the overlap of subspaces.

use crate::{Error, Matrix, MatrixRef, centred, column_means, finite};

/// A principal component analysis: the orthogonal directions of largest variance.
///
/// ```
/// use probes::{Matrix, Pca};
///
/// // points on a line along (3, 4)
/// let x = Matrix::from_fn(5, 2, |row, column| row as f64 * [3., 4.][column]);
/// let pca = Pca::fit(x.as_ref(), 1)?;
/// assert!((pca.components[(0, 0)] - 0.6).abs() < 1e-12 && (pca.explained()[0] - 1.).abs() < 1e-12);
/// let coordinates = pca.transform(x.as_ref())?;
/// assert!((coordinates[(4, 0)] - 10.).abs() < 1e-12);
/// # Ok::<(), probes::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Pca {
    /// Mean of the samples, `[features]`.
    pub mean: Vec<f64>,
    /// Orthonormal directions in rows, largest variance first, `[components, features]`. The sign is such that the entry
    /// of largest magnitude is positive.
    pub components: Matrix,
    /// Variance along each direction (divided by n - 1), `[components]`.
    pub variance: Vec<f64>,
    /// Total variance of the samples, over all directions.
    pub total: f64,
}

impl Pca {
    /// Fits `count` components to samples `[samples, features]`, from the covariance, or from the Gram matrix when there
    /// are fewer samples than features. Components beyond the rank of the samples are rounding noise.
    ///
    /// # Errors
    /// When there are fewer than two samples, a value is not finite, or `count` exceeds the number of samples or features.
    pub fn fit(x: MatrixRef<'_>, count: usize) -> Result<Self, Error> {
        let (samples, features) = (x.nrows(), x.ncols());
        if samples < 2 {
            return Err(Error::TooFew { found: samples, least: 2 });
        }
        let most = samples.min(features);
        if count == 0 || count > most {
            return Err(Error::Range { what: "the number of components", found: count, least: 1, most });
        }
        finite("the samples", x)?;
        let mean = column_means(x);
        let x = centred(x, &mean);
        let wide = features > samples;
        let square = if wide { &x * x.transpose() } else { x.transpose() * &x };
        let total = (0..square.nrows()).map(|i| square[(i, i)]).sum::<f64>() / (samples - 1) as f64;
        let eigen = square.self_adjoint_eigen(faer::Side::Lower).map_err(|_| Error::NoConvergence)?;
        let (vectors, values) = (eigen.U(), eigen.S().column_vector());
        let size = vectors.ncols();
        let mut components = Matrix::zeros(count, features);
        let mut variance = Vec::new();
        for component in 0..count {
            let from = size - 1 - component; // eigenvalues come in ascending order
            variance.push(values[from].max(0.) / (samples - 1) as f64);
            let vector = vectors.col(from);
            let mut direction: Vec<f64> = match wide {
                true => (0..features).map(|f| (0..samples).map(|s| x[(s, f)] * vector[s]).sum()).collect(),
                false => vector.iter().copied().collect(),
            };
            let norm = direction.iter().map(|v| v * v).sum::<f64>().sqrt();
            let largest = direction.iter().copied().fold(0f64, |best, v| if v.abs() > best.abs() { v } else { best });
            let factor = if norm > 0. { largest.signum() / norm } else { 0. };
            direction.iter_mut().for_each(|v| *v *= factor);
            direction.iter().enumerate().for_each(|(feature, v)| components[(component, feature)] = *v);
        }
        Ok(Self { mean, components, variance, total })
    }

    /// Coordinates of samples along the components, `[samples, components]`.
    ///
    /// # Errors
    /// When the number of features differs from that of the fit.
    pub fn transform(&self, x: MatrixRef<'_>) -> Result<Matrix, Error> {
        if x.ncols() != self.mean.len() {
            return Err(Error::Columns { what: "the samples", found: x.ncols(), expected: self.mean.len() });
        }
        Ok(centred(x, &self.mean) * self.components.transpose())
    }

    /// Fraction of the total variance along each component.
    #[must_use]
    pub fn explained(&self) -> Vec<f64> {
        self.variance.iter().map(|variance| variance / self.total).collect()
    }
}

/// Mean squared cosine of the principal angles between two subspaces, each given by orthonormal rows.
///
/// It is 1 when one subspace contains the other, and about k / d for k random directions in d dimensions.
///
/// # Errors
/// When the rows have different lengths.
pub fn overlap(a: MatrixRef<'_>, b: MatrixRef<'_>) -> Result<f64, Error> {
    if a.ncols() != b.ncols() {
        return Err(Error::Columns { what: "the second space", found: b.ncols(), expected: a.ncols() });
    }
    let cosines = a * b.transpose();
    let squares: f64 = cosines.col_iter().flat_map(|column| column.iter().map(|c| c * c).collect::<Vec<_>>()).sum();
    Ok(squares / a.nrows().min(b.nrows()) as f64)
}

/// Eigenvalues of x xᵀ, largest first: the squared singular values of the uncentred samples.
///
/// # Errors
/// When a value is not finite.
pub fn spectrum(x: MatrixRef<'_>) -> Result<Vec<f64>, Error> {
    finite("the samples", x)?;
    let square = x * x.transpose();
    let values = square.self_adjoint_eigenvalues(faer::Side::Lower).map_err(|_| Error::NoConvergence)?;
    Ok(values.into_iter().rev().map(|value| value.max(0.)).collect())
}

/// Singular values of x, largest first, and its left singular vectors in rows in the same order, `[rows, rows]`.
///
/// They come from the eigendecomposition of x xᵀ, so values below 1e-8 of the largest are rounding noise. The signs of the
/// vectors are arbitrary.
///
/// # Errors
/// When a value is not finite.
pub fn left_singular(x: MatrixRef<'_>) -> Result<(Vec<f64>, Matrix), Error> {
    finite("the matrix", x)?;
    let square = x * x.transpose();
    let eigen = square.self_adjoint_eigen(faer::Side::Lower).map_err(|_| Error::NoConvergence)?;
    let (vectors, squares) = (eigen.U(), eigen.S().column_vector());
    let size = vectors.ncols();
    // eigenvalues come in ascending order
    let values = (0..size).map(|k| squares[size - 1 - k].max(0.).sqrt()).collect();
    Ok((values, Matrix::from_fn(size, size, |k, row| vectors[(row, size - 1 - k)])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wavy(rows: usize, columns: usize) -> Matrix {
        Matrix::from_fn(rows, columns, |r, c| (((r * 7 + c * 3) % 11 * (r + 2 * c) % 13) as f64) * (c + 1) as f64)
    }

    #[test]
    fn few_samples_give_the_same_directions_as_many() {
        // 6 samples in 9 dimensions use the Gram matrix; the same samples, each four times, use the covariance
        let x = wavy(6, 9);
        let often = Matrix::from_fn(24, 9, |r, c| x[(r % 6, c)]);
        let (few, many) = (Pca::fit(x.as_ref(), 3).unwrap(), Pca::fit(often.as_ref(), 3).unwrap());
        for component in 0..3 {
            for feature in 0..9 {
                assert!((few.components[(component, feature)] - many.components[(component, feature)]).abs() < 1e-9);
            }
        }
        assert!((overlap(few.components.as_ref(), many.components.as_ref()).unwrap() - 1.).abs() < 1e-12);
    }

    #[test]
    fn all_components_hold_all_variance() {
        let x = wavy(20, 4);
        let pca = Pca::fit(x.as_ref(), 4).unwrap();
        assert!((pca.explained().iter().sum::<f64>() - 1.).abs() < 1e-12);
        let at = pca.transform(x.as_ref()).unwrap();
        let spread = crate::standard_deviation(&at.col(0).iter().copied().collect::<Vec<_>>()).powi(2) * 20. / 19.;
        assert!((spread - pca.variance[0]).abs() < 1e-9 * spread);
    }

    #[test]
    fn orthogonal_subspaces_do_not_overlap() {
        let axes = Matrix::from_fn(4, 4, |r, c| f64::from(u8::from(r == c)));
        let (a, b) = (axes.subrows(0, 2), axes.subrows(2, 2));
        assert_eq!(overlap(a, b).unwrap(), 0.);
        assert_eq!(overlap(a, axes.subrows(1, 2)).unwrap(), 0.5);
    }

    #[test]
    fn invalid_shapes_are_refused() {
        let x = wavy(3, 5);
        assert!(matches!(Pca::fit(x.as_ref(), 4), Err(Error::Range { most: 3, .. })));
        assert!(matches!(Pca::fit(x.subrows(0, 1), 1), Err(Error::TooFew { .. })));
        assert!(Pca::fit(x.as_ref(), 2).unwrap().transform(wavy(3, 4).as_ref()).is_err());
    }

    #[test]
    fn the_spectrum_is_the_squared_singular_values() {
        // two orthogonal rows of lengths 3 and 4, and a row of zeros
        let x = Matrix::from_fn(3, 4, |row, f| if row == f { [3., 4., 0.][row] } else { 0. });
        let values = spectrum(x.as_ref()).unwrap();
        assert!(values.iter().zip([16., 9., 0.]).all(|(a, b)| (a - b).abs() < 1e-12), "{values:?}");
    }

    #[test]
    fn left_singular_vectors_diagonalise_a_matrix() {
        // [[3, 0, 4], [0, 0, 0]] mixed by a rotation: values 5 and 0, vectors (0.6, 0.8) and (-0.8, 0.6)
        let row = [3., 0., 4.];
        let x = Matrix::from_fn(2, 3, |r, c| [0.6, 0.8][r] * row[c]);
        let (values, vectors) = left_singular(x.as_ref()).unwrap();
        assert!((values[0] - 5.).abs() < 1e-12 && values[1] < 1e-7, "{values:?}");
        let sign = vectors[(0, 0)].signum();
        assert!((sign * vectors[(0, 0)] - 0.6).abs() < 1e-12 && (sign * vectors[(0, 1)] - 0.8).abs() < 1e-12);
        // for any matrix, multiplying by the vectors gives orthogonal rows whose lengths are the singular values
        let x = wavy(4, 7);
        let (values, vectors) = left_singular(x.as_ref()).unwrap();
        let rotated = &vectors * &x;
        let products = &rotated * rotated.transpose();
        for (i, j) in (0..4).flat_map(|i| (0..4).map(move |j| (i, j))) {
            let expected = if i == j { values[i] * values[i] } else { 0. };
            assert!((products[(i, j)] - expected).abs() < 1e-9 * values[0] * values[0], "{i}, {j}");
        }
        assert!(values.windows(2).all(|pair| pair[0] >= pair[1]));
    }
}
