//! Real-valued vectors: MAP with normal components, and holographic reduced representations (HRR).

use std::cell::RefCell;

use rand::Rng;
use rand_distr::{Distribution, Normal};
use rustfft::{FftPlanner, num_complex::Complex};

use crate::Vector;

/// Multiply, add, permute with real components: binding is the componentwise product, components are normal with
/// variance 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Map(pub Vec<f32>);

/// Holographic reduced representations: binding is circular convolution (Plate 1995), components are normal with
/// variance 1 / D.
#[derive(Clone, Debug, PartialEq)]
pub struct Hrr(pub Vec<f32>);

fn normal(dimension: usize, rng: &mut impl Rng) -> Vec<f32> {
    let deviation = 1. / (dimension.max(1) as f32).sqrt();
    // `Normal::new` cannot fail here: the deviation is finite and positive
    Normal::new(0., deviation)
        .map_or_else(|_| vec![0.; dimension], |normal| normal.sample_iter(rng).take(dimension).collect())
}

fn rolled(x: &[f32], by: isize) -> Vec<f32> {
    let mut rolled = x.to_vec();
    if !x.is_empty() {
        rolled.rotate_right(by.rem_euclid(x.len() as isize) as usize);
    }
    rolled
}

fn cosine(x: &[f32], y: &[f32]) -> f64 {
    assert_eq!(x.len(), y.len(), "vectors of different dimensions");
    let sum =
        |pairs: &mut dyn Iterator<Item = (f32, f32)>| pairs.map(|(a, b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let both = |x: &[f32], y: &[f32]| sum(&mut x.iter().copied().zip(y.iter().copied()));
    both(x, y) / (both(x, x).sqrt().max(1e-8) * both(y, y).sqrt().max(1e-8))
}

fn total<'a>(vectors: impl IntoIterator<Item = &'a [f32]>) -> Vec<f32> {
    let mut vectors = vectors.into_iter();
    let mut sum = vectors.next().expect("a bundle of at least one vector").to_vec();
    for vector in vectors {
        assert_eq!(sum.len(), vector.len(), "vectors of different dimensions");
        sum.iter_mut().zip(vector).for_each(|(sum, x)| *sum += x);
    }
    sum
}

fn to_bytes(x: &[f32]) -> Vec<u8> {
    x.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn from_bytes(dimension: usize, bytes: &[u8]) -> Option<Vec<f32>> {
    let values = || bytes.chunks_exact(4).filter_map(|x| x.try_into().ok()).map(f32::from_le_bytes).collect();
    (bytes.len() == dimension * 4).then(values)
}

/// The methods that real-valued vectors share, for the body of an `impl Vector`: all but sampling and binding.
macro_rules! componentwise {
    () => {
        fn dimension(&self) -> usize {
            self.0.len()
        }

        fn negative(&self) -> Self {
            Self(self.0.iter().map(|x| -x).collect())
        }

        fn permute(&self, by: isize) -> Self {
            Self(rolled(&self.0, by))
        }

        fn cosine(&self, other: &Self) -> f64 {
            cosine(&self.0, &other.0)
        }

        fn bundle<'a>(vectors: impl IntoIterator<Item = &'a Self>) -> Self {
            Self(total(vectors.into_iter().map(|vector| vector.0.as_slice())))
        }

        fn to_bytes(&self) -> Vec<u8> {
            to_bytes(&self.0)
        }

        fn from_bytes(dimension: usize, bytes: &[u8]) -> Option<Self> {
            from_bytes(dimension, bytes).map(Self)
        }

        fn byte_length(dimension: usize) -> usize {
            dimension * 4
        }
    };
}

impl Vector for Map {
    type Bundle = Self;
    const KIND: u8 = 2;

    fn random(dimension: usize, rng: &mut impl Rng) -> Self {
        // unit variance, so that products keep their scale
        Self(normal(dimension, rng).into_iter().map(|x| x * (dimension as f32).sqrt()).collect())
    }

    fn identity(dimension: usize) -> Self {
        Self(vec![1.; dimension])
    }

    fn bind(&self, other: &Self) -> Self {
        assert_eq!(self.0.len(), other.0.len(), "vectors of different dimensions");
        Self(self.0.iter().zip(&other.0).map(|(a, b)| a * b).collect())
    }

    /// The vector itself, as in torchhd: binding twice multiplies by squares, which are positive.
    fn inverse(&self) -> Self {
        self.clone()
    }

    componentwise!();
}

thread_local! {
    /// Caches the plans of the transforms of a thread.
    static PLANNER: RefCell<FftPlanner<f32>> = RefCell::new(FftPlanner::new());
}

fn transform(x: &mut [Complex<f32>], back: bool) {
    let plan = PLANNER.with_borrow_mut(|planner| match back {
        true => planner.plan_fft_inverse(x.len()),
        false => planner.plan_fft_forward(x.len()),
    });
    plan.process(x);
}

impl Hrr {
    /// The exact inverse of binding: the reciprocal of every frequency. It amplifies noise where a frequency is weak,
    /// which [`Vector::inverse`] does not.
    #[must_use]
    pub fn exact_inverse(&self) -> Self {
        let mut x: Vec<Complex<f32>> = self.0.iter().map(|x| Complex::new(*x, 0.)).collect();
        transform(&mut x, false);
        x.iter_mut().for_each(|x| *x = x.conj() / x.norm_sqr().max(1e-12));
        Self(real(x))
    }
}

fn real(mut x: Vec<Complex<f32>>) -> Vec<f32> {
    let scale = 1. / x.len().max(1) as f32;
    transform(&mut x, true);
    x.into_iter().map(|x| x.re * scale).collect()
}

impl Vector for Hrr {
    type Bundle = Self;
    const KIND: u8 = 3;

    fn random(dimension: usize, rng: &mut impl Rng) -> Self {
        Self(normal(dimension, rng))
    }

    fn identity(dimension: usize) -> Self {
        let mut one = vec![0.; dimension];
        if let Some(first) = one.first_mut() {
            *first = 1.;
        }
        Self(one)
    }

    fn bind(&self, other: &Self) -> Self {
        assert_eq!(self.0.len(), other.0.len(), "vectors of different dimensions");
        if self.0.is_empty() {
            return self.clone();
        }
        // one transform for both real vectors: x in the real part, y in the imaginary part
        let mut z: Vec<Complex<f32>> = self.0.iter().zip(&other.0).map(|(x, y)| Complex::new(*x, *y)).collect();
        transform(&mut z, false);
        let d = z.len();
        let product = (0..d)
            .map(|k| {
                let (a, b) = (z[k], z[(d - k) % d].conj());
                let (x, y) = ((a + b) * 0.5, (a - b) * Complex::new(0., -0.5));
                x * y
            })
            .collect();
        Self(real(product))
    }

    /// The involution: all components but the first in reverse order. Binding with it approximately undoes binding.
    fn inverse(&self) -> Self {
        let d = self.0.len();
        Self((0..d).map(|i| self.0[(d - i) % d]).collect())
    }

    componentwise!();
}
