//! Measured values against the thresholds of claims and beside published numbers.

use std::fmt;

use crate::envelope::{Claim, ClaimsAsked, Over, Published, Threshold};
use crate::error::did_you_mean;

/// A number that a run reports.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// The name that claims and published numbers use.
    pub name: String,
    /// The number; none where the configuration did not ask for it.
    pub value: Option<f64>,
    /// Unit, such as `nats` or `fraction`.
    pub unit: String,
}

/// The outcome of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// The threshold is met.
    Yes,
    /// The threshold is not met.
    No,
    /// Nothing was measured.
    Open,
    /// The profile does not ask this claim.
    NotAsked,
    /// The claim names a metric that the run does not report.
    Error,
}

impl Holds {
    const ALL: [Self; 5] = [Self::Yes, Self::No, Self::Open, Self::NotAsked, Self::Error];

    /// Reads the text that [`fmt::Display`] writes.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|holds| holds.to_string() == name)
    }
}

impl fmt::Display for Holds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Yes => "yes",
            Self::No => "no",
            Self::Open => "open",
            Self::NotAsked => "not asked",
            Self::Error => "error",
        })
    }
}

/// An evaluated claim.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The claim.
    pub claim: Claim,
    /// One number for all points; none where nothing was measured.
    pub measured: Option<f64>,
    /// Number of points that the value is taken over.
    pub n: usize,
    /// The outcome.
    pub holds: Holds,
    /// Why the claim was not evaluated; empty when it was.
    pub note: String,
}

/// A published number beside ours.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// The published number.
    pub published: Published,
    /// Our mean over the points; none where nothing was measured.
    pub ours: Option<f64>,
    /// Ours minus the published one, where there are both.
    pub difference: Option<f64>,
    /// Number of points that the mean is taken over.
    pub n: usize,
    /// Why there is no number of ours, when the metric is unknown; else empty.
    pub note: String,
}

/// Evaluates claims on the metrics of each point; a single run is one point.
///
/// A claim takes its value from the points that report its metric (both metrics, if there is a `minus`).
/// Without `over`, the worst point decides, so all points must meet the threshold.
/// A claim stays open where no point has a value. A value that is not finite meets no threshold.
/// A claim on an unknown metric is an error of that claim alone; its note has the nearest name.
pub fn evaluate(claims: &[Claim], asked: &ClaimsAsked, points: &[Vec<Metric>]) -> Vec<Verdict> {
    claims.iter().map(|claim| decide(claim, asked.includes(&claim.id), points)).collect()
}

/// Puts our numbers beside the published ones.
pub fn compare(published: &[Published], points: &[Vec<Metric>]) -> Vec<Comparison> {
    published.iter().map(|published| beside(published, points)).collect()
}

/// The metrics that claims and published numbers name, each with the text that messages call it by.
pub fn named_metrics<'a>(claims: &'a [Claim], published: &'a [Published]) -> Vec<(String, &'a str)> {
    let claims = claims.iter().flat_map(|claim| {
        let metrics = std::iter::once(&claim.metric).chain(&claim.minus);
        metrics.map(|metric| (format!("claim `{}`", claim.id), metric.as_str()))
    });
    let published = published.iter().map(|of| (format!("published `{}`", of.statement), of.metric.as_str()));
    claims.chain(published).collect()
}

fn decide(claim: &Claim, asked: bool, points: &[Vec<Metric>]) -> Verdict {
    let values: Vec<f64> = points.iter().filter_map(|point| value(claim, point)).collect();
    let measured = if values.is_empty() { None } else { Some(reduce(&values, claim.over, claim.threshold)) };
    let (holds, note) = match (asked, mistake(claim, points), measured) {
        (false, _, _) => (Holds::NotAsked, "not asked of this size".to_owned()),
        (true, Some(mistake), _) => (Holds::Error, mistake),
        (true, None, Some(value)) if claim.threshold.holds(value) => (Holds::Yes, String::new()),
        (true, None, Some(_)) => (Holds::No, String::new()),
        (true, None, None) => (Holds::Open, "not measured".to_owned()),
    };
    Verdict { claim: claim.clone(), measured, n: values.len(), holds, note }
}

