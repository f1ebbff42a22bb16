//! Statistics of recorded activations: linear probes, principal components, Fourier fits, clusters and correlations.
//!
//! Everything computes in f64 on [`faer`] matrices with one row per sample. [`matrix`] converts a candle tensor.
//!
//! # Example
//!
//! A linear probe, and the same data reduced to its principal components:
//!
//! ```
//! use probes::{Linear, Matrix, Pca, r_squared};
//!
//! // two features, the target is 3 x0 - x1 + 2
//! let x = Matrix::from_fn(6, 2, |row, column| ((row * 5 + column * 3) % 7) as f64);
//! let y = Matrix::from_fn(6, 1, |row, _| 3. * x[(row, 0)] - x[(row, 1)] + 2.);
//! let probe = Linear::ridge(x.as_ref(), y.as_ref(), 1e-9)?;
//! assert!(r_squared(probe.predict(x.as_ref()).as_ref(), y.as_ref())[0] > 0.999_999);
//!
//! let pca = Pca::fit(x.as_ref(), 2)?;
//! assert!((pca.explained().iter().sum::<f64>() - 1.).abs() < 1e-12);
//! # Ok::<(), probes::Error>(())
//! ```
//!
//! # Overview
//!
//! | | |
//! |---|---|
//! | [`Linear`] | ridge regression in closed form, or AdamW as published ([`Descent`]); [`r_squared`], [`mean_absolute_error`] |
//! | [`Pca`] | principal components; [`overlap`] of two subspaces, [`spectrum`], [`left_singular`] |
//! | [`Clusters`] | k-means with k-means++ starts; [`silhouette`] |
//! | [`Fourier`] | variance explained by a few frequencies of a period |
//! | [`additive_r2`] | variance explained by one vector per value of each factor |
//! | [`mean`], [`correlation`], [`bootstrap`], … | moments, ranks, quantiles and intervals of lists |
//!
//! # Contract
//!
//! Fits refuse NaN, infinities and shapes that disagree with an [`Error`] that names the matrix. Whatever is random takes
//! a generator as an argument. Ridge regression, PCA and k-means agree with scikit-learn to 1e-6, which a test checks.
//! The crate knows no models, files or configurations.

mod additive;
mod clusters;
mod error;
mod fourier;
mod linear;
mod moments;
mod pca;

pub use additive::additive_r2;
pub use clusters::{Clusters, silhouette};
pub use error::Error;
pub use fourier::Fourier;
pub use linear::{Descent, Linear, mean_absolute_error, mean_absolute_error_of_mean, r_squared};
pub use moments::{bootstrap, correlation, mean, median, quantile, rank_correlation, standard_deviation};
pub use pca::{Pca, left_singular, overlap, spectrum};

/// Samples in rows, features in columns.
pub type Matrix = faer::Mat<f64>;
/// A borrowed [`Matrix`].
pub type MatrixRef<'a> = faer::MatRef<'a, f64>;

/// A tensor of any float type as a matrix: the last axis becomes the columns, the others are flattened into rows.
///
/// # Errors
/// When the tensor is a scalar, or its values cannot be read.
pub fn matrix(tensor: &candle_core::Tensor) -> Result<Matrix, Error> {
    use candle_core::{D, DType};
    let columns = tensor.dim(D::Minus1)?;
    let values = tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
    let rows = values.len().checked_div(columns).unwrap_or(0);
    Ok(Matrix::from_fn(rows, columns, |row, column| values[row * columns + column]))
}

fn finite(what: &'static str, x: MatrixRef<'_>) -> Result<(), Error> {
    match (0..x.ncols()).flat_map(|column| (0..x.nrows()).map(move |row| (row, column))).find(|at| !x[*at].is_finite())
    {
        Some((row, column)) => Err(Error::NotFinite { what, row, column }),
        None => Ok(()),
    }
}

fn column_means(x: MatrixRef<'_>) -> Vec<f64> {
    let count = x.nrows() as f64;
    (0..x.ncols()).map(|column| x.col(column).iter().sum::<f64>() / count).collect()
}

fn centred(x: MatrixRef<'_>, means: &[f64]) -> Matrix {
    Matrix::from_fn(x.nrows(), x.ncols(), |row, column| x[(row, column)] - means[column])
}
