//! Rotary position embedding (arXiv 2104.09864).

use super::{Real, vectorised};

/// The pairs of entries of a head that are rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairs {
    /// Entry `i` with entry `i + width / 2`, as in NeoX and Llama checkpoints of the hub.
    Halves,
    /// Entry `2i` with entry `2i + 1`, as in the paper and GPT-J.
    Interleaved,
}

/// Rotates the first `rotary_dim` entries of each row by its angles, in place; `inverse` rotates back.
///
/// `x` `[rows, width]`; `cos` and `sin` `[rows, rotary_dim / 2]`.
///
/// # Panics
/// When the lengths do not fit.
pub fn apply<T: Real>(pairs: Pairs, x: &mut [T], width: usize, rotary_dim: usize, cos: &[T], sin: &[T], inverse: bool) {
    let half = rotary_dim / 2;
    assert!(rotary_dim <= width && cos.len() == sin.len(), "sizes of a rotation");
    assert_eq!(x.len() * half, cos.len() * width, "angles of a rotation");
    let sign = if inverse { -T::one() } else { T::one() };
    vectorised(
        #[inline(always)]
        || {
            for ((row, cos), sin) in
                x.chunks_exact_mut(width).zip(cos.chunks_exact(half.max(1))).zip(sin.chunks_exact(half.max(1)))
            {
                match pairs {
                    Pairs::Halves => {
                        let (a, b) = row[..rotary_dim].split_at_mut(half);
                        for i in 0..half {
                            let (x, y, sin) = (a[i], b[i], sin[i] * sign);
                            a[i] = x * cos[i] - y * sin;
                            b[i] = y * cos[i] + x * sin;
                        }
                    }
                    Pairs::Interleaved => {
                        for (i, pair) in row[..rotary_dim].chunks_exact_mut(2).enumerate() {
                            let (x, y, sin) = (pair[0], pair[1], sin[i] * sign);
                            pair[0] = x * cos[i] - y * sin;
                            pair[1] = y * cos[i] + x * sin;
                        }
                    }
                }
            }
        },
    );
}