/// The reason why a claim cannot be evaluated on these points.
fn mistake(claim: &Claim, points: &[Vec<Metric>]) -> Option<String> {
    let metrics: Vec<&String> = std::iter::once(&claim.metric).chain(&claim.minus).collect();
    let unknown: Vec<String> = metrics.iter().filter_map(|metric| unknown_metric(metric, points)).collect();
    if !unknown.is_empty() {
        return Some(unknown.join("; "));
    }
    let complete = |point: &Vec<Metric>| metrics.iter().all(|name| point.iter().any(|m| m.name == **name));
    let apart = !points.is_empty() && !points.iter().any(complete);
    apart.then(|| {
        format!("no point has both `{}`", metrics.iter().map(|m| m.as_str()).collect::<Vec<_>>().join("` and `"))
    })
}

fn beside(published: &Published, points: &[Vec<Metric>]) -> Comparison {
    let note = unknown_metric(&published.metric, points).unwrap_or_default();
    let values: Vec<f64> = points.iter().filter_map(|point| find(point, &published.metric)).collect();
    let ours = if values.is_empty() { None } else { Some(mean(&values)) };
    let difference = ours.zip(published.value).map(|(ours, theirs)| ours - theirs);
    Comparison { published: published.clone(), ours, difference, n: values.len(), note }
}

/// A message when no point reports the metric. Without any points there is nothing to compare the name with.
fn unknown_metric(metric: &str, points: &[Vec<Metric>]) -> Option<String> {
    let names = points.iter().flatten().map(|metric| metric.name.as_str());
    if points.is_empty() { None } else { unknown_name(metric, names) }
}

/// A message when `metric` is not one of `names`, with the nearest of them.
pub fn unknown_name<'a>(metric: &str, names: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let mut names: Vec<&str> = names.into_iter().collect();
    if names.contains(&metric) {
        return None;
    }
    names.sort_unstable();
    names.dedup();
    let guess = did_you_mean(metric, names.iter().copied());
    let list = match names.len() {
        0 => "none".to_owned(),
        1..=20 => names.join(", "),
        all => format!("{}, and {} more in metrics.csv of a finished run", names[..20].join(", "), all - 20),
    };
    Some(format!("unknown metric `{metric}`{guess} (there are: {list})"))
}

fn value(claim: &Claim, point: &[Metric]) -> Option<f64> {
    let value = find(point, &claim.metric)?;
    match &claim.minus {
        Some(minus) => Some(value - find(point, minus)?),
        None => Some(value),
    }
}

