//! Projection of a box of points onto the page, with the same scale along all three axes.

use crate::canvas::Rect;

/// Default view in degrees: azimuth around the third axis, and elevation.
pub(super) const VIEW: [f64; 2] = [-60.0, 22.0];
/// Room for the names of the axes around the box, in pixels.
const MARGIN: f64 = 24.0;

type Point = [f64; 3];

/// A box around points, projected into a panel.
#[derive(Clone, Debug)]
pub(super) struct Scene {
    low: Point,
    high: Point,
    sines: [f64; 4],
    middle: (f64, f64),
    scale: f64,
    shift: (f64, f64),
}

impl Scene {
    /// The box around all points, as large as fits into `r`.
    pub(super) fn new(points: impl Iterator<Item = Point>, view: [f64; 2], r: Rect) -> Self {
        let (mut low, mut high) = ([f64::INFINITY; 3], [f64::NEG_INFINITY; 3]);
        for point in points.filter(|point| point.iter().all(|x| x.is_finite())) {
            for k in 0..3 {
                low[k] = low[k].min(point[k]);
                high[k] = high[k].max(point[k]);
            }
        }
        let widest = (0..3).map(|k| high[k] - low[k]).fold(0.0, f64::max);
        for k in 0..3 {
            // a flat cloud still gets a box
            let room = if widest > 0.0 { widest * 0.03 } else { 1.0 };
            if low[k] > high[k] {
                (low[k], high[k]) = (-1.0, 1.0);
            }
            low[k] -= room;
            high[k] += room;
        }
        let [azimuth, elevation] = view.map(f64::to_radians);
        let sines = [azimuth.sin(), azimuth.cos(), elevation.sin(), elevation.cos()];
        let mut scene = Self { low, high, sines, middle: (0.0, 0.0), scale: 1.0, shift: (0.0, 0.0) };
        let flat: Vec<(f64, f64)> = (0..8).map(|i| scene.flat(scene.corner(i))).collect();
        let ends = |of: fn(&(f64, f64)) -> f64| {
            flat.iter().map(of).fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), x| (a.min(x), b.max(x)))
        };
        let ((left, right), (bottom, top)) = (ends(|p| p.0), ends(|p| p.1));
        scene.scale = ((r.w - 2.0 * MARGIN) / (right - left)).min((r.h - 2.0 * MARGIN) / (top - bottom));
        scene.middle = ((left + right) / 2.0, (bottom + top) / 2.0);
        scene.shift = (r.x + r.w / 2.0, r.y + r.h / 2.0);
        scene
    }

    fn corner(&self, i: usize) -> Point {
        std::array::from_fn(|k| if i >> k & 1 == 1 { self.high[k] } else { self.low[k] })
    }

    /// Rightwards and upwards coordinates in the units of the data.
    fn flat(&self, [x, y, z]: Point) -> (f64, f64) {
        let [sin_a, cos_a, sin_e, cos_e] = self.sines;
        (cos_a * y - sin_a * x, cos_e * z - sin_e * (cos_a * x + sin_a * y))
    }

    /// Closeness to the viewer.
    pub(super) fn depth(&self, [x, y, z]: Point) -> f64 {
        let [sin_a, cos_a, sin_e, cos_e] = self.sines;
        cos_e * (cos_a * x + sin_a * y) + sin_e * z
    }

    /// Position on the page.
    pub(super) fn at(&self, point: Point) -> (f64, f64) {
        let (x, y) = self.flat(point);
        (self.shift.0 + (x - self.middle.0) * self.scale, self.shift.1 - (y - self.middle.1) * self.scale)
    }

    /// The edges of the box that no point can hide: those away from its nearest corner.
    pub(super) fn edges(&self) -> Vec<[(f64, f64); 2]> {
        let nearest =
            (0..8).fold(0, |best, i| if self.depth(self.corner(i)) > self.depth(self.corner(best)) { i } else { best });
        let pairs = (0..8usize).flat_map(|i| (0..3).map(move |k| (i, i | 1 << k))).filter(|(i, j)| i != j);
        pairs
            .filter(|(i, j)| *i != nearest && *j != nearest)
            .map(|(i, j)| [self.at(self.corner(i)), self.at(self.corner(j))])
            .collect()
    }

    /// Position of the name of an axis: beside the middle of its edge, outside the box.
    pub(super) fn name_at(&self, axis: usize) -> (f64, f64) {
        let ends = |i: usize| (self.at(self.corner(i)), self.at(self.corner(i | 1 << axis)));
        let middle = |i: usize| {
            let (a, b) = ends(i);
            ((a.0 + b.0) / 2.0, (a.1 + b.1) / 2.0)
        };
        let along = (0..8usize).filter(|i| i >> axis & 1 == 0);
        // the third axis is named at the left, the others at the bottom, each on an edge of the outline
        let edge = match axis {
            2 => along.min_by(|a, b| middle(*a).0.total_cmp(&middle(*b).0)),
            _ => along.max_by(|a, b| middle(*a).1.total_cmp(&middle(*b).1)),
        };
        let (x, y) = middle(edge.unwrap_or(0));
        let (dx, dy) = (x - self.shift.0, y - self.shift.1);
        let length = dx.hypot(dy).max(1e-9);
        (x + dx / length * 13.0, y + dy / length * 13.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const R: Rect = Rect { x: 10.0, y: 20.0, w: 300.0, h: 200.0 };

    #[test]
    fn the_box_fits_and_is_not_stretched() {
        let corners = (0..8).map(|i| std::array::from_fn(|k| f64::from(i >> k & 1) * 4.0));
        let scene = Scene::new(corners, VIEW, R);
        for edge in scene.edges() {
            assert!(edge.iter().all(|p| R.contains(*p)), "{edge:?}");
        }
        assert_eq!(scene.edges().len(), 9);
        assert!((0..3).all(|axis| R.contains(scene.name_at(axis))));
        // up in the data is up on the page, and points nearer to the viewer have more depth
        assert!(scene.at([0.0, 0.0, 4.0]).1 < scene.at([0.0, 0.0, 0.0]).1);
        let front = Scene::new([[0.0; 3], [1.0; 3]].into_iter(), [0.0, 0.0], R);
        assert!(front.depth([1.0, 0.0, 0.0]) > front.depth([0.0, 0.0, 0.0]));
        // seen from the front, the second axis runs to the right with the scale of the third
        let (a, b) = (front.at([0.0, 0.0, 0.0]), front.at([0.0, 1.0, 1.0]));
        assert!(((b.0 - a.0) - (a.1 - b.1)).abs() < 1e-9);
    }

    #[test]
    fn one_point_and_no_point_still_have_a_box() {
        for points in [vec![], vec![[2.0; 3]], vec![[f64::NAN; 3]]] {
            let scene = Scene::new(points.into_iter(), VIEW, R);
            assert!(scene.at([0.0; 3]).0.is_finite());
        }
    }
}
