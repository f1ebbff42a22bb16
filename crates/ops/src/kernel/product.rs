//! Matrix products, on one thread each.
//!
//! Every entry of a product is a sum over the depth in order, by fused multiply-adds, in groups of a fixed number of terms
//! (`TERMS`, or fewer if the left side is transposed). It depends on its row and its column alone. A row therefore has the
//! same bytes alone and among others, however a product is split, and on every machine with fused multiply-add.

use pulp::Simd;
use rayon::prelude::*;

use super::Real;
use super::lanes::Job;

/// A view of a matrix in a slice, possibly part of a wider matrix.
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
    /// A dense row-major matrix.
    ///
    /// # Panics
    /// When the slice is not `rows * cols` long.
    #[must_use]
    pub fn new(data: &'a [T], rows: usize, cols: usize) -> Self {
        assert_eq!(data.len(), rows * cols, "a slice for a matrix of {rows} x {cols}");
        Self { data, rows, cols, stride: cols, transposed: false }
    }

    /// A row-major matrix whose rows begin `stride` numbers apart. The slice may extend past the last element.
    ///
    /// # Panics
    /// When the slice is too short.
    #[must_use]
    pub fn strided(data: &'a [T], rows: usize, cols: usize, stride: usize) -> Self {
        let needed = if rows == 0 || cols == 0 { 0 } else { (rows - 1) * stride + cols };
        assert!(data.len() >= needed && cols <= stride.max(1), "a slice for {rows} x {cols}, {stride} apart");
        Self { data: &data[..needed], rows, cols, stride, transposed: false }
    }

    /// A transposed view.
    #[must_use]
    pub fn t(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }

    fn shape(&self) -> (usize, usize) {
        if self.transposed { (self.cols, self.rows) } else { (self.rows, self.cols) }
    }

    /// A block of the matrix; the arguments are (first, count) for rows and columns.
    fn part(self, (row, rows): (usize, usize), (col, cols): (usize, usize)) -> Self {
        let (row, rows, col, cols) = if self.transposed { (col, cols, row, rows) } else { (row, rows, col, cols) };
        let part = Self::strided(&self.data[row * self.stride + col..], rows, cols, self.stride);
        Self { transposed: self.transposed, ..part }
    }
}

/// The term that a product is added to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Accumulate<'a, T> {
    /// Nothing: the output is overwritten.
    Replace,
    /// The numbers in the output.
    Add,
    /// The same row for every row, as a bias; the output is overwritten.
    Row(&'a [T]),
    /// These rows, with the stride of the output, and optionally a row for all of them; the output is overwritten.
    Rows(&'a [T], Option<&'a [T]>),
}

impl<'a, T: Real> Accumulate<'a, T> {
    /// The same for the columns from `first` on.
    fn columns(self, first: usize) -> Self {
        match self {
            Self::Row(row) => Self::Row(&row[first..]),
            Self::Rows(rows, row) => Self::Rows(&rows[first..], row.map(|row| &row[first..])),
            other => other,
        }
    }

    /// The same for the rows from `first` on, `stride` apart.
    fn rows(self, first: usize, stride: usize) -> Self {
        match self {
            Self::Rows(rows, row) => Self::Rows(&rows[first * stride..], row),
            other => other,
        }
    }

    /// Writes the term that the product is added to to `out`.
    fn begin(self, out: &mut [T], stride: usize, (m, n): (usize, usize)) {
        for (i, out) in out.chunks_mut(stride).take(m).enumerate() {
            let out = &mut out[..n];
            match self {
                Self::Replace => out.fill(T::zero()),
                Self::Add => {}
                Self::Row(row) => out.copy_from_slice(&row[..n]),
                Self::Rows(rows, row) => {
                    out.copy_from_slice(&rows[i * stride..][..n]);
                    if let Some(row) = row {
                        out.iter_mut().zip(row).for_each(|(out, x)| *out += *x);
                    }
                }
            }
        }
    }

