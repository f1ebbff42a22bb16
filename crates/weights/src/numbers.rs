//! Decodes stored numbers to floats: directly from the mapped file, on all threads, refusing NaN and infinity.

use std::borrow::Cow;

use candle_core::CpuStorage;
use candle_core::quantized::{GgmlDType, QuantizedType};
use rayon::prelude::*;

/// Numbers that a thread decodes at a time: few enough to stay in its cache, and a multiple of every block size.
const CHUNK: usize = 1 << 16;

/// The alignment that candle's blocks require; the file formats do not guarantee it.
const ALIGNMENT: usize = 8;

/// The storage type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    F64,
    F32,
    /// Half types and quantised blocks, which candle decodes.
    Blocks(GgmlDType),
}

/// Why numbers could not be decoded.
#[derive(Debug)]
pub(crate) enum Refused {
    /// NaN, infinity, or a number outside the range of the requested type.
    NotFinite,
    /// candle could not decode a block.
    Candle(candle_core::Error),
}

impl Stored {
    /// Numbers and bytes per block.
    pub(crate) fn block(self) -> (usize, usize) {
        match self {
            Self::F64 => (1, 8),
            Self::F32 => (1, 4),
            Self::Blocks(kind) => (kind.block_size(), kind.type_size()),
        }
    }
}

/// Decodes `count` numbers as f32; f64 is rounded.
pub(crate) fn f32s(stored: Stored, bytes: &[u8], count: usize) -> Result<Vec<f32>, Refused> {
    in_chunks(stored, bytes, count, |bytes, out: &mut [f32]| {
        match stored {
            Stored::F64 => put(bytes, out, |b| f64::from_le_bytes(b) as f32),
            Stored::F32 => put(bytes, out, f32::from_le_bytes),
            Stored::Blocks(kind) => out.copy_from_slice(&widened(kind, bytes, out.len())?),
        }
        refuse(out.iter().fold(false, |bad, x| bad | (x.to_bits() & EXPONENT_32 == EXPONENT_32)))
    })
}

/// Decodes `count` numbers as f64.
pub(crate) fn f64s(stored: Stored, bytes: &[u8], count: usize) -> Result<Vec<f64>, Refused> {
    in_chunks(stored, bytes, count, |bytes, out: &mut [f64]| {
        match stored {
            Stored::F64 => put(bytes, out, f64::from_le_bytes),
            Stored::F32 => put(bytes, out, |b| f64::from(f32::from_le_bytes(b))),
            Stored::Blocks(kind) => {
                let widened = widened(kind, bytes, out.len())?;
                out.iter_mut().zip(widened).for_each(|(y, x)| *y = f64::from(x));
            }
        }
        refuse(out.iter().fold(false, |bad, x| bad | (x.to_bits() & EXPONENT_64 == EXPONENT_64)))
    })
}

/// The exponent bits of NaN and infinity; a test on bits vectorises.
const EXPONENT_32: u32 = 0x7f80_0000;
const EXPONENT_64: u64 = 0x7ff0_0000_0000_0000;

fn refuse(not_finite: bool) -> Result<(), Refused> {
    if not_finite { Err(Refused::NotFinite) } else { Ok(()) }
}

fn in_chunks<T: Clone + Default + Send>(
    stored: Stored,
    bytes: &[u8],
    count: usize,
    fill: impl Fn(&[u8], &mut [T]) -> Result<(), Refused> + Sync,
) -> Result<Vec<T>, Refused> {
    let (numbers, size) = stored.block();
    let mut out = vec![T::default(); count];
    out.par_chunks_mut(CHUNK)
        .zip(bytes.par_chunks(CHUNK / numbers * size))
        .try_for_each(|(out, bytes)| fill(bytes, out))?;
    Ok(out)
}

fn put<const N: usize, T>(bytes: &[u8], out: &mut [T], number: impl Fn([u8; N]) -> T) {
    for (x, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
        *x = number(*bytes);
    }
}

fn widened(kind: GgmlDType, bytes: &[u8], count: usize) -> Result<Vec<f32>, Refused> {
    let blocks: Box<dyn QuantizedType> = if bytes.as_ptr().align_offset(ALIGNMENT) == 0 {
        kind.from_data(Cow::Borrowed(bytes))
    } else {
        let mut copy = vec![0; bytes.len() + ALIGNMENT];
        let start = copy.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        let copy = &mut copy[start..start + bytes.len()];
        copy.copy_from_slice(bytes);
        kind.from_data(Cow::Borrowed(copy))
    };
    match blocks.dequantize(count).map_err(Refused::Candle)? {
        CpuStorage::F32(values) => Ok(values),
        _ => Err(Refused::Candle(candle_core::Error::Msg(format!("{kind:?} did not widen to f32")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chunk_and_every_alignment_is_decoded() {
        let count = 2 * CHUNK + 5;
        let numbers: Vec<f32> = (0..count).map(|i| i as f32 - 7.).collect();
        for shift in 0..9 {
            let mut bytes = vec![0; shift];
            bytes.extend(numbers.iter().flat_map(|x| x.to_le_bytes()));
            assert_eq!(f32s(Stored::F32, &bytes[shift..], count).unwrap(), numbers);
            let as_f32_blocks = f32s(Stored::Blocks(GgmlDType::F32), &bytes[shift..], count).unwrap();
            assert_eq!(as_f32_blocks, numbers, "shifted by {shift}");
            assert_eq!(f64s(Stored::F32, &bytes[shift..], count).unwrap()[count - 1], (count - 8) as f64);
        }
    }

    #[test]
    fn values_that_are_not_finite_are_found_anywhere() {
        let count = CHUNK + 3;
        for (index, bad) in [(0, f32::NAN), (CHUNK - 1, f32::INFINITY), (count - 1, f32::NEG_INFINITY)] {
            let mut numbers = vec![f32::MAX; count];
            numbers[index] = bad;
            let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
            assert!(matches!(f32s(Stored::F32, &bytes, count), Err(Refused::NotFinite)), "{bad} at {index}");
            assert!(matches!(f64s(Stored::F32, &bytes, count), Err(Refused::NotFinite)), "{bad} at {index}");
        }
        let large = 1e300f64.to_le_bytes();
        assert_eq!(f64s(Stored::F64, &large, 1).unwrap(), [1e300]);
        assert!(matches!(f32s(Stored::F64, &large, 1), Err(Refused::NotFinite)));
    }

    #[test]
    fn half_types_widen_exactly() {
        // 1.5, the smallest subnormal, -65504
        let halves: Vec<u8> = [0x3e00u16, 0x0001, 0xfbff].iter().flat_map(|x| x.to_le_bytes()).collect();
        let f16 = Stored::Blocks(GgmlDType::F16);
        assert_eq!(f32s(f16, &halves, 3).unwrap(), [1.5, 2f32.powi(-24), -65504.]);
        assert!(f32s(f16, &0x7c00u16.to_le_bytes(), 1).is_err());
        let brain: Vec<u8> = [0x3fc0u16, 0xbf80].iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(f64s(Stored::Blocks(GgmlDType::BF16), &brain, 2).unwrap(), [1.5, -1.]);
    }
}
