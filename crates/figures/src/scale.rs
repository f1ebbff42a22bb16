//! Axes: from values to positions along a side of a panel, and their ticks.

use config::Scale;

use crate::number::{log_label, tick_labels};

/// One side of a panel, or a colour bar.
#[derive(Clone, Debug)]
pub(crate) enum Axis {
    /// Numbers between two ends.
    Numbers { low: f64, high: f64, log: bool },
    /// Categories in slots of the same size; values are indices from 0.
    Slots(Vec<String>),
}

/// A labelled value on an axis.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tick {
    pub value: f64,
    pub label: String,
}

impl Axis {
    /// An axis over a fixed range, or over the range of the values with a share of room at both ends.
    pub fn over(values: impl Iterator<Item = f64>, scale: Scale, range: Option<[f64; 2]>, room: f64) -> Self {
        let log = scale == Scale::Log;
        if let Some([low, high]) = range {
            return Axis::Numbers { low, high, log };
        }
        let usable = values.filter(|v| v.is_finite() && (!log || *v > 0.0));
        let (low, high) = usable.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        let (low, high) = match (low.is_finite(), log) {
            (false, false) => (0.0, 1.0),
            (false, true) => (0.1, 1.0),
            _ => (low, high),
        };
        if log {
            let (low, high) = if low == high { (low / 2.0, high * 2.0) } else { (low, high) };
            let pad = (high / low).powf(room);
            return Axis::Numbers { low: low / pad, high: high * pad, log };
        }
        let (low, high) = if low == high {
            let around = if low == 0.0 { 1.0 } else { low.abs() * 0.1 };
            (low - around, high + around)
        } else {
            (low, high)
        };
        let pad = (high - low) * room;
        Axis::Numbers { low: low - pad, high: high + pad, log }
    }

    /// Position of a value as a share of the side: 0 at the low end, and outside 0 to 1 where the axis does not reach.
    ///
    /// On a logarithmic axis, values that are not positive lie at the low end.
    pub fn at(&self, value: f64) -> f64 {
        match self {
            Axis::Numbers { low, high, log: false } => (value - low) / (high - low),
            Axis::Numbers { low, high, log: true } => {
                if value <= 0.0 {
                    return 0.0;
                }
                (value / low).ln() / (high / low).ln()
            }
            Axis::Slots(slots) => (value + 0.5) / slots.len().max(1) as f64,
        }
    }

    /// Ticks with labels: every category, or about `most` numbers.
    pub fn ticks(&self, most: usize) -> Vec<Tick> {
        match self {
            Axis::Slots(slots) => {
                slots.iter().enumerate().map(|(i, label)| Tick { value: i as f64, label: label.clone() }).collect()
            }
            Axis::Numbers { low, high, log: false } => linear(*low, *high, most.max(2)),
            Axis::Numbers { low, high, log: true } => logarithmic(*low, *high, most.max(2)),
        }
    }

    /// A linear axis that starts or ends at zero where its values almost do; a `fixed` one stays as it is.
    pub fn starting_at_zero(self, fixed: bool) -> Self {
        match self {
            Axis::Numbers { high, low, log: false } if !fixed => {
                let pad = (high - low) * 0.06;
                let low = if low >= -pad { 0.0 } else { low };
                let high = if high <= pad { 0.0 } else { high };
                if low == high {
                    Axis::Numbers { low: 0.0, high: 1.0, log: false }
                } else {
                    Axis::Numbers { low, high, log: false }
                }
            }
            axis => axis,
        }
    }

    /// Whether values are indices of categories.
    pub fn is_slots(&self) -> bool {
        matches!(self, Axis::Slots(_))
    }
}

fn linear(low: f64, high: f64, most: usize) -> Vec<Tick> {
    let rough = (high - low) / most as f64;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| *s >= rough * 0.999);
    let step = step.unwrap_or(10.0 * power);
    let slack = (high - low) * 1e-9;
    let first = ((low - slack) / step).ceil();
    let values: Vec<f64> =
        (0..=most + 1).map(|i| (first + i as f64) * step).take_while(|v| *v <= high + slack).collect();
    values.iter().zip(tick_labels(&values)).map(|(value, label)| Tick { value: *value, label }).collect()
}

/// Ticks from the finest of a few sets of round numbers that has at most `most`, or else every second, third, .. decade.
fn logarithmic(low: f64, high: f64, most: usize) -> Vec<Tick> {
    const SETS: [&[f64]; 5] = [
        &[1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0],
        &[1.0, 2.0, 3.0, 5.0, 7.0],
        &[1.0, 2.0, 5.0],
        &[1.0, 3.0],
        &[1.0],
    ];
    let first = (low * 0.999_999).log10().floor() as i32;
    let last = (high * 1.000_001).log10().floor() as i32;
    let inside = |v: &f64| *v >= low * 0.999_999 && *v <= high * 1.000_001;
    let of = |set: &[f64]| -> Vec<f64> {
        (first..=last).flat_map(|d| set.iter().map(move |s| s * 10f64.powi(d))).filter(inside).collect()
    };
    let wide = high / low >= 3.0;
    let found = SETS.iter().skip(usize::from(wide)).map(|set| of(set)).find(|v| v.len() <= most);
    let mut values = found.unwrap_or_else(|| {
        let every = of(&[1.0]).len().div_ceil(most) as i32;
        (first..=last).filter(|d| d.rem_euclid(every) == 0).map(|d| 10f64.powi(d)).filter(inside).collect()
    });
    if values.len() < 2 {
        values = vec![low, high];
    }
    values.iter().map(|v| Tick { value: *v, label: log_label(*v) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis, most: usize) -> Vec<String> {
        axis.ticks(most).into_iter().map(|t| t.label).collect()
    }

    #[test]
    fn ticks_are_round() {
        let axis = Axis::Numbers { low: -500.0, high: 20_500.0, log: false };
        assert_eq!(labels(&axis, 5), ["0", "5k", "10k", "15k", "20k"]);
        let axis = Axis::Numbers { low: 0.0, high: 1.0, log: false };
        assert_eq!(labels(&axis, 5), ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        let axis = Axis::Numbers { low: 1e-3, high: 1e6, log: true };
        assert_eq!(labels(&axis, 10), ["1e-3", "0.01", "0.1", "1", "10", "100", "1k", "10k", "100k", "1M"]);
        assert_eq!(labels(&axis, 5), ["0.01", "1", "100", "10k", "1M"]);
        let axis = Axis::Numbers { low: 0.1, high: 24.0, log: true };
        assert_eq!(labels(&axis, 9), ["0.1", "0.2", "0.5", "1", "2", "5", "10", "20"]);
    }

    #[test]
    fn positions_run_from_end_to_end() {
        let axis = Axis::Numbers { low: 1.0, high: 100.0, log: true };
        assert_eq!((axis.at(1.0), axis.at(10.0), axis.at(100.0), axis.at(-3.0)), (0.0, 0.5, 1.0, 0.0));
        assert_eq!(Axis::Slots(vec!["a".into(), "b".into()]).at(1.0), 0.75);
    }

    #[test]
    fn constant_data_still_has_an_axis() {
        let Axis::Numbers { low, high, .. } = Axis::over([2.0, 2.0].into_iter(), Scale::Linear, None, 0.0) else {
            panic!("numbers")
        };
        assert!(low < 2.0 && high > 2.0);
    }
}