/// The value of a metric, where there is one.
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

    fn one(claim: Claim, points: &[Vec<Metric>]) -> Verdict {
        evaluate(&[claim], &ClaimsAsked::All, points).remove(0)
    }

    #[track_caller]
    fn check(claim_text: &str, points: &str, measured: f64, n: usize, holds: bool) {
        let verdict = one(claim(claim_text), &metrics(points));
        let holds = if holds { Holds::Yes } else { Holds::No };
        assert_eq!((verdict.measured, verdict.n, verdict.holds), (Some(measured), n, holds), "{claim_text}");
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
        let threshold = || claim("metric: acc, threshold: {at_least: 0}");
        let verdict = one(threshold(), &[]);
        assert_eq!((verdict.measured, verdict.n, verdict.holds), (None, 0, Holds::Open));
        // a point without a value does not count; without any value the claim stays open
        let verdict = one(threshold(), &metrics("acc=|acc=1"));
        assert_eq!((verdict.measured, verdict.n, verdict.holds), (Some(1.0), 1, Holds::Yes));
        let verdict = one(threshold(), &metrics("acc="));
        assert_eq!((verdict.measured, verdict.n, verdict.holds), (None, 0, Holds::Open));
    }

    #[test]
    fn claims_that_a_profile_does_not_ask() {
        let asked = ClaimsAsked::Except(vec!["c".into()]);
        let verdict = evaluate(&[claim("metric: acc, threshold: {at_least: 0}")], &asked, &metrics("acc=1")).remove(0);
        assert_eq!((verdict.measured, verdict.holds), (Some(1.0), Holds::NotAsked));
        assert_eq!(verdict.note, "not asked of this size");
        let asked = ClaimsAsked::Only(vec!["c".into()]);
        assert!(asked.includes("c") && !asked.includes("d") && !ClaimsAsked::None.includes("c"));
    }

    #[test]
    fn values_that_are_not_numbers_meet_no_threshold() {
        for threshold in [
            "threshold: {at_least: 0}",
            "threshold: {at_most: 0}",
            "threshold: {between: [0, 1]}",
            "over: median, threshold: {at_most: 0}",
        ] {
            for points in ["acc=NaN", "acc=NaN|acc=0", "acc=0|acc=NaN", "acc=0|acc=NaN|acc=0"] {
                let verdict = one(claim(&format!("metric: acc, {threshold}")), &metrics(points));
                assert!(verdict.measured.unwrap().is_nan() && verdict.holds == Holds::No, "{threshold} {points}");
            }
        }
    }

    #[test]
    fn an_unknown_metric_is_an_error_of_its_claim_alone() {
        let claims = [
            claim("metric: icot_acuracy, minus: sft_accuracy, threshold: {at_least: 1}"),
            claim("metric: icot_accuracy, threshold: {at_least: 1}"),
            claim("metric: x, threshold: {at_least: 1}"),
        ];
        let verdicts = evaluate(&claims, &ClaimsAsked::All, &metrics("icot_accuracy=1 sft_accuracy=0"));
        assert_eq!([0, 1, 2].map(|i: usize| verdicts[i].holds), [Holds::Error, Holds::Yes, Holds::Error]);
        let all = "(there are: icot_accuracy, sft_accuracy)";
        let guess = format!("unknown metric `icot_acuracy`, did you mean `icot_accuracy`? {all}");
        assert_eq!(verdicts[0].note, guess);
        assert_eq!(verdicts[2].note, format!("unknown metric `x` {all}"));
    }

    #[test]
    fn metrics_that_no_point_has_together() {
        let claim = || claim("metric: a, minus: b, threshold: {at_least: 1}");
        let apart = one(claim(), &metrics("a=1|b=2"));
        assert_eq!((apart.holds, apart.note.as_str()), (Holds::Error, "no point has both `a` and `b`"));
        // each point was asked for one of them only, so the claim stays open
        let open = one(claim(), &metrics("a=1 b=|a= b=2"));
        assert_eq!((open.measured, open.holds), (None, Holds::Open));
    }

    #[test]
    fn published_numbers() {
        let text = "{artefact: a, metric: acc, statement: s, value: 0.5, source: x, provenance: published}";
        let published: Published = yaml::from_str(text, "x").unwrap();
        let compared = &compare(std::slice::from_ref(&published), &metrics("acc=1|acc=0.5|b=1"))[0];
        assert_eq!((compared.ours, compared.difference, compared.n), (Some(0.75), Some(0.25), 2));
        let unstated = Published { value: None, ..published.clone() };
        assert_eq!(compare(&[unstated], &metrics("acc=1"))[0].difference, None);
        let unknown = compare(&[published], &metrics("ac=1")).remove(0);
        assert_eq!((unknown.ours, unknown.difference), (None, None));
        assert_eq!(unknown.note, "unknown metric `acc`, did you mean `ac`? (there are: ac)");
    }

    #[test]
    fn every_outcome_reads_back() {
        for holds in Holds::ALL {
            assert_eq!(Holds::from_name(&holds.to_string()), Some(holds));
        }
        assert_eq!(Holds::from_name("n/a"), None);
    }

    #[test]
    fn thresholds_as_text() {
        let words = [Threshold::AtLeast(0.95), Threshold::AtMost(1e-3), Threshold::Between([0.0, 1.5])]
            .map(|threshold| threshold.to_string());
        assert_eq!(words, [">= 0.95", "<= 0.001", "0 to 1.5"]);
    }
}
