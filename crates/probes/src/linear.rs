//! Linear probes, fitted in closed form or by gradient descent.

use faer::linalg::solvers::Solve;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha12Rng;
use rand_distr::{Distribution, Normal};

use crate::{Error, Matrix, MatrixRef, centred, column_means, finite};

/// A linear probe: an affine map from features to targets.
///
/// ```
/// use probes::{Linear, Matrix, r_squared};
///
/// let x = Matrix::from_fn(50, 3, |row, column| ((row * 7 + column * 3) % 11) as f64);
/// let y = Matrix::from_fn(50, 1, |row, _| 2. * x[(row, 0)] - x[(row, 2)] + 5.);
/// let probe = Linear::ridge(x.as_ref(), y.as_ref(), 1e-6)?;
/// assert!((probe.weights[(0, 0)] - 2.).abs() < 1e-6 && (probe.intercept[0] - 5.).abs() < 1e-4);
/// assert!(r_squared(probe.predict(x.as_ref()).as_ref(), y.as_ref())[0] > 0.999_999);
/// # Ok::<(), probes::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Linear {
    /// `[features, targets]`.
    pub weights: Matrix,
    /// `[targets]`.
    pub intercept: Vec<f64>,
}

/// Settings of a fit by AdamW as in arXiv 2510.00184: mean squared error, no intercept, early stopping.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Descent {
    /// Learning rate.
    pub lr: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Maximum number of passes over the samples.
    pub epochs: usize,
    /// Samples per step.
    pub batch: usize,
    /// Steps between evaluations on the held-out samples.
    pub every: usize,
    /// Number of evaluations without a lower mean absolute error after which the fit stops.
    pub patience: usize,
    /// Standard deviation of the initial weights.
    pub start: f64,
}

impl Default for Descent {
    /// The settings of the code released with arXiv 2510.00184.
    fn default() -> Self {
        Self { lr: 1e-3, weight_decay: 0.01, epochs: 10, batch: 64, every: 100, patience: 10, start: 0.02 }
    }
}

impl Linear {
    /// Ridge regression: minimises the sum of squared errors plus `penalty` times the sum of squared weights. The
    /// intercept is not penalised. Solved by Cholesky decomposition of the normal equations.
    ///
    /// # Shapes
    /// `x` `[samples, features]`, `y` `[samples, targets]`.
    ///
    /// # Errors
    /// When the numbers of rows differ or are zero, a value is not finite, or the features are linearly dependent and the
    /// penalty is too small to make the solution unique.
    pub fn ridge(x: MatrixRef<'_>, y: MatrixRef<'_>, penalty: f64) -> Result<Self, Error> {
        check(x, y)?;
        let (x_mean, y_mean) = (column_means(x), column_means(y));
        let (x, y) = (centred(x, &x_mean), centred(y, &y_mean));
        let mut square = x.transpose() * &x;
        for feature in 0..square.nrows() {
            square[(feature, feature)] += penalty;
        }
        let factor = square.llt(faer::Side::Lower).map_err(|_| Error::Singular { penalty })?;
        let weights = factor.solve(x.transpose() * &y);
        if finite("the solution", weights.as_ref()).is_err() {
            return Err(Error::Singular { penalty });
        }
        let shift = |target: usize| -> f64 {
            x_mean.iter().enumerate().map(|(feature, mean)| mean * weights[(feature, target)]).sum()
        };
        let intercept = y_mean.iter().enumerate().map(|(target, mean)| mean - shift(target)).collect();
        Ok(Self { weights, intercept })
    }

