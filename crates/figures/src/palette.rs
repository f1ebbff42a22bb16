//! Colours that survive colour blindness and a grey printer.
//!
//! Series take the Okabe-Ito palette (its yellow darkened, which white paper would swallow) and a marker each;
//! maps take viridis, whose lightness rises with the value, or, around a centre, blue over white to red (ColorBrewer's
//! RdBu), which colour-blind readers tell apart.

/// Red, green and blue.
pub(crate) type Rgb = [u8; 3];

pub(crate) const WHITE: Rgb = [255, 255, 255];
pub(crate) const INK: Rgb = [34, 34, 34];
pub(crate) const AXIS: Rgb = [85, 85, 85];
pub(crate) const GRID: Rgb = [230, 230, 230];
pub(crate) const RULE: Rgb = [110, 110, 110];
pub(crate) const MISSING: Rgb = [238, 238, 238];
pub(crate) const HATCH: Rgb = [180, 180, 180];

const SERIES: [Rgb; 8] = [
    [0, 114, 178],
    [213, 94, 0],
    [0, 158, 115],
    [204, 121, 167],
    [230, 159, 0],
    [86, 180, 233],
    [0, 0, 0],
    [168, 156, 0],
];

/// Colour of the `i`-th of `n` series; more than eight that are numbers run through viridis.
pub(crate) fn series(i: usize, n: usize, numbers: bool) -> Rgb {
    if numbers && n > SERIES.len() {
        return viridis(0.92 * i as f64 / (n - 1) as f64);
    }
    SERIES[i % SERIES.len()]
}

/// Viridis from 0 (dark blue) to 1 (yellow), interpolated between 17 of its colours.
pub(crate) fn viridis(t: f64) -> Rgb {
    const STOPS: [Rgb; 17] = [
        [68, 1, 84],
        [72, 20, 103],
        [72, 38, 119],
        [69, 55, 129],
        [63, 71, 136],
        [57, 85, 140],
        [50, 100, 142],
        [45, 113, 142],
        [40, 125, 142],
        [35, 138, 141],
        [31, 150, 139],
        [41, 163, 132],
        [61, 178, 117],
        [92, 192, 98],
        [131, 204, 75],
        [181, 222, 43],
        [253, 231, 37],
    ];
    between(&STOPS, t)
}

/// From 0 (dark blue) over 0.5 (white) to 1 (dark red).
pub(crate) fn diverging(t: f64) -> Rgb {
    const STOPS: [Rgb; 11] = [
        [5, 48, 97],
        [33, 102, 172],
        [67, 147, 195],
        [146, 197, 222],
        [209, 229, 240],
        [247, 247, 247],
        [253, 219, 199],
        [244, 165, 130],
        [214, 96, 77],
        [178, 24, 43],
        [103, 0, 31],
    ];
    between(&STOPS, t)
}

fn between(stops: &[Rgb], t: f64) -> Rgb {
    let at = t.clamp(0.0, 1.0) * (stops.len() - 1) as f64;
    let low = (at.floor() as usize).min(stops.len() - 2);
    let share = at - low as f64;
    std::array::from_fn(|c| {
        let (a, b) = (f64::from(stops[low][c]), f64::from(stops[low + 1][c]));
        (a + (b - a) * share).round() as u8
    })
}

/// Black or white, whichever reads better on the colour.
pub(crate) fn ink_on(colour: Rgb) -> Rgb {
    let linear = |c: u8| (f64::from(c) / 255.0).powf(2.2);
    let light = 0.2126 * linear(colour[0]) + 0.7152 * linear(colour[1]) + 0.0722 * linear(colour[2]);
    if light > 0.2 { [0, 0, 0] } else { WHITE }
}
