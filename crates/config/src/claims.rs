//! Measured values against the bars of claims and beside published numbers.

use std::fmt;

use crate::envelope::{Bar, Claim, Over, Published};
use crate::error::{Error, did_you_mean};

/// A number that a run reports.
#[derive(Clone, Debug, PartialEq)]
pub struct Measure {
    /// Its name in claims and published numbers.
    pub name: String,
    /// The number; none where the configuration did not ask for it.
    pub value: Option<f64>,
    /// Unit, such as `nats` or `fraction`.
    pub unit: String,
}

/// What became of a claim.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The claim.
    pub claim: Claim,
    /// One number out of all points; none where no point was run.
    pub measured: Option<f64>,
    /// Number of points it comes from.
    pub n: usize,
    /// Whether the bar is met; none where no point was run.
    pub holds: Option<bool>,
}

/// A published number beside ours.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// The published number.
    pub published: Published,
    /// Our mean over the points; none where no point was run.
    pub ours: Option<f64>,
    /// Ours minus the published one, where there are both.
    pub difference: Option<f64>,
    /// Number of points it comes from.
    pub n: usize,
}

/// Decides claims from the measures of each point (one point for a single run).
///
/// A claim takes its value from the points that report its measure (both, if there is a `minus`).
/// Without `over`, the point on the worst side of the bar decides, so that all points must meet it.
/// A measure without a value was not asked for: where no point has one, the claim stays open. One that is not a finite
/// number (0 / 0, say) meets no bar.
///
/// # Errors
/// When no point reports a measure that a claim names, with the nearest names; all such claims at once.
pub fn evaluate(claims: &[Claim], points: &[Vec<Measure>]) -> Result<Vec<Verdict>, Error> {
    let mut unknown = Vec::new();
    let verdicts = claims.iter().map(|claim| decide(claim, points, &mut unknown)).collect();
    if unknown.is_empty() { Ok(verdicts) } else { Err(Error::Claims(unknown)) }
}

/// Puts ours beside the published numbers.
///
/// # Errors
/// When no point reports a measure that a number stands beside, with the nearest names; all at once.
pub fn compare(published: &[Published], points: &[Vec<Measure>]) -> Result<Vec<Comparison>, Error> {
    let mut unknown = Vec::new();
    let compared = published.iter().map(|published| beside(published, points, &mut unknown)).collect();
    if unknown.is_empty() { Ok(compared) } else { Err(Error::Claims(unknown)) }
}

fn decide(claim: &Claim, points: &[Vec<Measure>], unknown: &mut Vec<String>) -> Verdict {
    let who = format!("claim `{}`", claim.id);
    let known = know(&claim.measure, &who, points, unknown);
    let known = claim.minus.as_ref().is_none_or(|minus| know(minus, &who, points, unknown)) && known;
    if let (Some(minus), true, false) = (&claim.minus, known, points.is_empty()) {
        let both =
            |point: &Vec<Measure>| [&claim.measure, minus].iter().all(|name| point.iter().any(|m| m.name == **name));
        if !points.iter().any(both) {
            unknown.push(format!("{who}: no point has both `{}` and `{minus}`", claim.measure));
        }
    }
    let values: Vec<f64> = points.iter().filter_map(|point| value(claim, point)).collect();
    let measured = if values.is_empty() { None } else { Some(reduce(&values, claim.over, claim.bar)) };
    let holds = measured.map(|value| claim.bar.holds(value));
    Verdict { claim: claim.clone(), measured, n: values.len(), holds }
}

fn beside(published: &Published, points: &[Vec<Measure>], unknown: &mut Vec<String>) -> Comparison {
    know(&published.measure, &format!("published `{}`", published.says), points, unknown);
    let values: Vec<f64> = points.iter().filter_map(|point| find(point, &published.measure)).collect();
    let ours = if values.is_empty() { None } else { Some(mean(&values)) };
    let difference = ours.zip(published.value).map(|(ours, theirs)| ours - theirs);
    Comparison { published: published.clone(), ours, difference, n: values.len() }
}