    /// Fits a probe without intercept by AdamW, and returns the weights with the lowest mean absolute error on the
    /// held-out samples.
    ///
    /// # Shapes
    /// `x` `[samples, features]`, `y` `[samples, targets]`; held-out samples likewise.
    ///
    /// # Errors
    /// When the shapes disagree or a value is not finite.
    pub fn descend(
        [x, y]: [MatrixRef<'_>; 2],
        [held_x, held_y]: [MatrixRef<'_>; 2],
        settings: &Descent,
        rng: &mut ChaCha12Rng,
    ) -> Result<Self, Error> {
        check(x, y)?;
        check(held_x, held_y)?;
        if held_x.ncols() != x.ncols() {
            return Err(Error::Columns { what: "the held-out samples", found: held_x.ncols(), expected: x.ncols() });
        }
        let (features, targets) = (x.ncols(), y.ncols());
        let normal = Normal::new(0., settings.start).map_err(|error| Error::Candle(error.to_string()))?;
        let mut adam = Adam::new(Matrix::from_fn(features, targets, |_, _| normal.sample(rng)));
        let mut best = (f64::INFINITY, adam.weights.clone());
        let (mut step, mut worse) = (0, 0);
        let mut order: Vec<usize> = (0..x.nrows()).collect();
        'training: for _ in 0..settings.epochs {
            order.shuffle(rng);
            for batch in order.chunks(settings.batch.max(1)) {
                let rows = |of: MatrixRef<'_>| {
                    Matrix::from_fn(batch.len(), of.ncols(), |row, column| of[(batch[row], column)])
                };
                let (x, y) = (rows(x), rows(y));
                let error = &x * &adam.weights - y;
                let gradient = x.transpose() * error * faer::Scale(2. / (batch.len() * targets) as f64);
                adam.update(&gradient, settings);
                step += 1;
                if step % settings.every == 0 {
                    let errors = mean_absolute_error((held_x * &adam.weights).as_ref(), held_y);
                    let error = crate::mean(&errors);
                    worse = if error < best.0 { 0 } else { worse + 1 };
                    if error < best.0 {
                        best = (error, adam.weights.clone());
                    }
                    if worse == settings.patience {
                        break 'training;
                    }
                }
            }
        }
        let weights = if best.0.is_finite() { best.1 } else { adam.weights };
        Ok(Self { weights, intercept: vec![0.; targets] })
    }

    /// The predictions for samples, `[samples, targets]`.
    #[must_use]
    pub fn predict(&self, x: MatrixRef<'_>) -> Matrix {
        let product = x * &self.weights;
        Matrix::from_fn(product.nrows(), product.ncols(), |row, target| product[(row, target)] + self.intercept[target])
    }
}

fn check(x: MatrixRef<'_>, y: MatrixRef<'_>) -> Result<(), Error> {
    if x.nrows() == 0 {
        return Err(Error::TooFew { found: 0, least: 1 });
    }
    if x.nrows() != y.nrows() {
        return Err(Error::Rows { what: "the targets", found: y.nrows(), expected: x.nrows() });
    }
    finite("the samples", x)?;
    finite("the targets", y)
}

/// AdamW on one matrix.
struct Adam {
    weights: Matrix,
    first: Matrix,
    second: Matrix,
    updates: i32,
}

impl Adam {
    fn new(weights: Matrix) -> Self {
        let zeros = Matrix::zeros(weights.nrows(), weights.ncols());
        Self { weights, first: zeros.clone(), second: zeros, updates: 0 }
    }

    fn update(&mut self, gradient: &Matrix, settings: &Descent) {
        const BETAS: [f64; 2] = [0.9, 0.999];
        self.updates += 1;
        let correction = BETAS.map(|beta| 1. - beta.powi(self.updates));
        for column in 0..gradient.ncols() {
            for row in 0..gradient.nrows() {
                let (at, g) = ((row, column), gradient[(row, column)]);
                self.first[at] = BETAS[0] * self.first[at] + (1. - BETAS[0]) * g;
                self.second[at] = BETAS[1] * self.second[at] + (1. - BETAS[1]) * g * g;
                let step = self.first[at] / correction[0] / ((self.second[at] / correction[1]).sqrt() + 1e-8);
                self.weights[at] -= settings.lr * (settings.weight_decay * self.weights[at] + step);
            }
        }
    }
}

/// Mean absolute error of each target, `[targets]`.
#[must_use]
pub fn mean_absolute_error(predicted: MatrixRef<'_>, truth: MatrixRef<'_>) -> Vec<f64> {
    each(predicted, truth, |pairs| pairs.iter().map(|(p, t)| (p - t).abs()).sum::<f64>() / pairs.len() as f64)
}

