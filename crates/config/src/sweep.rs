//! The points of a sweep, each a list of overrides.
//!
//! A grid counts up with its last key fastest.
//! A random sweep has one stream of numbers per key: SplitMix64 (Steele et al. 2014) from the seed of the draw and the
//! key's FNV-1a hash, so another key does not move the draws of this one.
//! Drawn floats are rounded to six digits, which reads well and does not hang on the last bit of `exp`.

use serde_json::{Number, Value};

use crate::envelope::{Draw, RandomSweep, Sweep};
use crate::error::Error;
use crate::ordered::Ordered;
use crate::overlay::Override;

/// Most points of a sweep.
const MAX_POINTS: usize = 100_000;

impl Sweep {
    /// The points, in order; each changes some keys of the configuration.
    ///
    /// # Errors
    /// No points, two equal points, too many, or bounds of a draw without sense.
    pub fn points(&self) -> Result<Vec<Vec<Override>>, Error> {
        let points = match self {
            Sweep::Grid(keys) => grid(keys)?,
            Sweep::List(points) => points.iter().map(point).collect(),
            Sweep::Random(random) => random.points()?,
        };
        if points.is_empty() {
            return fail("a sweep of 0 points");
        }
        distinct(&points)?;
        Ok(points)
    }
}

impl RandomSweep {
    fn points(&self) -> Result<Vec<Vec<Override>>, Error> {
        if self.count == 0 {
            return fail("a sweep of 0 points: `count` is 0");
        }
        if self.count > MAX_POINTS {
            return fail(format!("a sweep of more than {MAX_POINTS} points"));
        }
        if self.keys.is_empty() {
            return fail("a sweep without keys");
        }
        for (key, draw) in self.keys.iter() {
            draw.check(key)?;
        }
        self.draw()
    }

    /// Draws until there are enough different points.
    fn draw(&self) -> Result<Vec<Vec<Override>>, Error> {
        let mut streams: Vec<_> = self.keys.iter().map(|(key, _)| Stream::new(self.seed, key)).collect();
        let mut seen = std::collections::HashSet::new();
        let mut points = Vec::new();
        for _ in 0..1000 + 20 * self.count {
            let drawn = self.keys.iter().zip(&mut streams);
            let next: Vec<_> = drawn.map(|((key, draw), stream)| Override::new(key, draw.value(stream))).collect();
            if seen.insert(signature(&next)) {
                points.push(next);
            }
            if points.len() == self.count {
                return Ok(points);
            }
        }
        fail(format!("{} points wanted, but these keys give only {} different ones", self.count, points.len()))
    }
}

impl Draw {
    fn check(&self, key: &str) -> Result<(), Error> {
        match self {
            Draw::Choice(values) if values.is_empty() => fail(format!("`{key}` has nothing to choose from")),
            Draw::LogUniform([low, _]) if *low <= 0.0 => {
                fail(format!("`{key}` is drawn in the logarithm, so its bounds must be positive"))
            }
            Draw::Uniform([low, high]) | Draw::LogUniform([low, high]) if low >= high => {
                fail(format!("`{key}` is drawn between {low} and {high}; the first must be the smaller one"))
            }
            Draw::Integer([low, high]) if low > high => {
                fail(format!("`{key}` is drawn between {low} and {high}; the first must be the smaller one"))
            }
            _ => Ok(()),
        }
    }

    fn value(&self, stream: &mut Stream) -> Value {
        match self {
            Draw::Choice(values) => values[stream.below(values.len() as u128) as usize].clone(),
            // Both products first: the difference of the bounds may not be finite.
            Draw::Uniform([low, high]) => {
                let u = stream.unit();
                float(low * (1.0 - u) + high * u, *low, *high)
            }
            Draw::LogUniform([low, high]) => {
                let u = stream.unit();
                float((low.ln() * (1.0 - u) + high.ln() * u).exp(), *low, *high)
            }
            Draw::Integer([low, high]) => {
                let span = (i128::from(*high) - i128::from(*low) + 1) as u128;
                Value::from((i128::from(*low) + stream.below(span) as i128) as i64)
            }
        }
    }
}

/// Rounded to six digits, within the bounds.
fn float(value: f64, low: f64, high: f64) -> Value {
    let rounded = format!("{value:.5e}").parse().unwrap_or(value);
    Number::from_f64(f64::clamp(rounded, low, high)).map_or(Value::Null, Value::Number)
}

/// SplitMix64.
struct Stream(u64);