    fn check(self, stride: usize, (m, n): (usize, usize)) {
        let fits = match self {
            Self::Replace | Self::Add => true,
            Self::Row(row) => row.len() >= n,
            Self::Rows(rows, row) => rows.len() >= (m - 1) * stride + n && row.is_none_or(|row| row.len() >= n),
        };
        assert!(fits, "the term that a product of {m} x {n} is added to is too small");
    }
}

/// Terms that are summed separately before they are added to the previous ones. These two define the bytes of a product.
const TERMS: usize = 384;
/// [`TERMS`] for a transposed left side.
const TERMS_TRANSPOSED: usize = 192;
/// Terms of one pass over a panel: with more, a panel does not fit in the cache.
const DEPTH: usize = 192;
/// Depths are multiples of this: the numbers in the widest register.
const UNIT: usize = 16;
/// Numbers in a part of the output that stays in the cache during the passes over the depth.
const OUTPUT: usize = 1 << 18;
/// Panels of the right side that are packed together.
const PANELS: usize = 4;
/// Rows that are multiplied with one block of the right side before the next.
const ROWS: usize = 510;
/// Rows in a tile of the output.
const TILE: usize = 6;
/// Columns that one thread computes of a shared product.
const COLUMNS: usize = 384;

/// Splits `0..length` into (first, count) parts of equal size, a multiple of `unit` near `most`; the last may be smaller.
fn parts(length: usize, most: usize, unit: usize) -> impl Iterator<Item = (usize, usize)> + Clone {
    let size = length.div_ceil(length.div_ceil(most).max(1)).next_multiple_of(unit).max(unit);
    (0..length).step_by(size).map(move |first| (first, size.min(length - first)))
}

/// [`product`] on several threads, with the same bytes: for large products that do not already run in parallel.
///
/// # Panics
/// When the shapes do not fit.
pub fn shared_product<T: Real>(
    out: &mut [T],
    stride: usize,
    how: Accumulate<'_, T>,
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    scale: T,
) {
    let ((m, _), (k, n)) = (a.shape(), b.shape());
    let columns: Vec<(usize, usize)> = parts(n, COLUMNS, 64).collect();
    if m == 0 || columns.len() < 2 {
        return product(out, stride, how, a, b, scale);
    }
    how.check(stride, (m, n));
    let part = |(first, width): &(usize, usize), out: &[T]| {
        let mut part = vec![T::zero(); m * width];
        let start = if how == Accumulate::Add { Accumulate::Rows(out, None) } else { how }.columns(*first);
        for (part, i) in part.chunks_exact_mut(*width).zip(0..) {
            start.rows(i, stride).begin(part, stride, (1, *width));
        }
        product(&mut part, *width, Accumulate::Add, a, b.part((0, k), (*first, *width)), scale);
        part
    };
    let done: Vec<Vec<T>> = columns.par_iter().with_max_len(1).map(|columns| part(columns, out)).collect();
    for ((first, width), part) in columns.iter().zip(done) {
        for (row, part) in out.chunks_mut(stride).zip(part.chunks_exact(*width)) {
            row[*first..first + width].copy_from_slice(part);
        }
    }
}

/// `scale * a b`, added to the term that `how` selects. The rows of `out` begin `stride` numbers apart.
///
/// # Panics
/// When the shapes do not fit.
pub fn product<T: Real>(
    out: &mut [T],
    stride: usize,
    how: Accumulate<'_, T>,
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    scale: T,
) {
    let ((m, k), (inner, n)) = (a.shape(), b.shape());
    assert_eq!(k, inner, "the inner sizes of a product");
    if m == 0 || n == 0 {
        return;
    }
    let needed = (m - 1) * stride + n;
    assert!(out.len() >= needed && n <= stride, "{} numbers for a product of {m} x {n}, {stride} apart", out.len());
    how.check(stride, (m, n));
    if k == 0 {
        how.begin(out, stride, (m, n));
    } else {
        T::dispatch(Product { out: &mut out[..needed], stride, how, a, b, scale });
    }
}

struct Product<'a, T> {
    out: &'a mut [T],
    stride: usize,
    how: Accumulate<'a, T>,
    a: Matrix<'a, T>,
    b: Matrix<'a, T>,
    scale: T,
}

