//! k-means.

use rand::Rng;
use rand_chacha::ChaCha12Rng;

use crate::{Error, Matrix, MatrixRef, finite};

/// A k-means clustering.
///
/// ```
/// use probes::{Clusters, Matrix, silhouette};
/// use rand_chacha::{ChaCha12Rng, rand_core::SeedableRng};
///
/// // three groups around 0, 10 and 20
/// let x = Matrix::from_fn(30, 1, |row, _| (row % 3 * 10) as f64 + (row as f64).sin());
/// let found = Clusters::fit(x.as_ref(), 3, 5, &mut ChaCha12Rng::seed_from_u64(1))?;
/// assert_eq!(found.labels[0], found.labels[3]);
/// assert_ne!(found.labels[0], found.labels[1]);
/// assert!(silhouette(x.as_ref(), &found.labels)? > 0.8);
/// # Ok::<(), probes::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Clusters {
    /// `[clusters, features]`.
    pub centres: Matrix,
    /// The cluster of each sample.
    pub labels: Vec<usize>,
    /// Sum of squared distances to the centres.
    pub inertia: f64,
    /// Number of iterations.
    pub rounds: usize,
}

impl Clusters {
    /// Lloyd's algorithm from given centres, until no sample changes its cluster, or for `most` iterations. A cluster that
    /// loses all its samples takes the sample that is farthest from its own centre.
    ///
    /// # Shapes
    /// `x` `[samples, features]`, `centres` `[clusters, features]`.
    ///
    /// # Errors
    /// When there are fewer samples than clusters, widths differ, or a value is not finite.
    pub fn lloyd(x: MatrixRef<'_>, centres: MatrixRef<'_>, most: usize) -> Result<Self, Error> {
        check(x, centres.nrows())?;
        if centres.ncols() != x.ncols() {
            return Err(Error::Columns { what: "the centres", found: centres.ncols(), expected: x.ncols() });
        }
        let mut centres = centres.to_owned();
        let (mut labels, mut distances) = nearest(x, &centres);
        let mut rounds = 0;
        while rounds < most {
            rounds += 1;
            centres = means(x, &labels, &mut distances, centres.nrows());
            let (next, next_distances) = nearest(x, &centres);
            let same = next == labels;
            (labels, distances) = (next, next_distances);
            if same {
                break;
            }
        }
        Ok(Self { centres, inertia: distances.iter().sum(), labels, rounds })
    }

    /// The clustering of the lowest inertia among `restarts` runs of [`Self::lloyd`], each from centres sampled by
    /// k-means++: with probabilities proportional to the squared distance from the centres so far.
    ///
    /// # Errors
    /// As for [`Self::lloyd`].
    pub fn fit(x: MatrixRef<'_>, clusters: usize, restarts: usize, rng: &mut ChaCha12Rng) -> Result<Self, Error> {
        check(x, clusters)?;
        let mut best: Option<Self> = None;
        for _ in 0..restarts.max(1) {
            let found = Self::lloyd(x, spread(x, clusters, rng).as_ref(), 300)?;
            if best.as_ref().is_none_or(|best| found.inertia < best.inertia) {
                best = Some(found);
            }
        }
        best.ok_or(Error::NoConvergence)
    }
}

fn check(x: MatrixRef<'_>, clusters: usize) -> Result<(), Error> {
    if clusters == 0 || clusters > x.nrows() {
        return Err(Error::Range { what: "the number of clusters", found: clusters, least: 1, most: x.nrows() });
    }
    finite("the samples", x)
}

fn squared(x: MatrixRef<'_>, row: usize, centres: &Matrix, centre: usize) -> f64 {
    (0..x.ncols()).map(|f| (x[(row, f)] - centres[(centre, f)]).powi(2)).sum()
}

fn nearest(x: MatrixRef<'_>, centres: &Matrix) -> (Vec<usize>, Vec<f64>) {
    let of = |row: usize| {
        let distances = (0..centres.nrows()).map(|centre| (centre, squared(x, row, centres, centre)));
        distances.fold((0, f64::INFINITY), |best, next| if next.1 < best.1 { next } else { best })
    };
    (0..x.nrows()).map(of).unzip()
}

fn means(x: MatrixRef<'_>, labels: &[usize], distances: &mut [f64], clusters: usize) -> Matrix {
    let mut sums = Matrix::zeros(clusters, x.ncols());
    let mut counts = vec![0usize; clusters];
    for (row, label) in labels.iter().enumerate() {
        counts[*label] += 1;
        (0..x.ncols()).for_each(|f| sums[(*label, f)] += x[(row, f)]);
    }
    for cluster in 0..clusters {
        if counts[cluster] == 0 {
            let far = (0..x.nrows()).max_by(|a, b| distances[*a].total_cmp(&distances[*b])).unwrap_or(0);
            distances[far] = 0.;
            (0..x.ncols()).for_each(|f| sums[(cluster, f)] = x[(far, f)]);
            counts[cluster] = 1;
        }
        (0..x.ncols()).for_each(|f| sums[(cluster, f)] /= counts[cluster] as f64);
    }
    sums
}