/// Mean absolute error of the baseline that always predicts the mean of the `fitted` targets, `[targets]`.
#[must_use]
pub fn mean_absolute_error_of_mean(fitted: MatrixRef<'_>, truth: MatrixRef<'_>) -> Vec<f64> {
    let means = column_means(fitted);
    let constant = Matrix::from_fn(truth.nrows(), truth.ncols(), |_, target| means[target]);
    mean_absolute_error(constant.as_ref(), truth)
}

/// Coefficient of determination of each target: one minus the squared error over the squared distance from the mean.
/// NaN or minus infinity for a target that is constant.
#[must_use]
pub fn r_squared(predicted: MatrixRef<'_>, truth: MatrixRef<'_>) -> Vec<f64> {
    each(predicted, truth, |pairs| {
        let mean = pairs.iter().map(|(_, t)| t).sum::<f64>() / pairs.len() as f64;
        let error: f64 = pairs.iter().map(|(p, t)| (p - t).powi(2)).sum();
        let total: f64 = pairs.iter().map(|(_, t)| (t - mean).powi(2)).sum();
        1. - error / total
    })
}

fn each(predicted: MatrixRef<'_>, truth: MatrixRef<'_>, of: impl Fn(&[(f64, f64)]) -> f64) -> Vec<f64> {
    let pairs = |target: usize| predicted.col(target).iter().copied().zip(truth.col(target).iter().copied()).collect();
    (0..truth.ncols()).map(|target| of(&pairs(target) as &Vec<(f64, f64)>)).collect()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn samples(count: usize, rng: &mut ChaCha12Rng) -> [Matrix; 2] {
        let normal = Normal::new(0., 1.).unwrap();
        let x = Matrix::from_fn(count, 8, |_, _| normal.sample(rng));
        let y = Matrix::from_fn(count, 2, |row, target| {
            (0..8).map(|feature| x[(row, feature)] * (feature as f64 - 3. + target as f64)).sum::<f64>()
        });
        [x, y]
    }

    #[test]
    fn descent_converges_to_the_linear_map() {
        let mut rng = ChaCha12Rng::seed_from_u64(1);
        let [x, y] = samples(4000, &mut rng);
        let [held_x, held_y] = samples(500, &mut rng);
        let settings = Descent { lr: 0.05, ..Descent::default() };
        let pair = |x: &Matrix, y: &Matrix| [x.clone(), y.clone()];
        let ([x, y], [hx, hy]) = (pair(&x, &y), pair(&held_x, &held_y));
        let probe = Linear::descend([x.as_ref(), y.as_ref()], [hx.as_ref(), hy.as_ref()], &settings, &mut rng).unwrap();
        let r2 = r_squared(probe.predict(hx.as_ref()).as_ref(), hy.as_ref());
        assert!(r2.iter().all(|r2| *r2 > 0.999), "{r2:?}");
    }

    #[test]
    fn predicting_the_mean_explains_nothing() {
        let truth = Matrix::from_fn(4, 1, |row, _| row as f64);
        let mean = Matrix::from_fn(4, 1, |_, _| 1.5);
        assert_eq!(r_squared(mean.as_ref(), truth.as_ref()), [0.]);
        assert_eq!(mean_absolute_error_of_mean(truth.as_ref(), truth.as_ref()), [1.]);
    }

    #[test]
    fn unusable_samples_are_refused() {
        let x = Matrix::from_fn(5, 2, |row, _| row as f64); // two equal columns
        let y = Matrix::from_fn(5, 1, |row, _| row as f64);
        assert!(matches!(Linear::ridge(x.as_ref(), y.as_ref(), 0.), Err(Error::Singular { .. })));
        assert!(Linear::ridge(x.as_ref(), y.as_ref(), 1e-6).is_ok());
        let short = Matrix::zeros(4, 1);
        assert!(matches!(Linear::ridge(x.as_ref(), short.as_ref(), 1.), Err(Error::Rows { found: 4, .. })));
        let nan = Matrix::from_fn(5, 1, |row, _| if row == 3 { f64::NAN } else { 0. });
        let refused = Linear::ridge(x.as_ref(), nan.as_ref(), 1.).unwrap_err().to_string();
        assert_eq!(refused, "the targets must be finite, but row 3, column 0 is NaN or infinite");
    }
}
