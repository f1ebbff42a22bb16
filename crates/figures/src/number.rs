//! Numbers as people read them: `0.934`, `12.5k`, `1e-3`.

/// Four significant digits without trailing zeros; scientific below 1e-4 and from 1e7 on.
pub fn human(value: f64) -> String {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "∞" } else { "−∞" }.into();
    }
    if value == 0.0 {
        return "0".into();
    }
    let size = value.abs();
    let text = if (1e-4..1e7).contains(&size) {
        let digits = (3 - size.log10().floor() as i32).max(0) as usize;
        trim(&format!("{size:.digits$}"))
    } else {
        let text = format!("{size:.3e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        format!("{}e{exponent}", trim(mantissa))
    };
    if value < 0.0 { format!("−{text}") } else { text }
}

/// As [`human`], with a sign in front of positive numbers too.
pub fn signed(value: f64) -> String {
    if value > 0.0 { format!("+{}", human(value)) } else { human(value) }
}

/// So many decimals, with a true minus sign and never `−0.0`.
pub fn fixed(value: f64, decimals: usize) -> String {
    let text = format!("{:.decimals$}", value.abs());
    let zero = text.bytes().all(|b| b == b'0' || b == b'.');
    if value < 0.0 && !zero { format!("−{text}") } else { text }
}

/// Seconds in words: `4.2 s`, `3 min 10 s`, `2 h 05 min`.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        _ if seconds < 60.0 => format!("{} s", fixed(seconds, 1)),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

fn trim(text: &str) -> String {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_string() } else { text.to_string() }
}

/// Labels for evenly spaced ticks: one unit (none, k, M) and one number of decimals for all.
pub(crate) fn tick_labels(ticks: &[f64]) -> Vec<String> {
    let largest = ticks.iter().fold(0.0f64, |m, t| m.max(t.abs()));
    if largest != 0.0 && !(1e-3..1e9).contains(&largest) {
        return ticks.iter().map(|t| human(*t)).collect();
    }
    let (scale, unit) = match largest {
        l if l >= 1e6 => (1e6, "M"),
        l if l >= 1e4 => (1e3, "k"),
        _ => (1.0, ""),
    };
    let exact = |digits: usize| {
        let power = 10f64.powi(digits as i32);
        ticks.iter().all(|t| {
            let scaled = t / scale * power;
            (scaled - scaled.round()).abs() < 1e-6 * scaled.abs().max(1.0)
        })
    };
    let digits = (0..6).find(|d| exact(*d)).unwrap_or(6);
    let label = |t: &f64| {
        if *t == 0.0 { "0".to_string() } else { format!("{}{unit}", fixed(t / scale, digits)) }
    };
    ticks.iter().map(label).collect()
}

/// Label of a tick of a logarithmic axis: `1e-3`, `0.01`, `1`, `100`, `20k`, `1M`.
pub(crate) fn log_label(tick: f64) -> String {
    let digits = |value: f64| trim(&format!("{value:.6}"));
    match tick {
        t if !(0.0099..0.99e10).contains(&t) => {
            let text = format!("{t:.3e}");
            let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            format!("{}e{exponent}", trim(mantissa))
        }
        t if t < 999.0 => digits(t),
        t if t < 0.99e6 => format!("{}k", digits(t / 1e3)),
        t => format!("{}M", digits(t / 1e6)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        let check = |value: f64, text: &str| assert_eq!(human(value), text);
        check(0.0, "0");
        check(0.93412345, "0.9341");
        check(1.0, "1");
        check(-22.95, "−22.95");
        check(624_500.0, "624500");
        check(1.5e-7, "1.5e-7");
        check(2.302_49, "2.302");
        check(1e7, "1e7");
        assert_eq!(fixed(-0.04, 1), "0.0");
        assert_eq!(signed(0.5), "+0.5");
        assert_eq!(
            (duration(4.21), duration(190.0), duration(7500.0)),
            ("4.2 s".into(), "3 min 10 s".into(), "2 h 05 min".into())
        );
    }

    #[test]
    fn ticks_share_a_unit() {
        assert_eq!(tick_labels(&[0.0, 5000.0, 10_000.0]), ["0", "5k", "10k"]);
        assert_eq!(tick_labels(&[0.0, 2500.0, 5000.0]), ["0", "2500", "5000"]);
        assert_eq!(tick_labels(&[0.0, 0.25, 0.5]), ["0", "0.25", "0.50"]);
        assert_eq!(tick_labels(&[-1.0, 0.0, 1.0]), ["−1", "0", "1"]);
        assert_eq!(tick_labels(&[0.0, 2e-4, 4e-4]), ["0", "0.0002", "0.0004"]);
        assert_eq!(tick_labels(&[0.0, 500_000.0, 1_000_000.0]), ["0", "0.5M", "1.0M"]);
        let log = [1e-3, 0.01, 1.0, 100.0, 1e3, 2e4, 1e6].map(log_label);
        assert_eq!(log, ["1e-3", "0.01", "1", "100", "1k", "20k", "1M"]);
    }
}
