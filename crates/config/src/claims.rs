//! Measured values against the thresholds of claims and beside published numbers.

use std::fmt;

use crate::envelope::{Claim, Over, Published, Threshold};
use crate::error::{Error, did_you_mean};

/// A number that a run reports.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
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
    /// Whether the threshold is met; none where no point was run.
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

/// Decides claims from the metrics of each point (one point for a single run).
///
/// A claim takes its value from the points that report its metric (both, if there is a `minus`).
/// Without `over`, the point on the worst side of the threshold decides, so that all points must meet it.
/// A metric without a value was not asked for: where no point has one, the claim stays open. One that is not a finite
/// number (0 / 0, say) meets no threshold.
///
/// # Errors
/// When no point reports a metric that a claim names, with the nearest names; all such claims at once.
pub fn evaluate(claims: &[Claim], points: &[Vec<Metric>]) -> Result<Vec<Verdict>, Error> {
    let mut unknown = Vec::new();
    let verdicts = claims.iter().map(|claim| decide(claim, points, &mut unknown)).collect();
    if unknown.is_empty() { Ok(verdicts) } else { Err(Error::Claims(unknown)) }
}

/// Puts ours beside the published numbers.
///
/// # Errors
/// When no point reports a metric that a number stands beside, with the nearest names; all at once.
pub fn compare(published: &[Published], points: &[Vec<Metric>]) -> Result<Vec<Comparison>, Error> {
    let mut unknown = Vec::new();
    let compared = published.iter().map(|published| beside(published, points, &mut unknown)).collect();
    if unknown.is_empty() { Ok(compared) } else { Err(Error::Claims(unknown)) }
}

fn decide(claim: &Claim, points: &[Vec<Metric>], unknown: &mut Vec<String>) -> Verdict {
    let who = format!("claim `{}`", claim.id);
    let known = know(&claim.metric, &who, points, unknown);
    let known = claim.minus.as_ref().is_none_or(|minus| know(minus, &who, points, unknown)) && known;
    if let (Some(minus), true, false) = (&claim.minus, known, points.is_empty()) {
        let both =
            |point: &Vec<Metric>| [&claim.metric, minus].iter().all(|name| point.iter().any(|m| m.name == **name));
        if !points.iter().any(both) {
            unknown.push(format!("{who}: no point has both `{}` and `{minus}`", claim.metric));
        }
    }
    let values: Vec<f64> = points.iter().filter_map(|point| value(claim, point)).collect();
    let measured = if values.is_empty() { None } else { Some(reduce(&values, claim.over, claim.threshold)) };
    let holds = measured.map(|value| claim.threshold.holds(value));
    Verdict { claim: claim.clone(), measured, n: values.len(), holds }
}

fn beside(published: &Published, points: &[Vec<Metric>], unknown: &mut Vec<String>) -> Comparison {
    know(&published.metric, &format!("published `{}`", published.statement), points, unknown);
    let values: Vec<f64> = points.iter().filter_map(|point| find(point, &published.metric)).collect();
    let ours = if values.is_empty() { None } else { Some(mean(&values)) };
    let difference = ours.zip(published.value).map(|(ours, theirs)| ours - theirs);
    Comparison { published: published.clone(), ours, difference, n: values.len() }
}

/// Whether some point reports the metric; no points at all is no mistake.
fn know(metric: &str, who: &str, points: &[Vec<Metric>], unknown: &mut Vec<String>) -> bool {
    let mut names: Vec<&str> = points.iter().flatten().map(|metric| metric.name.as_str()).collect();
    if points.is_empty() || names.contains(&metric) {
        return true;
    }
    names.sort_unstable();
    names.dedup();
    let guess = did_you_mean(metric, names.iter().copied());
    let list = match names.len() {
        0 => "none".to_owned(),
        1..=20 => names.join(", "),
        all => format!("{}, and {} more in metrics.csv of a finished run", names[..20].join(", "), all - 20),
    };
    unknown.push(format!("{who}: unknown metric `{metric}`{guess} (there are: {list})"));
    false
}

