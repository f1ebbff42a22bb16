//! Parallel loops, split by shape alone so that no byte depends on the number of threads.

use rayon::prelude::*;

/// Minimum number of rows in one part of a loop over rows.
const ROWS: usize = 128;

/// Runs `run(first row, rows of out)` over blocks of rows. A block has a quarter of the rows, but at least 128 and at most
/// 512: a product packs its right side once per block, so small blocks are expensive.
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

/// Runs `run(first index, part of out)` over fixed blocks of `size` numbers.
pub(crate) fn over_blocks<T: Send>(out: &mut [T], size: usize, run: impl Fn(usize, &mut [T]) + Sync) {
    if out.len() <= size {
        run(0, out);
    } else {
        out.par_chunks_mut(size.max(1)).enumerate().for_each(|(i, out)| run(i * size, out));
    }
}

/// Rows of a product in one tile: a quarter of them, so that four threads can share the work, but at least 32.
///
/// Larger tiles make each product slightly faster, but at d = 128 the training step slower, because threads then wait for
/// each other.
#[must_use]
pub fn tile_rows(rows: usize) -> usize {
    rows.div_ceil(4).next_multiple_of(32).min(256)
}
