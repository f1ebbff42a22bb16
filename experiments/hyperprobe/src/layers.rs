//! The states of one document over the second half of the layers, and how they are pooled into one vector (arXiv
//! 2509.25045, section 3).

use anyhow::Result;
use probes::{Clusters, Matrix};
use rand::seq::SliceRandom;
use rand_chacha::ChaCha12Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the states of a document are pooled into one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The sum of the k-means centroids over the layers, as published. Each cluster counts the same, whatever its
    /// number of layers.
    SumOfCentroids,
    /// The mean over all layers.
    MeanOfLayers,
    /// The sum of all layers.
    SumOfLayers,
    /// The last layer, after the final norm.
    LastLayer,
    /// The sum of all layers, each scaled to length 1.
    SumOfDirections,
    /// The sum of the embeddings of the prompt's tokens; uses no states.
    Embeddings,
}

impl Pooling {
    /// All poolings, in declaration order.
    pub const ALL: [Self; 6] = [
        Self::SumOfCentroids,
        Self::MeanOfLayers,
        Self::SumOfLayers,
        Self::LastLayer,
        Self::SumOfDirections,
        Self::Embeddings,
    ];

    /// The name in stores and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::SumOfCentroids => "sum_of_centroids",
            Self::MeanOfLayers => "mean_of_layers",
            Self::SumOfLayers => "sum_of_layers",
            Self::LastLayer => "last_layer",
            Self::SumOfDirections => "sum_of_directions",
            Self::Embeddings => "embeddings",
        }
    }
}

/// The number of states of a model with `n_layers` blocks: the indices ⌊L/2⌋ to L.
pub fn states_of(n_layers: usize) -> usize {
    n_layers - n_layers / 2 + 1
}

/// The numbers of states and clusters. There are `most` clusters, or one less than the states if that is smaller.
pub fn sizes(n_layers: usize, most: usize) -> (usize, usize) {
    let states = states_of(n_layers);
    (states, most.min(states - 1).max(1))
}

/// The states of one document, `[states, d_model]`, as the model computes them. The last one is after the final norm.
#[derive(Clone, Debug)]
pub struct States {
    rows: Vec<Vec<f32>>,
}

/// The states that k-means starts from, the same for every document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Starts(Vec<usize>);

impl Starts {
    /// The first `clusters` entries of a random permutation of the states.
    pub fn new(states: usize, clusters: usize, rng: &mut ChaCha12Rng) -> Self {
        let mut order: Vec<usize> = (0..states).collect();
        order.shuffle(rng);
        order.truncate(clusters);
        Self(order)
    }
}

impl States {
    /// States from rows of equal length.
    pub fn new(rows: Vec<Vec<f32>>) -> Self {
        Self { rows }
    }

    fn width(&self) -> usize {
        self.rows.first().map_or(0, Vec::len)
    }

    /// The states as an f64 matrix, `[states, d_model]`.
    pub fn matrix(&self) -> Matrix {
        Matrix::from_fn(self.rows.len(), self.width(), |row, f| f64::from(self.rows[row][f]))
    }

    /// Runs k-means over the layers. A cluster that loses all its states takes the state farthest from its centre; the
    /// reference would continue with NaN.
    pub fn clusters(&self, starts: &Starts) -> Result<Clusters> {
        let x = self.matrix();
        let centres = Matrix::from_fn(starts.0.len(), self.width(), |cluster, f| x[(starts.0[cluster], f)]);
        Ok(Clusters::lloyd(x.as_ref(), centres.as_ref(), 1000)?)
    }

    /// Pools the states into one vector. For [`Pooling::Embeddings`] this returns the sum of the layers, because
    /// embeddings are not part of the states.
    pub fn pooled(&self, pooling: Pooling, clusters: &Clusters) -> Vec<f32> {
        let sum = |scale: &dyn Fn(&[f32]) -> f32| {
            let mut sum = vec![0f32; self.width()];
            for row in &self.rows {
                let scale = scale(row);
                sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += scale * x);
            }
            sum
        };
        match pooling {
            Pooling::SumOfCentroids => {
                let centres = &clusters.centres;
                let of = |f: usize| (0..centres.nrows()).map(|cluster| centres[(cluster, f)]).sum::<f64>();
                (0..self.width()).map(|f| of(f) as f32).collect()
            }
            Pooling::SumOfLayers | Pooling::Embeddings => sum(&|_| 1.),
            Pooling::MeanOfLayers => sum(&|_| 1. / self.rows.len() as f32),
            Pooling::LastLayer => self.rows.last().cloned().unwrap_or_default(),
            Pooling::SumOfDirections => sum(&|row| {
                let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
                if norm > 0. { 1. / norm } else { 0. }
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn state_and_cluster_counts_match_the_published_ones() {
        let expected = [(24, (13, 5)), (32, (17, 5)), (40, (21, 5)), (64, (33, 5)), (48, (25, 5))];
        let small = [(6, (4, 3)), (8, (5, 4)), (12, (7, 5)), (30, (16, 5))];
        for (n_layers, of) in expected.into_iter().chain(small) {
            assert_eq!(sizes(n_layers, 5), of, "{n_layers}");
        }
        assert_eq!((sizes(2, 5), sizes(1, 5)), ((2, 1), (2, 1)));
    }

    #[test]
    fn each_pooling_weights_layers_as_documented() {
        // Three layers are nearly equal and one is far away.
        let states = States::new(vec![vec![1., 0.], vec![1.1, 0.], vec![0.9, 0.], vec![0., 10.]]);
        let starts = Starts::new(4, 2, &mut ChaCha12Rng::seed_from_u64(1));
        let clusters = states.clusters(&starts).unwrap();
        let near = |pooling: Pooling, expected: [f32; 2]| {
            let ours = states.pooled(pooling, &clusters);
            assert!(ours.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{pooling:?}: {ours:?}");
        };
        near(Pooling::SumOfCentroids, [1., 10.]);
        near(Pooling::SumOfLayers, [3., 10.]);
        near(Pooling::MeanOfLayers, [0.75, 2.5]);
        near(Pooling::LastLayer, [0., 10.]);
        near(Pooling::SumOfDirections, [3., 1.]);
    }
}