fn spread(x: MatrixRef<'_>, clusters: usize, rng: &mut ChaCha12Rng) -> Matrix {
    let mut chosen = vec![rng.random_range(0..x.nrows())];
    let single = |row: usize| Matrix::from_fn(1, x.ncols(), |_, f| x[(row, f)]);
    let mut distances: Vec<f64> = nearest(x, &single(chosen[0])).1;
    while chosen.len() < clusters {
        let all: f64 = distances.iter().sum();
        let mut left = rng.random::<f64>() * all;
        let row = distances.iter().position(|distance| {
            left -= distance;
            left < 0.
        });
        // all samples coincide with centres: take any sample that is not a centre yet
        let row = row.unwrap_or_else(|| (0..x.nrows()).find(|row| !chosen.contains(row)).unwrap_or(0));
        chosen.push(row);
        let new = nearest(x, &single(row)).1;
        distances.iter_mut().zip(new).for_each(|(old, new)| *old = old.min(new));
    }
    Matrix::from_fn(clusters, x.ncols(), |cluster, f| x[(chosen[cluster], f)])
}

/// Mean silhouette, as scikit-learn's `silhouette_score` with Euclidean distances.
///
/// The silhouette of a sample is (b - a) / max(a, b). Here a is its mean distance to the rest of its cluster, and b its
/// mean distance to the nearest other cluster. It is 0 for a sample that is alone in its cluster.
///
/// # Errors
/// When there is not one label per sample, there are fewer than two clusters, or a value is not finite.
pub fn silhouette(x: MatrixRef<'_>, labels: &[usize]) -> Result<f64, Error> {
    finite("the samples", x)?;
    if labels.len() != x.nrows() {
        return Err(Error::Rows { what: "the labels", found: labels.len(), expected: x.nrows() });
    }
    let clusters = labels.iter().max().map_or(0, |most| most + 1);
    let mut counts = vec![0usize; clusters];
    labels.iter().for_each(|label| counts[*label] += 1);
    let filled = counts.iter().filter(|count| **count > 0).count();
    if filled < 2 {
        return Err(Error::Range { what: "the number of clusters", found: filled, least: 2, most: x.nrows() });
    }
    let score = |row: usize| {
        let mut sums = vec![0.; clusters];
        for other in (0..x.nrows()).filter(|other| *other != row) {
            let square: f64 = (0..x.ncols()).map(|f| (x[(row, f)] - x[(other, f)]).powi(2)).sum();
            sums[labels[other]] += square.sqrt();
        }
        let own = labels[row];
        if counts[own] == 1 {
            return 0.;
        }
        let within = sums[own] / (counts[own] - 1) as f64;
        let others = (0..clusters).filter(|cluster| *cluster != own && counts[*cluster] > 0);
        let beside = others.map(|cluster| sums[cluster] / counts[cluster] as f64).fold(f64::INFINITY, f64::min);
        let most = within.max(beside);
        if most > 0. { (beside - within) / most } else { 0. }
    };
    Ok((0..x.nrows()).map(score).sum::<f64>() / x.nrows() as f64)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    const SCORES: [([usize; 6], f64); 3] = [
        ([0, 0, 0, 1, 1, 1], 0.680_337_595_522_325),
        ([0, 1, 2, 0, 1, 2], -0.322_409_755_666_387_6),
        ([0, 0, 1, 1, 1, 2], -0.171_754_651_411_273_5),
    ];

    #[test]
    fn separated_groups_are_found() {
        let x = Matrix::from_fn(90, 2, |row, f| ((row % 3) * 10) as f64 + ((row * 7 + f) as f64).sin());
        let found = Clusters::fit(x.as_ref(), 3, 5, &mut ChaCha12Rng::seed_from_u64(3)).unwrap();
        assert!((0..90).all(|row| found.labels[row] == found.labels[row % 3]) && found.inertia < 100.);
    }

    #[test]
    fn silhouettes_agree_with_scikit_learn() {
        let x = Matrix::from_fn(6, 2, |row, f| ((row * 5 + f * 3) % 7) as f64 + if row < 3 { 10. } else { 0. });
        // sklearn.metrics.silhouette_score of the same numbers
        for (labels, expected) in SCORES {
            let ours = silhouette(x.as_ref(), &labels).unwrap();
            assert!((ours - expected).abs() < 1e-12, "{labels:?}: {ours}");
        }
        assert!(silhouette(x.as_ref(), &[0; 6]).is_err() && silhouette(x.as_ref(), &[0, 1]).is_err());
    }

    #[test]
    fn an_empty_cluster_takes_the_farthest_sample() {
        let x = Matrix::from_fn(4, 1, |row, _| [0., 1., 2., 50.][row]);
        let start = Matrix::from_fn(2, 1, |centre, _| [1., 1e6][centre]);
        let found = Clusters::lloyd(x.as_ref(), start.as_ref(), 20).unwrap();
        assert_eq!(found.labels, [0, 0, 0, 1]);
        assert!(Clusters::lloyd(x.as_ref(), Matrix::zeros(5, 1).as_ref(), 20).is_err());
        // more clusters than distinct samples
        let same = Matrix::zeros(4, 1);
        assert_eq!(Clusters::fit(same.as_ref(), 3, 1, &mut ChaCha12Rng::seed_from_u64(3)).unwrap().inertia, 0.);
    }
}
