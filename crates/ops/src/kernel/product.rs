//! Matrix products, on one thread each.
//!
//! Every number of a product is a sum over its depth in order, by fused multiply-adds, a fixed number of terms at a time
//! (`TERMS`, or fewer where the left side is transposed); it depends on nothing but its row and its column. So a row has
//! the same bytes alone and among others, however a product is cut, and on every machine that multiplies and adds in one.

use pulp::Simd;
use rayon::prelude::*;

use super::Real;
use super::lanes::Job;

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
}

/// What the product is added to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Accumulate<'a, T> {
    /// Nothing: the numbers that are there are overwritten.
    Replace,
    /// The numbers that are there.
    Add,
    /// This row, for every row; the numbers that are there are overwritten.
    Row(&'a [T]),
    /// These rows, as far apart as those of the output, and a row for all of them; the numbers that are there are
    /// overwritten.
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

    /// Writes to `out` what the product is to be added to.
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
        assert!(fits, "what a product of {m} x {n} is added to");
    }
}

/// Terms of a sum that are added up by themselves, before they are added to what comes before them; fewer where the left
/// side lies the other way round.
const TERMS: usize = 384;
const TERMS_TURNED: usize = 192;
/// Terms that are gone through at once: with more, a panel is too large for the cache.
const DEPTH: usize = 192;
/// What these are a multiple of: the numbers in the widest register.
const UNIT: usize = 16;
/// Numbers of a part of the output that stays in the cache while the depth is gone through.
const OUTPUT: usize = 1 << 18;
/// Panels of the right side that are laid out together.
const PANELS: usize = 4;
/// Rows that are multiplied with a block of the right side before the next block is.
const ROWS: usize = 510;
/// Rows that a tile of the output has.
const TILE: usize = 6;
/// Columns of a part that one thread takes of a product that is shared.
const COLUMNS: usize = 384;

/// Cuts `0..length` into parts of one size, a multiple of `unit`, of about `most` each; the last may be smaller.
fn parts(length: usize, most: usize, unit: usize) -> impl Iterator<Item = (usize, usize)> + Clone {
    let size = length.div_ceil(length.div_ceil(most).max(1)).next_multiple_of(unit).max(unit);
    (0..length).step_by(size).map(move |first| (first, size.min(length - first)))
}

/// [`product`] with the same bytes, its parts on as many threads as are free: for products that are large and alone.
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

/// `a b`, times `scale`, plus what `how` says; `out` has rows `stride` apart.
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
        // a tile and a row of the right side fill the registers
        if S::REGISTER_COUNT >= 32 { self.multiply::<S, 4>(simd, buffer) } else { self.multiply::<S, 2>(simd, buffer) }
    }
}

/// Some columns of the right side.
#[derive(Clone, Copy)]
struct Panel<'a, T> {
    data: &'a [T],
    stride: usize,
    depth: usize,
}

/// Some rows of the left side.
#[derive(Clone, Copy)]
struct Strip<'a, T> {
    data: &'a [T],
    lie: Lie,
}

/// How numbers of the left side lie in memory.
#[derive(Clone, Copy)]
enum Lie {
    /// Row after row, so far apart.
    Rows(usize),
    /// Column after column, so far apart.
    Columns(usize),
    /// In tiles of as many rows as are multiplied at once, each column after column; so deep.
    Tiles(usize),
}

