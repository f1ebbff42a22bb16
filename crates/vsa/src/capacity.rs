//! Capacity of bundles: expected cosine of a member, and of the best match by chance.

/// Expected cosine between the sign of a bundle of n = `members` random bipolar vectors and each of its members.
///
/// It is C(n - 1, ⌊(n - 1) / 2⌋) / 2^(n - 1), which falls as √(2/(πn)), and does not depend on how ties are broken.
///
/// ```
/// // one vector alone is its own bundle; of three, a member decides half of the components
/// assert_eq!(vsa::member_cosine(1), 1.0);
/// assert_eq!(vsa::member_cosine(3), 0.5);
/// ```
#[must_use]
pub fn member_cosine(members: u32) -> f64 {
    if members == 0 {
        return 0.;
    }
    // a member decides a component only where the other n - 1 vectors balance (for even n, within one vote)
    let others = members - 1;
    let middle = others / 2;
    let choose = (0..middle).fold(1., |product, i| product * f64::from(others - i) / f64::from(i + 1));
    choose / 2f64.powi(others as i32)
}

/// Fraction of components that the constant -1 predicts correctly in the sign of a bundle of `members` vectors, with ties
/// broken to -1: the baseline for the accuracy of any prediction of such a bundle.
#[must_use]
pub fn constant_accuracy(members: u32) -> f64 {
    if members % 2 == 1 {
        return 0.5;
    }
    let middle = members / 2;
    let choose = (0..middle).fold(1., |product, i| product * f64::from(members - i) / f64::from(i + 1));
    0.5 + 0.5 * choose / 2f64.powi(members as i32)
}

/// Expected largest cosine between a vector of D = `dimension` components and m = `items` unrelated ones.
///
/// To first order it is √(2 ln m / D); the next term of the expected maximum of m normal samples is included.
#[must_use]
pub fn noise(dimension: usize, items: usize) -> f64 {
    let spread = 1. / (dimension as f64).sqrt();
    if items < 2 {
        return 0.;
    }
    let root = (2. * (items as f64).ln()).sqrt();
    let correction = ((items as f64).ln().ln() + (4. * std::f64::consts::PI).ln()) / (2. * root);
    // mean of the Gumbel limit: the mode plus Euler's constant over the root
    spread * (root - correction + 0.577_215_664_901_532_9 / root)
}
