//! What to expect: how strong members of a bundle are, and how strong chance is.

/// Cosine of the sign of a bundle of n = `members` random bipolar vectors with each of them, whatever becomes of ties:
/// C(n - 1, ⌊(n - 1) / 2⌋) / 2^(n - 1), which falls as √(2/(πn)).
#[must_use]
pub fn member_cosine(members: u32) -> f64 {
    if members == 0 {
        return 0.;
    }
    // of the other n - 1, those that balance (or, for even n, miss balance by one) let the member decide
    let others = members - 1;
    let middle = others / 2;
    let choose = (0..middle).fold(1., |product, i| product * f64::from(others - i) / f64::from(i + 1));
    choose / 2f64.powi(others as i32)
}

/// Share of components that a constant -1 gets right in the sign of a bundle of `members` with ties at -1.
#[must_use]
pub fn constant_accuracy(members: u32) -> f64 {
    if members % 2 == 1 {
        return 0.5;
    }
    let middle = members / 2;
    let choose = (0..middle).fold(1., |product, i| product * f64::from(members - i) / f64::from(i + 1));
    0.5 + 0.5 * choose / 2f64.powi(members as i32)
}

/// Largest cosine to expect by chance between a vector of `dimension` components and `items` unrelated ones: about
/// √(2 ln m / D), with the next term of the normal distribution's extremes.
#[must_use]
pub fn noise(dimension: usize, items: usize) -> f64 {
    let spread = 1. / (dimension as f64).sqrt();
    if items < 2 {
        return 0.;
    }
    let root = (2. * (items as f64).ln()).sqrt();
    let correction = ((items as f64).ln().ln() + (4. * std::f64::consts::PI).ln()) / (2. * root);
    // the mean lies above the mode by Euler's constant over the root
    spread * (root - correction + 0.577_215_664_901_532_9 / root)
}