impl<T: Real> Product<'_, T> {
    #[inline(always)]
    fn multiply<S: Simd, const V: usize>(self, simd: S, buffer: &mut Vec<T>) {
        let Self { out, stride, how, a, b, scale } = self;
        let ((m, k), (_, n)) = (a.shape(), b.shape());
        let widest = V * T::count::<S>();
        // what is read again and again from rows that lie far apart is better laid out densely first
        let (few, many) = (4 * TILE, 10 * TILE);
        let dense_right = b.transposed || m > if a.transposed { many } else { few };
        let dense_left =
            dense_right && n >= 2 * widest && if a.transposed { m > many } else { a.stride >= 512 && m > few };
        let most = m.min(ROWS);
        let terms = if a.transposed { TERMS_TURNED } else { TERMS };
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
                        Strip { data: &*left, lie: Lie::Tiles(depth) }
                    } else {
                        a.pack(simd, (row, rows), (first, depth), depth, left);
                        Strip { data: &*left, lie: Lie::Rows(depth) }
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

/// Where sums go.
struct Output<'a, 'b, T> {
    out: &'a mut [T],
    stride: usize,
    how: Accumulate<'b, T>,
    scale: T,
    /// Sums that wait for the rest of their terms, row after row.
    waiting: &'a mut [T],
}

impl<'b, T: Real> Output<'_, 'b, T> {
    fn columns(&mut self, first: usize) -> Output<'_, 'b, T> {
        let Self { out, stride, how, scale, waiting } = self;
        Output { out: &mut out[first..], stride: *stride, how: how.columns(first), scale: *scale, waiting }
    }
}

