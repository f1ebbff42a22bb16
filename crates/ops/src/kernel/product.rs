//! Matrix products, on one thread each, by faer.

use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::Real;

/// A matrix in a slice, possibly a part of a wider one.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a, T> {
    data: &'a [T],
    rows: usize,
    cols: usize,
    /// Distance between the beginnings of two rows.
    stride: usize,
    transposed: bool,
}

impl<'a, T> Matrix<'a, T> {
    /// Row-major, rows one after the other.
    ///
    /// # Panics
    /// When the slice is not `rows * cols` long.
    #[must_use]
    pub fn new(data: &'a [T], rows: usize, cols: usize) -> Self {
        assert_eq!(data.len(), rows * cols, "a slice for a matrix of {rows} x {cols}");
        Self { data, rows, cols, stride: cols, transposed: false }
    }

    /// Row-major, `stride` apart; the slice begins with the first element and may go on behind the last.
    ///
    /// # Panics
    /// When the slice is too short.
    #[must_use]
    pub fn strided(data: &'a [T], rows: usize, cols: usize, stride: usize) -> Self {
        let needed = if rows == 0 || cols == 0 { 0 } else { (rows - 1) * stride + cols };
        assert!(data.len() >= needed && cols <= stride.max(1), "a slice for {rows} x {cols}, {stride} apart");
        Self { data: &data[..needed], rows, cols, stride, transposed: false }
    }

    /// The transpose, without moving anything.
    #[must_use]
    pub fn t(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }

    fn shape(&self) -> (usize, usize) {
        if self.transposed { (self.cols, self.rows) } else { (self.rows, self.cols) }
    }

    /// A part, from a row and a column on.
    fn part(self, (row, rows): (usize, usize), (col, cols): (usize, usize)) -> Self {
        let (row, rows, col, cols) = if self.transposed { (col, cols, row, rows) } else { (row, rows, col, cols) };
        let part = Self::strided(&self.data[row * self.stride + col..], rows, cols, self.stride);
        Self { transposed: self.transposed, ..part }
    }

    fn view(&self) -> MatRef<'a, T> {
        let view = MatRef::from_column_major_slice_with_stride(self.data, self.cols, self.rows, self.stride);
        if self.transposed { view } else { view.transpose() }
    }
}

/// What happens with the numbers that are there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Into {
    /// They are overwritten.
    Replace,
    /// The product is added to them.
    Add,
}

/// Columns and depth of a part of a product: larger ones faer packs again and again, and loses up to half its speed. A
/// left side that lies the other way round wants less depth.
const COLUMNS: usize = 384;
const DEPTH: usize = 384;
const DEPTH_TURNED: usize = 192;
/// Columns that its widest kernel takes at once.
const KERNEL: usize = 96;

/// Cuts `0..length` into parts of one size, a multiple of `unit`, of about `most` each; the last may be smaller.
fn parts(length: usize, most: usize, unit: usize) -> impl Iterator<Item = (usize, usize)> + Clone {
    let size = length.div_ceil(length.div_ceil(most).max(1)).next_multiple_of(unit).max(unit);
    (0..length).step_by(size).map(move |first| (first, size.min(length - first)))
}

/// [`product`] with the same bytes, its parts on as many threads as are free: for products that are large and alone.
///
/// # Panics
/// When the shapes do not fit.
pub fn shared_product<T: Real>(out: &mut [T], stride: usize, how: Into, a: Matrix<'_, T>, b: Matrix<'_, T>, scale: T) {
    let ((m, _), (k, n)) = (a.shape(), b.shape());
    let columns: Vec<(usize, usize)> = parts(n, COLUMNS, KERNEL).collect();
    if m == 0 || columns.len() < 2 {
        return product(out, stride, how, a, b, scale);
    }
    let part = |(first, width): &(usize, usize), out: &[T]| {
        let mut part = match how {
            Into::Replace => vec![T::zero(); m * width],
            Into::Add => {
                out.chunks(stride).take(m).flat_map(|row| row[*first..first + width].iter().copied()).collect()
            }
        };
        product(&mut part, *width, how, a, b.part((0, k), (*first, *width)), scale);
        part
    };
    let done: Vec<Vec<T>> = columns.par_iter().with_max_len(1).map(|columns| part(columns, out)).collect();
    for ((first, width), part) in columns.iter().zip(done) {
        for (row, part) in out.chunks_mut(stride).zip(part.chunks_exact(*width)) {
            row[*first..first + width].copy_from_slice(part);
        }
    }
}