fn value(claim: &Claim, point: &[Metric]) -> Option<f64> {
    let value = find(point, &claim.metric)?;
    match &claim.minus {
        Some(minus) => Some(value - find(point, minus)?),
        None => Some(value),
    }
}

/// The value of a metric, where it was asked for.
fn find(point: &[Metric], name: &str) -> Option<f64> {
    point.iter().find(|metric| metric.name == name)?.value
}

/// One number out of several.
fn reduce(values: &[f64], over: Option<Over>, threshold: Threshold) -> f64 {
    if values.iter().any(|value| value.is_nan()) {
        return f64::NAN;
    }
    match over {
        Some(Over::Mean) => mean(values),
        Some(Over::Median) => median(values),
        Some(Over::Min) => smallest(values),
        Some(Over::Max) => largest(values),
        None => threshold.worst(values),
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

impl Threshold {
    /// Whether a value meets it; one that is not finite never does.
    pub fn holds(self, value: f64) -> bool {
        value.is_finite()
            && match self {
                Threshold::AtLeast(low) => value >= low,
                Threshold::AtMost(high) => value <= high,
                Threshold::Between([low, high]) => (low..=high).contains(&value),
            }
    }

    /// The value on the worst side.
    fn worst(self, values: &[f64]) -> f64 {
        match self {
            Threshold::AtLeast(_) => smallest(values),
            Threshold::AtMost(_) => largest(values),
            Threshold::Between([low, high]) => {
                let (smallest, largest) = (smallest(values), largest(values));
                if low - smallest > largest - high { smallest } else { largest }
            }
        }
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Threshold::AtLeast(low) => write!(f, ">= {low}"),
            Threshold::AtMost(high) => write!(f, "<= {high}"),
            Threshold::Between([low, high]) => write!(f, "{low} to {high}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml;

    /// `acc=1 loss=2 | acc=3`: points and their metrics.
    fn metrics(text: &str) -> Vec<Vec<Metric>> {
        let metric = |word: &str| {
            let (name, value) = word.split_once('=').unwrap();
            // `acc=` was not asked for
            let value = (!value.is_empty()).then(|| value.parse().unwrap());
            Metric { name: name.into(), value, unit: String::new() }
        };
        text.split('|').map(|point| point.split_whitespace().map(metric).collect()).collect()
    }

    fn claim(text: &str) -> Claim {
        yaml::from_str(&format!("{{id: c, artefact: a, statement: s, {text}}}"), "x").unwrap()
    }

    #[track_caller]
    fn check(claim_text: &str, points: &str, measured: f64, n: usize, holds: bool) {
        let verdict = &evaluate(&[claim(claim_text)], &metrics(points)).unwrap()[0];
        assert_eq!((verdict.measured, verdict.n, verdict.holds), (Some(measured), n, Some(holds)), "{claim_text}");
    }

    #[test]
    fn thresholds() {
        check("metric: acc, threshold: {at_least: 0.5}", "acc=0.5", 0.5, 1, true);
        check("metric: acc, threshold: {at_least: 0.5}", "acc=0.9|acc=0.4", 0.4, 2, false);
        check("metric: acc, over: mean, threshold: {at_least: 0.5}", "acc=0.9|acc=0.4", 0.65, 2, true);
        check("metric: acc, over: median, threshold: {at_most: 2}", "acc=1|acc=2|acc=9", 2.0, 3, true);
        check("metric: acc, over: median, threshold: {at_most: 2}", "acc=1|acc=3", 2.0, 2, true);
        check("metric: acc, over: max, threshold: {at_most: 2}", "acc=1|acc=3", 3.0, 2, false);
        check("metric: acc, over: min, threshold: {at_most: 2}", "acc=1|acc=3", 1.0, 2, true);
        check("metric: acc, threshold: {at_most: 2}", "acc=1|acc=3", 3.0, 2, false);
        check("metric: acc, threshold: {between: [0, 1]}", "acc=0|acc=1", 1.0, 2, true);
        check("metric: acc, threshold: {between: [0, 1]}", "acc=-3|acc=2", -3.0, 2, false);
        check("metric: a, minus: b, threshold: {at_least: 1}", "a=3 b=1|a=2|a=5 b=4", 1.0, 2, true);
        check("metric: acc, threshold: {at_least: 0}", "acc=inf", f64::INFINITY, 1, false);
    }

    #[test]
    fn nothing_measured() {
        let threshold = claim("metric: acc, threshold: {at_least: 0}");
        let verdict = &evaluate(std::slice::from_ref(&threshold), &[]).unwrap()[0];
        assert_eq!((verdict.measured, verdict.n, verdict.holds), (None, 0, None));
        // a point that was not asked for the metric does not count; with no point left the claim stays open
        let verdict = &evaluate(std::slice::from_ref(&threshold), &metrics("acc=|acc=1")).unwrap()[0];
        assert_eq!((verdict.measured, verdict.n, verdict.holds), (Some(1.0), 1, Some(true)));
        let verdict = &evaluate(&[threshold], &metrics("acc=")).unwrap()[0];
        assert_eq!((verdict.measured, verdict.n, verdict.holds), (None, 0, None));
    }

    #[test]
    fn what_is_not_a_number_meets_no_bar() {
        for threshold in [
            "threshold: {at_least: 0}",
            "threshold: {at_most: 0}",
            "threshold: {between: [0, 1]}",
            "over: median, threshold: {at_most: 0}",
        ] {
            for points in ["acc=NaN", "acc=NaN|acc=0", "acc=0|acc=NaN", "acc=0|acc=NaN|acc=0"] {
                let verdict = &evaluate(&[claim(&format!("metric: acc, {threshold}"))], &metrics(points)).unwrap()[0];
                assert!(verdict.measured.unwrap().is_nan() && verdict.holds == Some(false), "{threshold} {points}");
            }
        }
    }

    #[test]
    fn unknown_measures_come_all_at_once() {
        let claims = [
            claim("metric: icot_acuracy, minus: sft_accuracy, threshold: {at_least: 1}"),
            claim("metric: x, threshold: {at_least: 1}"),
        ];
        let error = evaluate(&claims, &metrics("icot_accuracy=1 sft_accuracy=0")).unwrap_err().to_string();
        let expected = "claim `c`: unknown metric `icot_acuracy`, did you mean `icot_accuracy`? (there are: icot_accuracy, sft_accuracy)\n\
                        claim `c`: unknown metric `x` (there are: icot_accuracy, sft_accuracy)";
        assert_eq!(error, expected);
    }

    #[test]
    fn measures_that_no_point_has_together() {
        let claim = [claim("metric: a, minus: b, threshold: {at_least: 1}")];
        let apart = evaluate(&claim, &metrics("a=1|b=2")).unwrap_err();
        assert_eq!(apart.to_string(), "claim `c`: no point has both `a` and `b`");
        // each point was asked for one of them only, so the claim stays open
        let asked = &evaluate(&claim, &metrics("a=1 b=|a= b=2")).unwrap()[0];
        assert_eq!((asked.measured, asked.holds), (None, None));
    }

    #[test]
    fn published_numbers() {
        let text = "{artefact: a, metric: acc, statement: s, value: 0.5, source: x, provenance: published}";
        let published: Published = yaml::from_str(text, "x").unwrap();
        let compared = &compare(std::slice::from_ref(&published), &metrics("acc=1|acc=0.5|b=1")).unwrap()[0];
        assert_eq!((compared.ours, compared.difference, compared.n), (Some(0.75), Some(0.25), 2));
        let unstated = Published { value: None, ..published.clone() };
        assert_eq!(compare(&[unstated], &metrics("acc=1")).unwrap()[0].difference, None);
        let error = compare(&[published], &metrics("ac=1")).unwrap_err().to_string();
        assert_eq!(error, "published `s`: unknown metric `acc`, did you mean `ac`? (there are: ac)");
    }

    #[test]
    fn bars_in_words() {
        let words = [Threshold::AtLeast(0.95), Threshold::AtMost(1e-3), Threshold::Between([0.0, 1.5])]
            .map(|threshold| threshold.to_string());
        assert_eq!(words, [">= 0.95", "<= 0.001", "0 to 1.5"]);
    }
}
