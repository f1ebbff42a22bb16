//! Work over threads, cut by shape alone so that no byte depends on how many threads there are.

use rayon::prelude::*;

/// Rows in one part of a loop over rows, at least.
const ROWS: usize = 128;

/// Runs `run(first row, rows of out)` over blocks of rows: a quarter of them each, but no less than 128 and no more than
/// 512, because a product packs its right side once for each block.
pub(crate) fn over_rows<T: Send>(out: &mut [T], width: usize, run: impl Fn(usize, &mut [T]) + Sync) {
    if width == 0 {
        return;
    }
    let rows = (out.len() / width).div_ceil(4).next_multiple_of(32).clamp(ROWS, 4 * ROWS);
    if out.len() <= rows * width {
        run(0, out);
    } else {
        out.par_chunks_mut(rows * width).enumerate().for_each(|(i, out)| run(i * rows, out));
    }
}

/// Runs `run(first place, part of out)` over fixed blocks of `size` numbers.
pub(crate) fn over_blocks<T: Send>(out: &mut [T], size: usize, run: impl Fn(usize, &mut [T]) + Sync) {
    if out.len() <= size {
        run(0, out);
    } else {
        out.par_chunks_mut(size.max(1)).enumerate().for_each(|(i, out)| run(i * size, out));
    }
}

/// Rows of a product in one tile: a quarter of them, so that up to four threads share, but no less than 32.
///
/// Wider tiles make each product a little faster, but at d = 128 the step slower: threads then wait for each other.
#[must_use]
pub fn tile_rows(rows: usize) -> usize {
    rows.div_ceil(4).next_multiple_of(32).min(256)
}
