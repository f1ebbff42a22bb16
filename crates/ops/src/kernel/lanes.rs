//! Explicit vector registers for the matrix product, the one loop that the compiler does not vectorise well enough.

use pulp::{Arch, Simd, WithSimd};

/// A number type with vector registers.
pub trait Lanes: Copy + Default + 'static {
    /// A vector register.
    type Register<S: Simd>: Copy;

    /// Numbers in a register.
    fn count<S: Simd>() -> usize;

    /// A register with the same number in every lane.
    fn splat<S: Simd>(simd: S, x: Self) -> Self::Register<S>;

    /// `a + b`.
    fn plus<S: Simd>(simd: S, a: Self::Register<S>, b: Self::Register<S>) -> Self::Register<S>;

    /// `a b + c`, rounded once where the machine has such an instruction.
    fn fused<S: Simd>(simd: S, a: Self::Register<S>, b: Self::Register<S>, c: Self::Register<S>) -> Self::Register<S>;

    /// A slice as whole registers, without the remainder at its end.
    fn registers<S: Simd>(x: &[Self]) -> &[Self::Register<S>];

    /// A mutable slice as whole registers, without the remainder at its end.
    fn registers_mut<S: Simd>(x: &mut [Self]) -> &mut [Self::Register<S>];

    /// Transposes four rows of one register each: calls `put(l, [x0, x1, x2, x3])` with the entries of the rows at every
    /// index `l`.
    fn four_rows<S: Simd>(simd: S, rows: [&[Self]; 4], put: impl FnMut(usize, &[Self; 4]));

    /// Runs `job` with the widest registers of this machine, and a buffer that the thread reuses.
    fn dispatch<J: Job<Self>>(job: J);
}

/// A computation for [`Lanes::dispatch`].
pub trait Job<T> {
    /// Runs the job. Implementations must be inlined to use the wide registers.
    fn run<S: Simd>(self, simd: S, buffer: &mut Vec<T>);
}

struct Dispatched<'a, T, J> {
    job: J,
    buffer: &'a mut Vec<T>,
}

impl<T, J: Job<T>> WithSimd for Dispatched<'_, T, J> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.job.run(simd, self.buffer);
    }
}

/// Runs `job` with these registers.
#[cfg(test)]
pub(crate) fn run_with<S: Simd, T, J: Job<T>>(simd: S, job: J) {
    simd.vectorize(Dispatched { job, buffer: &mut Vec::new() });
}

/// [`Lanes::four_rows`] for registers of any width.
#[inline(always)]
fn one_by_one<T: Copy>(rows: [&[T]; 4], length: usize, mut put: impl FnMut(usize, &[T; 4])) {
    let rows = rows.map(|row| &row[..length]);
    for l in 0..length {
        put(l, &rows.map(|row| row[l]));
    }
}

macro_rules! lanes {
    ($number:ty, $register:ident, $splat:ident, $add:ident, $fused:ident, $of:ident, $of_mut:ident, $four_rows:item) => {
        impl Lanes for $number {
            type Register<S: Simd> = S::$register;

            #[inline(always)]
            fn count<S: Simd>() -> usize {
                size_of::<S::$register>() / size_of::<Self>()
            }

            #[inline(always)]
            fn splat<S: Simd>(simd: S, x: Self) -> S::$register {
                simd.$splat(x)
            }

            #[inline(always)]
            fn plus<S: Simd>(simd: S, a: S::$register, b: S::$register) -> S::$register {
                simd.$add(a, b)
            }

            #[inline(always)]
            fn fused<S: Simd>(simd: S, a: S::$register, b: S::$register, c: S::$register) -> S::$register {
                simd.$fused(a, b, c)
            }

            #[inline(always)]
            fn registers<S: Simd>(x: &[Self]) -> &[S::$register] {
                S::$of(x).0
            }

            #[inline(always)]
            fn registers_mut<S: Simd>(x: &mut [Self]) -> &mut [S::$register] {
                S::$of_mut(x).0
            }

            #[inline(always)]
            $four_rows

            fn dispatch<J: Job<Self>>(job: J) {
                thread_local! {
                    static BUFFER: std::cell::RefCell<Vec<$number>> = const { std::cell::RefCell::new(Vec::new()) };
                }
                BUFFER.with_borrow_mut(|buffer| Arch::new().dispatch(Dispatched { job, buffer }));
            }
        }
    };
}

lanes!(
    f32,
    f32s,
    splat_f32s,
    add_f32s,
    mul_add_e_f32s,
    as_simd_f32s,
    as_mut_simd_f32s,
    fn four_rows<S: Simd>(simd: S, rows: [&[f32]; 4], mut put: impl FnMut(usize, &[f32; 4])) {
        let lanes = S::F32_LANES;
        if lanes <= 4 {
            return one_by_one(rows, lanes, put);
        }
        // transposes each square of four rows and four lanes
        let columns = simd.deinterleave_shfl_f32s(rows.map(|row| S::as_simd_f32s(&row[..lanes]).0[0]));
        for (lane, register) in columns.iter().enumerate() {
            let fours: &[[f32; 4]] = pulp::bytemuck::cast_slice(std::slice::from_ref(register));
            for (i, four) in fours.iter().enumerate() {
                put(4 * i + lane, four);
            }
        }
    }
);
lanes!(
    f64,
    f64s,
    splat_f64s,
    add_f64s,
    mul_add_e_f64s,
    as_simd_f64s,
    as_mut_simd_f64s,
    fn four_rows<S: Simd>(_: S, rows: [&[f64]; 4], put: impl FnMut(usize, &[f64; 4])) {
        one_by_one(rows, S::F64_LANES, put);
    }
);