/// Some depth of some columns of the right side.
struct Panels<'a, T> {
    matrix: Matrix<'a, T>,
    /// Whether it is laid out anew.
    dense: bool,
    /// First, and how deep.
    depth: (usize, usize),
    /// First, and end.
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
        let lies = |at: usize| Panel { data: &matrix.data[first * matrix.stride + at..], stride: matrix.stride, depth };
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
                    lies(from)
                };
                down::<T, S, V>(simd, to.columns(from), strip, panel, rows);
            }
            at += panels * widest;
        }
        while at < end {
            // two registers, one, then what is less than one
            let width = [2, 1].into_iter().find(|v| v * lanes <= end - at).unwrap_or(0) * lanes;
            let (count, taken) = if width == 0 { (lanes, end - at) } else { (width, width) };
            let panel = if dense || width == 0 {
                matrix.pack(simd, (first, depth), (at, taken), count, buffer);
                Panel { data: &*buffer, stride: count, depth }
            } else {
                lies(at)
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

/// All rows of a product with a panel of less than a register.
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

/// Some of the terms of a tile of the output, `M` rows of `V` registers; gives `M`.
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
    // every loop below is as plain as it is so that no check of a bound stays in it where memory is dense
    match strip.lie {
        Lie::Rows(stride) => {
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
        Lie::Columns(stride) => {
            let left = strip.data[begin * stride..].chunks(stride);
            for (left, right) in left.zip(right.chunks(panel.stride)).take(depth) {
                let left = &left[..M];
                multiply_add(simd, &mut sums, |i| left[i], T::registers::<S>(&right[..width]));
            }
        }
        Lie::Tiles(_) => {
            // a left side that is worth laying out has a right side that is, too
            let left = &strip.data.as_chunks::<M>().0[begin..end];
            let right = &T::registers::<S>(&right[..depth * width]).as_chunks::<V>().0[..depth];
            for l in 0..depth {
                multiply_add(simd, &mut sums, |i| left[l][i], &right[l]);
            }
        }
    }
    if end < panel.depth {
        // number by number: a copy of the whole would keep the sums in memory all the time
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

/// Copies whole registers; `copy_from_slice` calls a function, which takes longer than so few numbers.
#[inline(always)]
fn copy<T: Real, S: Simd>(from: &[T], to: &mut [T]) {
    for (to, from) in T::registers_mut::<S>(to).iter_mut().zip(T::registers::<S>(from)) {
        *to = *from;
    }
}

/// One step into the depth of a tile.
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

/// Rows of the next tile when so many are left.
fn next_rows(left: usize) -> usize {
    match left {
        0 | 1 => left,
        2 | 3 => 2,
        4 | 5 => 4,
        _ => TILE,
    }
}

impl<'a, T: Real> Strip<'a, T> {
    /// The same from a row on; tiles begin where tiles begin.
    #[inline(always)]
    fn from(self, row: usize) -> Self {
        let data = match self.lie {
            Lie::Rows(stride) => &self.data[row * stride..],
            Lie::Columns(_) => &self.data[row..],
            Lie::Tiles(depth) => &self.data[row * depth..],
        };
        Self { data, ..self }
    }
}

impl<'a, T: Real> Matrix<'a, T> {
    /// All rows from one on, and all columns from one on.
    #[inline(always)]
    fn strip(self, row: usize, column: usize) -> Strip<'a, T> {
        let (row, column, lie) = if self.transposed {
            (column, row, Lie::Columns(self.stride))
        } else {
            (row, column, Lie::Rows(self.stride))
        };
        Strip { data: &self.data[row * self.stride + column..], lie }
    }

    /// Lays out some columns of some rows of a transposed matrix as [`Lie::Tiles`].
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

    /// Lays out some rows of so many panels of columns, each `width` wide, panel after panel.
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

    /// Copies some rows of some columns to `out`, `width` numbers apart, with zeros where there are fewer columns.
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

    /// Sizes that end behind, at and before the ends of registers, tiles, panels and blocks.
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

    fn view(data: &[f32], rows: usize, cols: usize, turned: bool) -> Matrix<'_, f32> {
        if turned { Matrix::new(data, cols, rows).t() } else { Matrix::new(data, rows, cols) }
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
                        // what lies between the rows is left alone
                        assert_eq!(out[i * stride + n..(i + 1) * stride], [1., 1.]);
                    }
                }
            }
        }
    }

    #[test]
    fn a_number_depends_on_its_row_and_column_alone() {
        for (m, k, n) in SIZES {
            let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
            let whole = |ta: bool, tb: bool, a: &[f32], b: &[f32], m: usize, n: usize| {
                let mut out = vec![0f32; m * n];
                product(&mut out, n, Accumulate::Replace, view(a, m, k, ta), view(b, k, n, tb), 1.);
                bits(&out)
            };
            let reference = whole(false, false, &a, &b, m, n);
            // the same matrices lying the other way round
            let turned = |x: &[f32], rows: usize, cols: usize| -> Vec<f32> {
                (0..cols).flat_map(|j| (0..rows).map(move |i| x[i * cols + j])).collect()
            };
            let (a_turned, b_turned) = (turned(&a, m, k), turned(&b, k, n));
            assert_eq!(whole(false, true, &a, &b_turned, m, n), reference);
            let lying = whole(true, false, &a_turned, &b, m, n);
            assert_eq!(whole(true, true, &a_turned, &b_turned, m, n), lying);
            if k <= TERMS_TURNED {
                assert_eq!(lying, reference);
            }
            // every row alone, lying the other way round
            for (i, row) in lying.chunks_exact(n).enumerate() {
                let alone: Vec<f32> = (0..k).map(|l| a[i * k + l]).collect();
                assert_eq!(whole(true, false, &alone, &b, 1, n), row);
            }
            // every row alone, and the first columns alone
            for (a, row) in a.chunks_exact(k).zip(reference.chunks_exact(n)) {
                assert_eq!(whole(false, false, a, &b, 1, n), row);
                assert_eq!(whole(false, true, a, &b_turned, 1, n), row);
            }
            let some = n.div_ceil(3);
            let firsts: Vec<u32> = reference.chunks_exact(n).flat_map(|row| row[..some].to_vec()).collect();
            assert_eq!(whole(false, true, &a, &b_turned[..some * k], m, some), firsts);
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
    fn nothing_times_something_is_zero() {
        let mut out = [7f32; 6];
        product(&mut out, 3, Accumulate::Replace, Matrix::new(&[], 2, 0), Matrix::new(&[], 0, 3), 1.);
        assert_eq!(out, [0.; 6]);
        // what lies behind the last row is left alone, here as well
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