impl<T: Real> Job<T> for Product<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S, buffer: &mut Vec<T>) {
        // the sums of a tile and one row of the right side fill the registers
        if S::REGISTER_COUNT >= 32 { self.multiply::<S, 4>(simd, buffer) } else { self.multiply::<S, 2>(simd, buffer) }
    }
}

/// A few columns of the right side.
#[derive(Clone, Copy)]
struct Panel<'a, T> {
    data: &'a [T],
    stride: usize,
    depth: usize,
}

/// A few rows of the left side.
#[derive(Clone, Copy)]
struct Strip<'a, T> {
    data: &'a [T],
    order: Order,
}

/// The memory order of the left side.
#[derive(Clone, Copy)]
enum Order {
    /// Row-major, with this stride.
    Rows(usize),
    /// Column-major, with this stride.
    Columns(usize),
    /// Packed in tiles of the rows that are multiplied together, each column-major, with this depth.
    Tiles(usize),
}

impl<T: Real> Product<'_, T> {
    #[inline(always)]
    fn multiply<S: Simd, const V: usize>(self, simd: S, buffer: &mut Vec<T>) {
        let Self { out, stride, how, a, b, scale } = self;
        let ((m, k), (_, n)) = (a.shape(), b.shape());
        let widest = V * T::count::<S>();
        // numbers that are read many times from distant rows are packed densely first
        let (few, many) = (4 * TILE, 10 * TILE);
        let dense_right = b.transposed || m > if a.transposed { many } else { few };
        let dense_left =
            dense_right && n >= 2 * widest && if a.transposed { m > many } else { a.stride >= 512 && m > few };
        let most = m.min(ROWS);
        let terms = if a.transposed { TERMS_TRANSPOSED } else { TERMS };
        let deepest = k.min(terms);
        let sizes = [most * widest, deepest * widest * PANELS.min(n.div_ceil(widest))];
        let size = sizes[0] + sizes[1] + if dense_left { deepest * most } else { 0 };
        buffer.resize(size.max(buffer.len()), T::zero());
        let (waiting, rest) = buffer.split_at_mut(sizes[0]);
        let (right, left) = rest.split_at_mut(sizes[1]);
        let block = (OUTPUT / most / widest).max(1) * widest;
        for (row, rows) in parts(m, ROWS, TILE) {
            for column in (0..n).step_by(block) {
                for (first, depth) in parts(k, terms, 1) {
                    let strip = if !dense_left {
                        a.strip(row, first)
                    } else if a.transposed {
                        a.tiles((row, rows), (first, depth), left);
                        Strip { data: &*left, order: Order::Tiles(depth) }
                    } else {
                        a.pack(simd, (row, rows), (first, depth), depth, left);
                        Strip { data: &*left, order: Order::Rows(depth) }
                    };
                    let how = if first == 0 { how.rows(row, stride) } else { Accumulate::Add };
                    let (out, end) = (&mut out[row * stride..], (column + block).min(n));
                    let panels =
                        Panels { matrix: b, dense: dense_right, depth: (first, depth), columns: (column, end) };
                    let to = Output { out, stride, how, scale, waiting: &mut *waiting };
                    panels.across::<S, V>(simd, to, strip, &mut *right, rows);
                }
            }
        }
    }
}

/// The destination of the sums.
struct Output<'a, 'b, T> {
    out: &'a mut [T],
    stride: usize,
    how: Accumulate<'b, T>,
    scale: T,
    /// Partial sums that still lack terms, row by row.
    waiting: &'a mut [T],
}

impl<'b, T: Real> Output<'_, 'b, T> {
    fn columns(&mut self, first: usize) -> Output<'_, 'b, T> {
        let Self { out, stride, how, scale, waiting } = self;
        Output { out: &mut out[first..], stride: *stride, how: how.columns(first), scale: *scale, waiting }
    }
}

/// A block of the right side.
struct Panels<'a, T> {
    matrix: Matrix<'a, T>,
    /// Whether it is packed first.
    dense: bool,
    /// (first, count).
    depth: (usize, usize),
    /// (first, end).
    columns: (usize, usize),
}

