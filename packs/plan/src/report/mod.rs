//! What is told of a plan: text for people, JSON for programs, a chart.
//!
//! Must never: show a figure without its unit, or a guess as a measurement.

mod chart;
mod json;
mod text;

pub use chart::chart;
pub use json::json;
pub use text::text;

use crate::Findings;
use crate::cores::Cores;
use crate::predict::Model;

/// What the capacity is asked for.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Of one pod; `None`: this machine's cores.
    pub pod: Option<Cores>,
    /// 1 and more.
    pub pods: u32,
    /// Part of the full capacity to plan with, above 0 to 1.
    pub utilisation: f64,
    /// Requests per second to be carried.
    pub target_rps: Option<f64>,
}

impl Ask {
    fn pod(&self, findings: &Findings) -> Cores {
        self.pod
            .unwrap_or_else(|| Cores::whole(findings.measured.cores))
    }
}

/// One line of the capacity table.
struct Row {
    name: String,
    cores: f64,
    full_rps: f64,
    is_guess: bool,
}

fn rows(findings: &Findings, ask: &Ask, model: &Model) -> Vec<Row> {
    let row = |name: String, cores: f64, times: f64| Row {
        name,
        cores: cores * times,
        full_rps: model.requests_per_s(cores) * times,
        is_guess: model.is_guess(cores),
    };
    let (machine, pod) = (findings.measured.cores, ask.pod(findings));
    let mut rows = vec![row("1 core".into(), 1.0, 1.0)];
    if machine > 1 {
        rows.push(row(
            format!("{machine} cores, this machine"),
            machine.into(),
            1.0,
        ));
    }
    if let Some(pod) = ask.pod {
        rows.push(row(format!("1 pod of {pod}"), pod.count(), 1.0));
    }
    if ask.pods > 1 {
        let pods = ask.pods;
        rows.push(row(
            format!("{pods} pods of {pod}"),
            pod.count(),
            pods.into(),
        ));
    }
    rows
}

/// A full server is cheaper per call, since it need not be woken, but never by more than this.
const SCALING_MAX: f64 = 1.5;

/// What limits the forecast of waits, if anything.
fn cautions(findings: &Findings, ask: &Ask, model: &Model) -> Vec<String> {
    let mut out = Vec::new();
    let measured = &findings.measured;
    if model.cv2 > 4.0 {
        out.push(format!(
            "times of calls vary much (CV {:.1}): the forecast of p99 is rough, the capacity is not",
            model.cv2.sqrt()
        ));
    }
    if measured.others > 0.1 {
        out.push(format!(
            "other programs used {:.1} of {} cores meanwhile: answers took longer than on a quiet machine, and calls may have cost more",
            measured.others, measured.cores
        ));
    }
    if model.scaling() > SCALING_MAX {
        out.push(format!(
            "a call cost {:.1} times as much on one core as on all of them: something else ran beside one of the two; measure again before you plan with either",
            model.scaling()
        ));
    }
    let pod = ask.pod(findings).count();
    if pod.fract() > 0.0 {
        out.push(
            "a part of a core is held by the kernel in periods of 100 ms: answers that fall in a pause take up to that much longer, which the forecast does not hold".into(),
        );
    }
    if model.is_guess(pod) {
        out.push(format!(
            "a pod has more cores than the {} that were measured: what is beyond is a straight line",
            measured.cores
        ));
    }
    for part in &measured.parts {
        if let (Some(has), Some(holds)) = (part.configured, part.holds_s)
            && has < model.processes(pod)
        {
            out.push(format!(
                "{}: your configuration has processes = {has} for its calls, which is {} calls/s at most",
                part.operation,
                number(f64::from(has) / holds)
            ));
        }
    }
    let few: Vec<_> = measured
        .parts
        .iter()
        .filter(|part| part.calls < 20)
        .collect();
    for part in few {
        out.push(format!(
            "{}: {} calls were counted; give more --seconds",
            part.operation, part.calls
        ));
    }
    out
}

/// In two or three sentences.
fn conclusion(findings: &Findings, ask: &Ask, model: &Model) -> String {
    let pod = ask.pod(findings);
    let rate = model.requests_per_s(pod.count()) * ask.utilisation;
    let line = model.line(
        pod.count(),
        model.calls_per_s(pod.count(), model.processes(pod.count())),
    );
    let at = line.forecast(ask.utilisation.min(0.99), &model.alone_on(pod.count()));
    let mut said = format!(
        "Plan with {} requests/s for {} at {:.0} % load, where one call in a hundred takes {} and more.",
        number(rate),
        if ask.pod.is_some() {
            format!("a pod of {pod}")
        } else {
            format!("{pod} cores like these")
        },
        ask.utilisation * 100.0,
        milliseconds(at.p99_s),
    );
    if let Some(heaviest) = heaviest(findings)
        && findings.measured.parts.len() > 1
    {
        said.push(' ');
        said.push_str(&heaviest);
    }
    let http = model.empty_s / model.one_s;
    if http > 0.5 {
        let http = format!("{:.0}", http.min(1.0) * 100.0);
        let words =
            " % of a call is HTTP: several items in one call (a batch) cost less than each alone.";
        said.extend([" ", &http, words]);
    }
    said
}

fn heaviest(findings: &Findings) -> Option<String> {
    let parts = &findings.measured.parts;
    let cost = |part: &crate::measure::Cost| part.weight * part.all_cores_s;
    let sum: f64 = parts.iter().map(cost).sum();
    let most = parts.iter().max_by(|a, b| cost(a).total_cmp(&cost(b)))?;
    Some(format!(
        "{} is {:.0} % of the cost.",
        most.operation,
        cost(most) / sum * 100.0
    ))
}

/// Seconds as milliseconds with three figures.
fn milliseconds(seconds: f64) -> String {
    if !seconds.is_finite() {
        return "-".into();
    }
    if seconds >= 1.0 {
        return format!("{} s", figures(seconds));
    }
    format!("{} ms", figures(seconds * 1e3))
}

/// Three figures, and no more than are there.
fn figures(value: f64) -> String {
    match value {
        0.0 => "0".into(),
        _ if !value.is_finite() => "-".into(),
        _ if value >= 100.0 => format!("{value:.0}"),
        _ if value >= 10.0 => format!("{value:.1}"),
        _ if value >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// A rate, as people read it.
fn number(value: f64) -> String {
    if value < 100.0 {
        return figures(value);
    }
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_at_a_glance() {
        let rows = [
            (0.1234, "0.123"),
            (1.5, "1.50"),
            (42.0, "42.0"),
            (999.4, "999"),
            (1_234_567.0, "1,234,567"),
        ];
        for (value, want) in rows {
            assert_eq!(number(value), want);
        }
        assert_eq!(milliseconds(f64::INFINITY), "-");
        assert_eq!(milliseconds(0.0123), "12.3 ms");
        assert_eq!(
            (milliseconds(2.126), figures(0.0)),
            ("2.13 s".into(), "0".into())
        );
    }
}
