//! Ticks whose labels do not touch each other.

use crate::{
    scale::{Axis, Tick},
    style::TICK,
    text::{ellipsis, text_width, wrap},
};

/// How the labels of a horizontal axis are set.
#[derive(Clone, Debug)]
pub(crate) enum Setting {
    /// Each label on one or more level lines.
    Level(Vec<Vec<String>>),
    /// Each label reading upwards.
    Rotated(Vec<String>),
}

/// The ticks of a horizontal axis with their labels.
#[derive(Clone, Debug)]
pub(crate) struct XTicks {
    pub ticks: Vec<Tick>,
    pub setting: Setting,
    is_slots: bool,
}

fn width(text: &str) -> f64 {
    text_width(text, TICK, false)
}

/// Width of the widest label.
pub(crate) fn widest(ticks: &[Tick]) -> f64 {
    ticks.iter().map(|t| width(&t.label)).fold(0.0, f64::max)
}

impl XTicks {
    /// No ticks.
    pub fn none() -> Self {
        Self { ticks: Vec::new(), setting: Setting::Level(Vec::new()), is_slots: false }
    }

    /// Ticks of an axis of `w` pixels.
    pub fn new(axis: &Axis, w: f64) -> Self {
        let is_slots = axis.is_slots();
        let (ticks, setting) = match axis {
            Axis::Slots(slots) => categories(axis, slots, w),
            Axis::Numbers { .. } => numbers(axis, w),
        };
        Self { ticks, setting, is_slots }
    }

    /// Height of the labels below the axis.
    pub fn height(&self) -> f64 {
        match &self.setting {
            Setting::Level(labels) => 6.0 + 13.0 * labels.iter().map(Vec::len).max().unwrap_or(0).max(1) as f64,
            Setting::Rotated(labels) => 8.0 + labels.iter().map(|l| width(l)).fold(0.0, f64::max),
        }
    }

    /// Labels that may reach beyond the ends of the axis.
    fn numbers(&self) -> &[Vec<String>] {
        match &self.setting {
            Setting::Level(labels) if !self.is_slots => labels,
            Setting::Level(_) | Setting::Rotated(_) => &[],
        }
    }

    /// Space between neighbouring panels.
    pub fn gap(&self) -> f64 {
        let labels = self.numbers();
        let ends = [labels.first(), labels.last()].into_iter().flatten();
        let room: f64 = ends.map(|l| width(&l[0])).sum::<f64>() / 2.0 + 8.0;
        room.max(18.0)
    }

    /// Space that the last label takes at the right of the axis, beyond the usual one.
    pub fn last_half(&self) -> f64 {
        self.numbers().last().map_or(0.0, |l| width(&l[0]) / 2.0 - 8.0)
    }
}

fn categories(axis: &Axis, slots: &[String], w: f64) -> (Vec<Tick>, Setting) {
    let slot = w / slots.len().max(1) as f64 - 5.0;
    let ticks = axis.ticks(0);
    if slots.iter().all(|s| s.split_whitespace().all(|word| width(word) <= slot)) {
        let lines: Vec<_> = slots.iter().map(|s| wrap(s, TICK, false, slot)).collect();
        if lines.iter().all(|l| l.len() <= 3) {
            return (ticks, Setting::Level(lines));
        }
    }
    let ticks = thin(ticks, w);
    let labels = ticks.iter().map(|t| ellipsis(&t.label, TICK, false, 130.0)).collect();
    (ticks, Setting::Rotated(labels))
}

fn numbers(axis: &Axis, w: f64) -> (Vec<Tick>, Setting) {
    let mut most = (w / 48.0).clamp(2.0, 10.0) as usize;
    loop {
        let ticks = axis.ticks(most);
        let apart = |pair: &[Tick]| {
            let gap = (axis.at(pair[1].value) - axis.at(pair[0].value)) * w;
            gap >= (width(&pair[0].label) + width(&pair[1].label)) / 2.0 + 9.0
        };
        if most <= 2 || ticks.windows(2).all(apart) {
            let lines = ticks.iter().map(|t| vec![t.label.clone()]).collect();
            return (ticks, Setting::Level(lines));
        }
        most -= 1;
    }
}

/// Ticks of a vertical axis of `h` pixels.
pub(crate) fn y_ticks(axis: &Axis, h: f64) -> Vec<Tick> {
    let ticks = axis.ticks((h / 36.0).clamp(3.0, 8.0) as usize);
    let ticks = if axis.is_slots() { thin(ticks, h) } else { ticks };
    ticks.into_iter().map(|t| Tick { label: ellipsis(&t.label, TICK, false, 150.0), ..t }).collect()
}

/// Every second, third, .. label of categories that would touch along a side of this length.
fn thin(ticks: Vec<Tick>, side: f64) -> Vec<Tick> {
    let every = (ticks.len() as f64 * 13.0 / side).ceil().max(1.0) as usize;
    ticks.into_iter().step_by(every).collect()
}