impl<T: Real> Panels<'_, T> {
    /// The product of `rows` rows with all panels.
    #[inline(always)]
    fn across<S: Simd, const V: usize>(
        self,
        simd: S,
        mut to: Output<'_, '_, T>,
        strip: Strip<'_, T>,
        buffer: &mut [T],
        rows: usize,
    ) {
        let Self { matrix, dense, depth: (first, depth), columns: (mut at, end) } = self;
        let lanes = T::count::<S>();
        let widest = V * lanes;
        let unpacked =
            |at: usize| Panel { data: &matrix.data[first * matrix.stride + at..], stride: matrix.stride, depth };
        while end - at >= widest {
            let panels = PANELS.min((end - at) / widest);
            if dense {
                matrix.panels(simd, (first, depth), at, (panels, widest), buffer);
            }
            for i in 0..panels {
                let from = at + i * widest;
                let panel = if dense {
                    Panel { data: &buffer[i * depth * widest..], stride: widest, depth }
                } else {
                    unpacked(from)
                };
                down::<T, S, V>(simd, to.columns(from), strip, panel, rows);
            }
            at += panels * widest;
        }
        while at < end {
            // two registers, then one, then the columns that do not fill one
            let width = [2, 1].into_iter().find(|v| v * lanes <= end - at).unwrap_or(0) * lanes;
            let (count, taken) = if width == 0 { (lanes, end - at) } else { (width, width) };
            let panel = if dense || width == 0 {
                matrix.pack(simd, (first, depth), (at, taken), count, buffer);
                Panel { data: &*buffer, stride: count, depth }
            } else {
                unpacked(at)
            };
            let to = to.columns(at);
            match width / lanes {
                0 => ragged(simd, to, strip, panel, (rows, taken)),
                1 => down::<T, S, 1>(simd, to, strip, panel, rows),
                _ => down::<T, S, 2>(simd, to, strip, panel, rows),
            }
            at += taken;
        }
    }
}

/// All rows of a product with a panel narrower than a register.
#[inline(always)]
fn ragged<T: Real, S: Simd>(
    simd: S,
    to: Output<'_, '_, T>,
    strip: Strip<'_, T>,
    panel: Panel<'_, T>,
    (m, width): (usize, usize),
) {
    let Output { out, stride, how, scale, waiting } = to;
    let lanes = T::count::<S>();
    for first in (0..m).step_by(TILE) {
        let rows = TILE.min(m - first);
        let mut tile = [T::zero(); TILE * 16];
        let of = |i: usize| (first + i) * stride..(first + i) * stride + width;
        for i in 0..rows {
            let tile = &mut tile[i * lanes..][..width];
            if how == Accumulate::Add {
                tile.copy_from_slice(&out[of(i)]);
            } else {
                how.rows(first + i, stride).begin(tile, stride, (1, width));
            }
        }
        let to = Output { out: &mut tile, stride: lanes, how: Accumulate::Add, scale, waiting: &mut *waiting };
        down::<T, S, 1>(simd, to, strip.from(first), panel, rows);
        for i in 0..rows {
            out[of(i)].copy_from_slice(&tile[i * lanes..][..width]);
        }
    }
}

/// All rows of a product with a panel of `V` registers.
#[inline(always)]
fn down<T: Real, S: Simd, const V: usize>(
    simd: S,
    to: Output<'_, '_, T>,
    strip: Strip<'_, T>,
    panel: Panel<'_, T>,
    m: usize,
) {
    let Output { out, stride, how, scale, waiting } = to;
    let width = V * T::count::<S>();
    for (begin, length) in parts(panel.depth, DEPTH, UNIT) {
        let depth = (begin, begin + length);
        let mut first = 0;
        while first < m {
            let waiting = &mut waiting[first * width..];
            let to = Output { out: &mut out[first * stride..], stride, how: how.rows(first, stride), scale, waiting };
            let strip = strip.from(first);
            first += match next_rows(m - first) {
                1 => tile::<T, S, 1, V>(simd, to, strip, panel, depth),
                2 => tile::<T, S, 2, V>(simd, to, strip, panel, depth),
                4 => tile::<T, S, 4, V>(simd, to, strip, panel, depth),
                _ => tile::<T, S, TILE, V>(simd, to, strip, panel, depth),
            };
        }
    }
}