/// `out = a b` or `out += a b`, times `scale`; `out` has rows `stride` apart.
///
/// # Panics
/// When the shapes do not fit.
pub fn product<T: Real>(out: &mut [T], stride: usize, how: Into, a: Matrix<'_, T>, b: Matrix<'_, T>, scale: T) {
    let ((m, k), (inner, n)) = (a.shape(), b.shape());
    assert_eq!(k, inner, "the inner sizes of a product");
    if m == 0 || n == 0 {
        return;
    }
    let needed = (m - 1) * stride + n;
    assert!(out.len() >= needed && n <= stride, "{} numbers for a product of {m} x {n}, {stride} apart", out.len());
    if k == 0 && how == Into::Replace {
        out.chunks_mut(stride).take(m).for_each(|row| row[..n].fill(T::zero()));
    }
    let depth = if a.transposed { DEPTH_TURNED } else { DEPTH };
    for (column, columns) in parts(n, COLUMNS, KERNEL) {
        for (first, deep) in parts(k, depth, 1) {
            let out = &mut out[column..(m - 1) * stride + column + columns];
            // not from_row_major_slice_with_stride_mut: faer 0.24.4 swaps the strides there and writes out of bounds
            let out = MatMut::from_column_major_slice_with_stride_mut(out, columns, m, stride).transpose_mut();
            let how = if first == 0 && how == Into::Replace { Accum::Replace } else { Accum::Add };
            let (a, b) = (a.part((0, m), (first, deep)), b.part((first, deep), (column, columns)));
            faer::linalg::matmul::matmul(out, how, a.view(), b.view(), scale, Par::Seq);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| (((i + seed) * 37 % 101) as f32 - 50.) / 50.).collect()
    }

    #[test]
    fn agrees_with_the_definition_for_odd_sizes_and_every_orientation() {
        for (m, k, n) in [(1, 1, 1), (3, 17, 5), (17, 3, 63), (65, 64, 1), (1, 65, 17), (5, 400, 3), (3, 5, 500)] {
            for (ta, tb) in [(false, false), (false, true), (true, false), (true, true)] {
                let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
                let view = |data, rows, cols, t| {
                    if t { Matrix::new(data, cols, rows).t() } else { Matrix::new(data, rows, cols) }
                };
                let at = |data: &[f32], i: usize, j: usize, rows: usize, cols: usize, t: bool| {
                    if t { data[j * rows + i] } else { data[i * cols + j] }
                };
                let mut out = vec![1f32; m * (n + 2)];
                product(&mut out, n + 2, Into::Add, view(&a, m, k, ta), view(&b, k, n, tb), 0.5);
                for i in 0..m {
                    for j in 0..n {
                        let sum: f32 = (0..k).map(|l| at(&a, i, l, m, k, ta) * at(&b, l, j, k, n, tb)).sum();
                        assert!((out[i * (n + 2) + j] - (1. + 0.5 * sum)).abs() < 1e-3);
                    }
                    // what lies between the rows is left alone
                    assert_eq!(out[i * (n + 2) + n..(i + 1) * (n + 2)], [1., 1.]);
                }
            }
        }
    }

    #[test]
    fn nothing_times_something_is_zero() {
        let mut out = [7f32; 6];
        product(&mut out, 3, Into::Replace, Matrix::new(&[], 2, 0), Matrix::new(&[], 0, 3), 1.);
        assert_eq!(out, [0.; 6]);
        // what lies behind the last row is left alone, here as well
        let mut out = [7f32; 8];
        product(&mut out, 3, Into::Replace, Matrix::new(&[], 2, 0), Matrix::new(&[], 0, 3), 1.);
        assert_eq!(out, [0., 0., 0., 0., 0., 0., 7., 7.]);
    }

    #[test]
    fn a_shared_product_has_the_same_bytes() {
        let numbers = |count: usize| -> Vec<f32> { (0..count).map(|i| ((i * 37) as f32 * 0.11).sin()).collect() };
        let (m, k, n, stride) = (9, 500, 900, 1000);
        let (a, b) = (numbers(m * k), numbers(k * n));
        for how in [Into::Replace, Into::Add] {
            let [mut one, mut other] = [numbers((m - 1) * stride + n), numbers((m - 1) * stride + n)];
            product(&mut one, stride, how, Matrix::new(&a, m, k), Matrix::new(&b, k, n), 1.);
            shared_product(&mut other, stride, how, Matrix::new(&a, m, k), Matrix::new(&b, k, n), 1.);
            assert!(one.iter().zip(&other).all(|(a, b)| a.to_bits() == b.to_bits()), "{how:?}");
        }
    }
}