impl Stream {
    fn new(seed: u64, name: &str) -> Stream {
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        let mut stream = Stream(seed ^ hash);
        Stream(stream.next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In [0, 1).
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// In 0..span, for spans up to 2^64.
    fn below(&mut self, span: u128) -> u128 {
        (u128::from(self.next()) * span) >> 64
    }
}

fn grid(keys: &Ordered<Vec<Value>>) -> Result<Vec<Vec<Override>>, Error> {
    if keys.is_empty() {
        return fail("a sweep without keys");
    }
    let mut points = vec![Vec::new()];
    for (key, values) in keys.iter() {
        if values.is_empty() {
            return fail(format!("a sweep of 0 points: `{key}` has no values"));
        }
        if points.len().saturating_mul(values.len()) > MAX_POINTS {
            return fail(format!("a sweep of more than {MAX_POINTS} points"));
        }
        points = points.iter().flat_map(|point| values.iter().map(|value| extended(point, key, value))).collect();
    }
    Ok(points)
}

fn extended(point: &[Override], key: &str, value: &Value) -> Vec<Override> {
    let mut point = point.to_vec();
    point.push(Override::new(key, value.clone()));
    point
}

fn point(keys: &Ordered<Value>) -> Vec<Override> {
    keys.iter().map(|(key, value)| Override::new(key, value.clone())).collect()
}

fn distinct(points: &[Vec<Override>]) -> Result<(), Error> {
    let mut seen = std::collections::HashMap::new();
    for (index, point) in points.iter().enumerate() {
        if let Some(first) = seen.insert(signature(point), index) {
            let words: Vec<&str> = point.iter().map(|change| change.text.as_str()).collect();
            return fail(format!("points {} and {} are the same: {}", first + 1, index + 1, words.join(", ")));
        }
    }
    Ok(())
}

/// The same for points that change the same keys to the same values, `1` and `1.0` included.
fn signature(point: &[Override]) -> Vec<String> {
    let mut parts: Vec<String> = point
        .iter()
        .map(|change| match change.value.as_f64() {
            Some(float) if !change.value.is_u64() && !change.value.is_i64() && float.fract() == 0.0 => {
                format!("{}={float:.0}", change.key)
            }
            _ => format!("{}={}", change.key, change.value),
        })
        .collect();
    parts.sort();
    parts
}

fn fail<T>(what: impl Into<String>) -> Result<T, Error> {
    Err(Error::Sweep(what.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml;

    fn points(text: &str) -> Result<Vec<String>, String> {
        let sweep: Sweep = yaml::from_str(text, "x").map_err(|error| error.to_string())?;
        let points = sweep.points().map_err(|error| error.to_string())?;
        let words = |point: Vec<Override>| point.into_iter().map(|change| change.text).collect::<Vec<_>>().join(" ");
        Ok(points.into_iter().map(words).collect())
    }

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        assert_eq!(points(text).unwrap(), expected);
    }

    #[track_caller]
    fn refuse(text: &str, expected: &str) {
        assert_eq!(points(text).unwrap_err(), expected);
    }

    #[test]
    fn grids_and_lists() {
        check(
            "grid: {seed: [1, 2], params.a: [x, y]}",
            &["seed=1 params.a=\"x\"", "seed=1 params.a=\"y\"", "seed=2 params.a=\"x\"", "seed=2 params.a=\"y\""],
        );
        check("list: [{seed: 1, params.a: 0.5}, {}]", &["seed=1 params.a=0.5", ""]);
    }

    #[test]
    fn random_points_stay() {
        let text =
            "random: {count: 4, seed: 7, keys: {seed: {integer: [0, 9]}, params.lr: {log_uniform: [1e-4, 1e-2]}}}";
        let first = points(text).unwrap();
        assert_eq!(first, points(text).unwrap());
        assert_eq!(first.len(), 4);
        // Another key leaves the draws of the others alone.
        let more = points(&text.replace("keys: {", "keys: {params.a: {uniform: [0, 1]}, ")).unwrap();
        assert!(more.iter().zip(&first).all(|(more, first)| more.ends_with(first.as_str())), "{more:?} {first:?}");
        assert_ne!(first, points(&text.replace("seed: 7", "seed: 8")).unwrap());
        let all = points("random: {count: 3, seed: 1, keys: {seed: {choice: [1, 2, 3]}}}").unwrap();
        assert_eq!(std::collections::BTreeSet::from_iter(all).len(), 3);
        let wide = format!(
            "random: {{count: 9, seed: 1, keys: {{a: {{integer: [{}, {}]}}, b: {{uniform: [-1e308, 1e308]}}}}}}",
            i64::MIN,
            i64::MAX
        );
        assert_eq!(points(&wide).unwrap().len(), 9);
    }

    #[test]
    fn draws_are_uniform() {
        let mut stream = Stream::new(1, "x");
        let mean = (0..10_000).map(|_| stream.unit()).sum::<f64>() / 10_000.0;
        assert!((mean - 0.5).abs() < 0.01, "{mean}");
        let counts = (0..10_000).fold([0; 4], |mut counts, _| {
            counts[stream.below(4) as usize] += 1;
            counts
        });
        assert!(counts.iter().all(|count| (2300..2700).contains(count)), "{counts:?}");
    }

    #[test]
    fn sweeps_without_sense() {
        refuse("grid: {}", "a sweep without keys");
        refuse("grid: {seed: []}", "a sweep of 0 points: `seed` has no values");
        refuse("list: []", "a sweep of 0 points");
        refuse("list: [{a: 1, b: 2}, {b: 2.0, a: 1}]", "points 1 and 2 are the same: b=2.0, a=1");
        refuse("grid: {seed: [1, 2, 1]}", "points 1 and 3 are the same: seed=1");
        refuse("random: {count: 0, seed: 1, keys: {a: {uniform: [0, 1]}}}", "a sweep of 0 points: `count` is 0");
        refuse("random: {count: 1, seed: 1, keys: {}}", "a sweep without keys");
        refuse("random: {count: 1, seed: 1, keys: {a: {choice: []}}}", "`a` has nothing to choose from");
        refuse(
            "random: {count: 1, seed: 1, keys: {a: {uniform: [1, 1]}}}",
            "`a` is drawn between 1 and 1; the first must be the smaller one",
        );
        refuse(
            "random: {count: 1, seed: 1, keys: {a: {log_uniform: [0, 1]}}}",
            "`a` is drawn in the logarithm, so its bounds must be positive",
        );
        refuse(
            "random: {count: 4, seed: 1, keys: {a: {integer: [1, 3]}}}",
            "4 points wanted, but these keys give only 3 different ones",
        );
        let many = format!("grid: {{a: {0:?}, b: {0:?}}}", (0..400).collect::<Vec<_>>());
        refuse(&many, "a sweep of more than 100000 points");
    }
}