/// Adds the terms `begin..end` of a tile of the output, `M` rows of `V` registers; returns `M`.
#[inline(always)]
fn tile<T: Real, S: Simd, const M: usize, const V: usize>(
    simd: S,
    to: Output<'_, '_, T>,
    strip: Strip<'_, T>,
    panel: Panel<'_, T>,
    (begin, end): (usize, usize),
) -> usize {
    let Output { out, stride, how, scale, waiting } = to;
    let zero = T::splat(simd, T::zero());
    let width = V * T::count::<S>();
    let depth = end - begin;
    let row = |x: &[T]| -> [T::Register<S>; V] {
        let x = T::registers::<S>(&x[..width]);
        std::array::from_fn(|v| x[v])
    };
    let mut sums = [[zero; V]; M];
    if begin > 0 {
        sums = std::array::from_fn(|i| row(&waiting[i * width..]));
    }
    let right = &panel.data[begin * panel.stride..];
    // the loops below are written so that the compiler removes all bounds checks where memory is dense
    match strip.order {
        Order::Rows(stride) => {
            let rows: [&[T]; M] = std::array::from_fn(|i| &strip.data[i * stride + begin..][..depth]);
            if panel.stride == width {
                let right = &T::registers::<S>(&right[..depth * width]).as_chunks::<V>().0[..depth];
                for l in 0..depth {
                    multiply_add(simd, &mut sums, |i| rows[i][l], &right[l]);
                }
            } else {
                for (l, right) in right.chunks(panel.stride).enumerate().take(depth) {
                    multiply_add(simd, &mut sums, |i| rows[i][l], T::registers::<S>(&right[..width]));
                }
            }
        }
        Order::Columns(stride) => {
            let left = strip.data[begin * stride..].chunks(stride);
            for (left, right) in left.zip(right.chunks(panel.stride)).take(depth) {
                let left = &left[..M];
                multiply_add(simd, &mut sums, |i| left[i], T::registers::<S>(&right[..width]));
            }
        }
        Order::Tiles(_) => {
            // the right side is always packed when the left side is
            let left = &strip.data.as_chunks::<M>().0[begin..end];
            let right = &T::registers::<S>(&right[..depth * width]).as_chunks::<V>().0[..depth];
            for l in 0..depth {
                multiply_add(simd, &mut sums, |i| left[l][i], &right[l]);
            }
        }
    }
    if end < panel.depth {
        // one register at a time: copying the whole array would force the sums into memory
        for (sums, waiting) in sums.into_iter().zip(waiting.chunks_exact_mut(width)) {
            for (waiting, sum) in T::registers_mut::<S>(waiting).iter_mut().zip(sums) {
                *waiting = sum;
            }
        }
        return M;
    }
    let scale = T::splat(simd, scale);
    for (i, sums) in sums.into_iter().enumerate() {
        let out = T::registers_mut::<S>(&mut out[i * stride..][..width]);
        let before: [T::Register<S>; V] = match how {
            Accumulate::Replace => [zero; V],
            Accumulate::Add => std::array::from_fn(|v| out[v]),
            Accumulate::Row(x) => row(x),
            Accumulate::Rows(x, None) => row(&x[i * stride..]),
            Accumulate::Rows(x, Some(y)) => {
                let (x, y) = (row(&x[i * stride..]), row(y));
                std::array::from_fn(|v| T::plus(simd, x[v], y[v]))
            }
        };
        for ((out, sum), before) in out.iter_mut().zip(sums).zip(before) {
            *out = T::fused(simd, scale, sum, before);
        }
    }
    M
}

/// Copies whole registers; for so few numbers, the function call of `copy_from_slice` would dominate.
#[inline(always)]
fn copy<T: Real, S: Simd>(from: &[T], to: &mut [T]) {
    for (to, from) in T::registers_mut::<S>(to).iter_mut().zip(T::registers::<S>(from)) {
        *to = *from;
    }
}

