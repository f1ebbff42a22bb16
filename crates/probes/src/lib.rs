//! Numbers about numbers: what is asked of activations and effects once they are recorded, in f64.

mod moments;

pub use moments::{correlation, mean, standard_deviation};