/// Whether some point reports the measure; no points at all is no mistake.
fn know(measure: &str, who: &str, points: &[Vec<Measure>], unknown: &mut Vec<String>) -> bool {
    let mut names: Vec<&str> = points.iter().flatten().map(|measure| measure.name.as_str()).collect();
    if points.is_empty() || names.contains(&measure) {
        return true;
    }
    names.sort_unstable();
    names.dedup();
    let guess = did_you_mean(measure, names.iter().copied());
    let list = match names.len() {
        0 => "none".to_owned(),
        1..=20 => names.join(", "),
        all => format!("{}, and {} more in measures.csv of a finished run", names[..20].join(", "), all - 20),
    };
    unknown.push(format!("{who}: unknown measure `{measure}`{guess} (there are: {list})"));
    false
}

fn value(claim: &Claim, point: &[Measure]) -> Option<f64> {
    let value = find(point, &claim.measure)?;
    match &claim.minus {
        Some(minus) => Some(value - find(point, minus)?),
        None => Some(value),
    }
}

/// The value of a measure, where it was asked for.
fn find(point: &[Measure], name: &str) -> Option<f64> {
    point.iter().find(|measure| measure.name == name)?.value
}

/// One number out of several.
fn reduce(values: &[f64], over: Option<Over>, bar: Bar) -> f64 {
    if values.iter().any(|value| value.is_nan()) {
        return f64::NAN;
    }
    match over {
        Some(Over::Mean) => mean(values),
        Some(Over::Median) => median(values),
        Some(Over::Min) => smallest(values),
        Some(Over::Max) => largest(values),
        None => bar.worst(values),
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

fn smallest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

fn largest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

impl Bar {
    /// Whether a value meets it; one that is not finite never does.
    pub fn holds(self, value: f64) -> bool {
        value.is_finite()
            && match self {
                Bar::AtLeast(low) => value >= low,
                Bar::AtMost(high) => value <= high,
                Bar::Between([low, high]) => (low..=high).contains(&value),
            }
    }

    /// The value on the worst side.
    fn worst(self, values: &[f64]) -> f64 {
        match self {
            Bar::AtLeast(_) => smallest(values),
            Bar::AtMost(_) => largest(values),
            Bar::Between([low, high]) => {
                let (smallest, largest) = (smallest(values), largest(values));
                if low - smallest > largest - high { smallest } else { largest }
            }
        }
    }
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bar::AtLeast(low) => write!(f, ">= {low}"),
            Bar::AtMost(high) => write!(f, "<= {high}"),
            Bar::Between([low, high]) => write!(f, "{low} to {high}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml;

    /// `acc=1 loss=2 | acc=3`: points and their measures.
    fn measures(text: &str) -> Vec<Vec<Measure>> {
        let measure = |word: &str| {
            let (name, value) = word.split_once('=').unwrap();
            // `acc=` was not asked for
            let value = (!value.is_empty()).then(|| value.parse().unwrap());
            Measure { name: name.into(), value, unit: String::new() }
        };
        text.split('|').map(|point| point.split_whitespace().map(measure).collect()).collect()
    }

    fn claim(text: &str) -> Claim {
        yaml::from_str(&format!("{{id: c, artefact: a, says: s, {text}}}"), "x").unwrap()
    }

    #[track_caller]
    fn check(claim_text: &str, points: &str, measured: f64, n: usize, holds: bool) {
        let verdict = &evaluate(&[claim(claim_text)], &measures(points)).unwrap()[0];
        assert_eq!((verdict.measured, verdict.n, verdict.holds), (Some(measured), n, Some(holds)), "{claim_text}");
    }

    #[test]
    fn bars() {
        check("measure: acc, bar: {at_least: 0.5}", "acc=0.5", 0.5, 1, true);
        check("measure: acc, bar: {at_least: 0.5}", "acc=0.9|acc=0.4", 0.4, 2, false);
        check("measure: acc, over: mean, bar: {at_least: 0.5}", "acc=0.9|acc=0.4", 0.65, 2, true);
        check("measure: acc, over: median, bar: {at_most: 2}", "acc=1|acc=2|acc=9", 2.0, 3, true);
        check("measure: acc, over: median, bar: {at_most: 2}", "acc=1|acc=3", 2.0, 2, true);
        check("measure: acc, over: max, bar: {at_most: 2}", "acc=1|acc=3", 3.0, 2, false);
        check("measure: acc, over: min, bar: {at_most: 2}", "acc=1|acc=3", 1.0, 2, true);
        check("measure: acc, bar: {at_most: 2}", "acc=1|acc=3", 3.0, 2, false);
        check("measure: acc, bar: {between: [0, 1]}", "acc=0|acc=1", 1.0, 2, true);
        check("measure: acc, bar: {between: [0, 1]}", "acc=-3|acc=2", -3.0, 2, false);
        check("measure: a, minus: b, bar: {at_least: 1}", "a=3 b=1|a=2|a=5 b=4", 1.0, 2, true);
        check("measure: acc, bar: {at_least: 0}", "acc=inf", f64::INFINITY, 1, false);
    }

    #[test]
    fn nothing_measured() {
        let bar = claim("measure: acc, bar: {at_least: 0}");
        let verdict = &evaluate(std::slice::from_ref(&bar), &[]).unwrap()[0];
        assert_eq!((verdict.measured, verdict.n, verdict.holds), (None, 0, None));
        // a point that was not asked for the measure does not count; with no point left the claim stays open
        let verdict = &evaluate(std::slice::from_ref(&bar), &measures("acc=|acc=1")).unwrap()[0];
        assert_eq!((verdict.measured, verdict.n, verdict.holds), (Some(1.0), 1, Some(true)));
        let verdict = &evaluate(&[bar], &measures("acc=")).unwrap()[0];
        assert_eq!((verdict.measured, verdict.n, verdict.holds), (None, 0, None));
    }

    #[test]
    fn what_is_not_a_number_meets_no_bar() {
        for bar in
            ["bar: {at_least: 0}", "bar: {at_most: 0}", "bar: {between: [0, 1]}", "over: median, bar: {at_most: 0}"]
        {
            for points in ["acc=NaN", "acc=NaN|acc=0", "acc=0|acc=NaN", "acc=0|acc=NaN|acc=0"] {
                let verdict = &evaluate(&[claim(&format!("measure: acc, {bar}"))], &measures(points)).unwrap()[0];
                assert!(verdict.measured.unwrap().is_nan() && verdict.holds == Some(false), "{bar} {points}");
            }
        }
    }

    #[test]
    fn unknown_measures_come_all_at_once() {
        let claims = [
            claim("measure: icot_acuracy, minus: sft_accuracy, bar: {at_least: 1}"),
            claim("measure: x, bar: {at_least: 1}"),
        ];
        let error = evaluate(&claims, &measures("icot_accuracy=1 sft_accuracy=0")).unwrap_err().to_string();
        let expected = "claim `c`: unknown measure `icot_acuracy`, did you mean `icot_accuracy`? (there are: icot_accuracy, sft_accuracy)\n\
                        claim `c`: unknown measure `x` (there are: icot_accuracy, sft_accuracy)";
        assert_eq!(error, expected);
    }

    #[test]
    fn measures_that_no_point_has_together() {
        let claim = [claim("measure: a, minus: b, bar: {at_least: 1}")];
        let apart = evaluate(&claim, &measures("a=1|b=2")).unwrap_err();
        assert_eq!(apart.to_string(), "claim `c`: no point has both `a` and `b`");
        // each point was asked for one of them only, so the claim stays open
        let asked = &evaluate(&claim, &measures("a=1 b=|a= b=2")).unwrap()[0];
        assert_eq!((asked.measured, asked.holds), (None, None));
    }

    #[test]
    fn published_numbers() {
        let text = "{artefact: a, measure: acc, says: s, value: 0.5, source: x, provenance: published}";
        let published: Published = yaml::from_str(text, "x").unwrap();
        let compared = &compare(std::slice::from_ref(&published), &measures("acc=1|acc=0.5|b=1")).unwrap()[0];
        assert_eq!((compared.ours, compared.difference, compared.n), (Some(0.75), Some(0.25), 2));
        let unstated = Published { value: None, ..published.clone() };
        assert_eq!(compare(&[unstated], &measures("acc=1")).unwrap()[0].difference, None);
        let error = compare(&[published], &measures("ac=1")).unwrap_err().to_string();
        assert_eq!(error, "published `s`: unknown measure `acc`, did you mean `ac`? (there are: ac)");
    }

    #[test]
    fn bars_in_words() {
        let words = [Bar::AtLeast(0.95), Bar::AtMost(1e-3), Bar::Between([0.0, 1.5])].map(|bar| bar.to_string());
        assert_eq!(words, [">= 0.95", "<= 0.001", "0 to 1.5"]);
    }
}