/// Adds one term to every sum of a tile.
#[inline(always)]
fn multiply_add<T: Real, S: Simd, const M: usize, const V: usize>(
    simd: S,
    sums: &mut [[T::Register<S>; V]; M],
    left: impl Fn(usize) -> T,
    right: &[T::Register<S>],
) {
    for (i, sums) in sums.iter_mut().enumerate() {
        let left = T::splat(simd, left(i));
        for (sum, right) in sums.iter_mut().zip(right) {
            *sum = T::fused(simd, left, *right, *sum);
        }
    }
}

/// Rows of the next tile when `left` rows remain.
fn next_rows(left: usize) -> usize {
    match left {
        0 | 1 => left,
        2 | 3 => 2,
        4 | 5 => 4,
        _ => TILE,
    }
}

impl<'a, T: Real> Strip<'a, T> {
    /// The strip from a row on; for packed tiles, the row must be the first of a tile.
    #[inline(always)]
    fn from(self, row: usize) -> Self {
        let data = match self.order {
            Order::Rows(stride) => &self.data[row * stride..],
            Order::Columns(_) => &self.data[row..],
            Order::Tiles(depth) => &self.data[row * depth..],
        };
        Self { data, ..self }
    }
}

impl<'a, T: Real> Matrix<'a, T> {
    /// The strip from a row and a column on.
    #[inline(always)]
    fn strip(self, row: usize, column: usize) -> Strip<'a, T> {
        let (row, column, order) = if self.transposed {
            (column, row, Order::Columns(self.stride))
        } else {
            (row, column, Order::Rows(self.stride))
        };
        Strip { data: &self.data[row * self.stride + column..], order }
    }

    /// Packs a block of a transposed matrix as [`Order::Tiles`].
    #[inline(always)]
    fn tiles(self, (row, rows): (usize, usize), (column, depth): (usize, usize), out: &mut [T]) {
        let mut at = 0;
        while at < rows {
            let count = next_rows(rows - at);
            let out = &mut out[at * depth..][..count * depth];
            let from = &self.data[column * self.stride + row + at..];
            if let (TILE, (out, [])) = (count, out.as_chunks_mut::<TILE>()) {
                for (out, from) in out.iter_mut().zip(from.chunks(self.stride)) {
                    out.copy_from_slice(&from[..TILE]);
                }
            } else {
                for (out, from) in out.chunks_exact_mut(count).zip(from.chunks(self.stride)) {
                    out.copy_from_slice(&from[..count]);
                }
            }
            at += count;
        }
    }

    /// Packs a block as panels of `width` columns, one panel after another.
    #[inline(always)]
    fn panels<S: Simd>(
        self,
        simd: S,
        (row, rows): (usize, usize),
        col: usize,
        (panels, width): (usize, usize),
        out: &mut [T],
    ) {
        if self.transposed {
            for (i, out) in out.chunks_exact_mut(rows * width).enumerate().take(panels) {
                self.pack(simd, (row, rows), (col + i * width, width), width, out);
            }
            return;
        }
        // row by row, because long parts of rows are read faster than short ones
        for i in 0..rows {
            let from = &self.data[(row + i) * self.stride + col..][..panels * width];
            for (panel, from) in from.chunks_exact(width).enumerate() {
                copy::<T, S>(from, &mut out[(panel * rows + i) * width..][..width]);
            }
        }
    }

    /// Copies a block to `out` with rows of `width` numbers, padded with zeros.
    #[inline(always)]
    fn pack<S: Simd>(
        self,
        simd: S,
        (row, rows): (usize, usize),
        (col, cols): (usize, usize),
        width: usize,
        out: &mut [T],
    ) {
        let out = &mut out[..rows * width];
        if !self.transposed {
            for (i, out) in out.chunks_exact_mut(width).enumerate() {
                let (taken, rest) = out.split_at_mut(cols);
                taken.copy_from_slice(&self.data[(row + i) * self.stride + col..][..cols]);
                rest.fill(T::zero());
            }
            return;
        }
        let lanes = T::count::<S>();
        let whole = if cols == width && width.is_multiple_of(4) { rows / lanes * lanes } else { 0 };
        let column = |j: usize| &self.data[(col + j) * self.stride + row..][..rows];
        for (i, out) in out[..whole * width].chunks_exact_mut(lanes * width).enumerate() {
            for j in (0..width).step_by(4) {
                let rows: [&[T]; 4] = std::array::from_fn(|of| &column(j + of)[i * lanes..]);
                T::four_rows(simd, rows, |l, four| out[l * width + j..][..4].copy_from_slice(four));
            }
        }
        for (i, out) in out.chunks_exact_mut(width).enumerate().skip(whole) {
            let (taken, rest) = out.split_at_mut(cols);
            for (j, out) in taken.iter_mut().enumerate() {
                *out = column(j)[i];
            }
            rest.fill(T::zero());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::lanes::Lanes;
    use super::*;

    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| (((i + seed) * 37 % 101) as f32 - 50.) / 50.).collect()
    }

    /// Sizes just above, at and just below multiples of registers, tiles, panels and blocks.
    const SIZES: [(usize, usize, usize); 13] = [
        (1, 1, 1),
        (3, 17, 5),
        (17, 3, 63),
        (65, 64, 1),
        (1, 65, 17),
        (5, 400, 3),
        (3, 5, 500),
        (7, 193, 129),
        (30, 600, 200),
        (70, 40, 260),
        (517, 9, 33),
        (2, 384, 65),
        (70, 520, 150),
    ];

    fn view(data: &[f32], rows: usize, cols: usize, transposed: bool) -> Matrix<'_, f32> {
        if transposed { Matrix::new(data, cols, rows).t() } else { Matrix::new(data, rows, cols) }
    }

    fn bits(x: &[f32]) -> Vec<u32> {
        x.iter().map(|x| x.to_bits()).collect()
    }

    #[test]
    fn agrees_with_the_definition_for_odd_sizes_and_every_orientation() {
        for (m, k, n) in SIZES {
            let stride = n + 2;
            let (row, rows) = (numbers(n, 3), numbers(m * stride, 4));
            for (ta, tb) in [(false, false), (false, true), (true, false), (true, true)] {
                let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
                let at = |data: &[f32], i: usize, j: usize, rows: usize, cols: usize, t: bool| {
                    f64::from(if t { data[j * rows + i] } else { data[i * cols + j] })
                };
                for how in [
                    Accumulate::Replace,
                    Accumulate::Add,
                    Accumulate::Row(&row),
                    Accumulate::Rows(&rows, None),
                    Accumulate::Rows(&rows, Some(&row)),
                ] {
                    let mut out = vec![1f32; m * stride];
                    product(&mut out, stride, how, view(&a, m, k, ta), view(&b, k, n, tb), 0.5);
                    for i in 0..m {
                        for j in 0..n {
                            let before = match how {
                                Accumulate::Replace => 0.,
                                Accumulate::Add => 1.,
                                Accumulate::Row(row) => row[j],
                                Accumulate::Rows(rows, row) => rows[i * stride + j] + row.map_or(0., |row| row[j]),
                            };
                            let sum: f64 = (0..k).map(|l| at(&a, i, l, m, k, ta) * at(&b, l, j, k, n, tb)).sum();
                            let away = f64::from(out[i * stride + j]) - (f64::from(before) + 0.5 * sum);
                            assert!(away.abs() < 1e-4, "{m} {k} {n} {ta} {tb} {how:?} at {i}, {j}: {away}");
                        }
                        // the gaps between rows are not touched
                        assert_eq!(out[i * stride + n..(i + 1) * stride], [1., 1.]);
                    }
                }
            }
        }
    }

    #[test]
    fn an_entry_depends_on_its_row_and_column_alone() {
        for (m, k, n) in SIZES {
            let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
            let whole = |ta: bool, tb: bool, a: &[f32], b: &[f32], m: usize, n: usize| {
                let mut out = vec![0f32; m * n];
                product(&mut out, n, Accumulate::Replace, view(a, m, k, ta), view(b, k, n, tb), 1.);
                bits(&out)
            };
            let reference = whole(false, false, &a, &b, m, n);
            // the same matrices, stored transposed
            let transposed = |x: &[f32], rows: usize, cols: usize| -> Vec<f32> {
                (0..cols).flat_map(|j| (0..rows).map(move |i| x[i * cols + j])).collect()
            };
            let (a_transposed, b_transposed) = (transposed(&a, m, k), transposed(&b, k, n));
            assert_eq!(whole(false, true, &a, &b_transposed, m, n), reference);
            let other_order = whole(true, false, &a_transposed, &b, m, n);
            assert_eq!(whole(true, true, &a_transposed, &b_transposed, m, n), other_order);
            if k <= TERMS_TRANSPOSED {
                assert_eq!(other_order, reference);
            }
            // every row alone, with a transposed left side
            for (i, row) in other_order.chunks_exact(n).enumerate() {
                let alone: Vec<f32> = (0..k).map(|l| a[i * k + l]).collect();
                assert_eq!(whole(true, false, &alone, &b, 1, n), row);
            }
            // every row alone, and the first columns alone
            for (a, row) in a.chunks_exact(k).zip(reference.chunks_exact(n)) {
                assert_eq!(whole(false, false, a, &b, 1, n), row);
                assert_eq!(whole(false, true, a, &b_transposed, 1, n), row);
            }
            let some = n.div_ceil(3);
            let firsts: Vec<u32> = reference.chunks_exact(n).flat_map(|row| row[..some].to_vec()).collect();
            assert_eq!(whole(false, true, &a, &b_transposed[..some * k], m, some), firsts);
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn narrower_registers_give_the_same_bytes() {
        use super::super::lanes::run_with;
        for (m, k, n) in SIZES {
            let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
            for (ta, tb) in [(false, false), (false, true), (true, false)] {
                let job = |out| {
                    let (a, b) = (view(&a, m, k, ta), view(&b, k, n, tb));
                    Product { out, stride: n, how: Accumulate::Replace, a, b, scale: 0.3 }
                };
                let mut widest = vec![0f32; m * n];
                f32::dispatch(job(&mut widest));
                if let Some(simd) = pulp::x86::V3::try_new() {
                    let mut narrow = vec![0f32; m * n];
                    run_with(simd, job(&mut narrow));
                    assert_eq!(bits(&narrow), bits(&widest), "{m} {k} {n} {ta} {tb}");
                }
            }
        }
    }

    #[test]
    fn a_product_of_depth_zero_is_zero() {
        let mut out = [7f32; 6];
        product(&mut out, 3, Accumulate::Replace, Matrix::new(&[], 2, 0), Matrix::new(&[], 0, 3), 1.);
        assert_eq!(out, [0.; 6]);
        // numbers after the last row are not touched
        let mut out = [7f32; 8];
        product(&mut out, 3, Accumulate::Replace, Matrix::new(&[], 2, 0), Matrix::new(&[], 0, 3), 1.);
        assert_eq!(out, [0., 0., 0., 0., 0., 0., 7., 7.]);
    }

    #[test]
    fn a_shared_product_has_the_same_bytes() {
        let numbers = |count: usize| -> Vec<f32> { (0..count).map(|i| ((i * 37) as f32 * 0.11).sin()).collect() };
        let (m, k, n, stride) = (9, 500, 900, 1000);
        let (a, b) = (numbers(m * k), numbers(k * n));
        for how in [Accumulate::Replace, Accumulate::Add] {
            let [mut one, mut other] = [numbers((m - 1) * stride + n), numbers((m - 1) * stride + n)];
            product(&mut one, stride, how, Matrix::new(&a, m, k), Matrix::new(&b, k, n), 1.);
            shared_product(&mut other, stride, how, Matrix::new(&a, m, k), Matrix::new(&b, k, n), 1.);
            assert!(one.iter().zip(&other).all(|(a, b)| a.to_bits() == b.to_bits()), "{how:?}");
        }
    }
}
