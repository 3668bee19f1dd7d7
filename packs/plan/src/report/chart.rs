//! The forecast of answers over the load as an SVG, with what was measured: a panel for each mix.
//! Readable on light and dark pages: its colours follow the reader's scheme.

use std::fmt::Write as _;

use super::{Ask, milliseconds, number};
use crate::Findings;
use crate::predict::Model;
use crate::queueing::Forecast;

const WIDTH: f64 = 760.0;
const PANEL: f64 = 336.0;
const HEAD: f64 = 44.0;
/// Left, right, and from the panel's top: top and bottom of the plot.
const PLOT: (f64, f64, f64, f64) = (70.0, 736.0, 46.0, 262.0);
const STEPS: u32 = 120;
const LOAD_MAX: f64 = 0.98;

const STYLE: &str = "\
text{font:13px system-ui,sans-serif;fill:#1f2328}.head{font-weight:600;font-size:15px}\
.dim{fill:#59636e;font-size:12px}.grid{stroke:#d1d9e0}.told{fill:none;stroke:#0969da;stroke-width:2}\
.p50{fill:none;stroke:#0969da;stroke-dasharray:4 3}.seen{fill:#bc4c00}.full{stroke:#1a7f37;stroke-dasharray:4 3}\
.most{stroke:#bc4c00;stroke-dasharray:2 3}\
@media(prefers-color-scheme:dark){text{fill:#f0f6fc}.dim{fill:#9198a1}.grid{stroke:#3d444d}\
.told,.p50{stroke:#4493f8}.seen{fill:#f0883e}.full{stroke:#3fb950}.most{stroke:#f0883e}}";

/// A whole SVG document.
pub fn chart(all: &[Findings], ask: &Ask) -> String {
    let height = HEAD + PANEL * all.len() as f64;
    let mut svg = String::new();
    let _ = write!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" role=\"img\"><title>offloop plan: answers by load</title><style>{STYLE}</style>"
    );
    words(
        &mut svg,
        "head",
        (12.0, 26.0),
        "start",
        "How long a call takes, by load",
    );
    for (at, findings) in all.iter().enumerate() {
        panel(&mut svg, findings, ask, HEAD + PANEL * at as f64);
    }
    svg.push_str("</svg>\n");
    svg
}

/// Where a rate and a time are drawn.
struct Axes {
    top: f64,
    rps_max: f64,
    /// Powers of ten, milliseconds.
    first: i32,
    last: i32,
}

impl Axes {
    /// Around a rate, what was told, and rates and times that were seen.
    fn around(top: f64, full_rps: f64, told: &[Forecast], seen: &[(f64, f64)]) -> Self {
        let times = told.iter().flat_map(|at| [at.p50_s, at.p99_s]);
        let times = times
            .chain(seen.iter().map(|at| at.1))
            .filter(|time| *time > 0.0);
        let (least, most) = times.fold((f64::INFINITY, 0.0_f64), |(least, most), time| {
            (least.min(time), most.max(time))
        });
        let power = |seconds: f64| (seconds * 1e3).clamp(1e-3, 1e6).log10();
        let first = power(least.min(1e3)).floor() as i32;
        Self {
            top,
            rps_max: seen.iter().map(|at| at.0).fold(full_rps, f64::max) * 1.04,
            first,
            last: (power(most).ceil() as i32).max(first + 1),
        }
    }

    fn x(&self, rps: f64) -> f64 {
        let part = (rps / self.rps_max).clamp(0.0, 1.0);
        PLOT.0 + part * (PLOT.1 - PLOT.0)
    }

    fn y(&self, seconds: f64) -> f64 {
        let decades = f64::from(self.last - self.first);
        let part = ((seconds * 1e3).max(1e-6).log10() - f64::from(self.first)) / decades;
        self.top + PLOT.3 - part.clamp(0.0, 1.0) * (PLOT.3 - PLOT.2)
    }
}

fn panel(svg: &mut String, findings: &Findings, ask: &Ask, top: f64) {
    let model = Model::of(&findings.measured);
    let cores = findings.validation.as_ref().map_or_else(
        || ask.pod(findings).count(),
        |_| f64::from(findings.measured.cores),
    );
    // With measured points: the curve of the machine that they were measured on, less client and others.
    let full = findings.validation.as_ref().map_or_else(
        || model.calls_per_s(cores, model.processes(cores)),
        |found| found.saturation.predicted_per_s,
    );
    let line = model.line(cores, full);
    let alone = model.alone_on(cores);
    let told: Vec<_> = (1..=STEPS)
        .map(|step| line.forecast(LOAD_MAX * f64::from(step) / f64::from(STEPS), &alone))
        .collect();
    let points = findings.validation.iter().flat_map(|found| &found.points);
    let seen: Vec<_> = points
        .filter(|point| point.measured_p99_s.is_finite())
        .map(|point| (point.offered_per_s / model.calls, point.measured_p99_s))
        .collect();
    let axes = Axes::around(top, full / model.calls, &told, &seen);
    frame(svg, findings, &axes, cores);
    let curve = |of: &dyn Fn(&Forecast) -> f64| {
        let points = told.iter().map(|at| {
            let (x, y) = (axes.x(at.per_s / model.calls), axes.y(of(at)));
            format!("{x:.1},{y:.1}")
        });
        points.collect::<Vec<_>>().join(" ")
    };
    let _ = write!(
        svg,
        "<polyline class=\"told\" points=\"{}\"/>",
        curve(&|at| at.p99_s)
    );
    let _ = write!(
        svg,
        "<polyline class=\"p50\" points=\"{}\"/>",
        curve(&|at| at.p50_s)
    );
    upright(svg, "full", axes.x(full / model.calls), top);
    if let Some(found) = &findings.validation {
        upright(
            svg,
            "most",
            axes.x(found.saturation.done_per_s / model.calls),
            top,
        );
    }
    for (rps, p99) in &seen {
        dot(svg, &axes, *rps, *p99);
    }
    legend(svg, findings, top);
}

fn dot(svg: &mut String, axes: &Axes, rps: f64, p99: f64) {
    let (x, y) = (axes.x(rps), axes.y(p99));
    let _ = write!(
        svg,
        "<circle class=\"seen\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\"/>"
    );
    // Beside the point, and never out of the plot.
    let anchor = if x > PLOT.1 - 60.0 { "end" } else { "middle" };
    let place = (x, (y - 9.0).max(axes.top + PLOT.2));
    words(svg, "dim", place, anchor, &milliseconds(p99));
}

fn frame(svg: &mut String, findings: &Findings, axes: &Axes, cores: f64) {
    let top = axes.top;
    let title = format!("{}, on {cores} cores", findings.measured.mix);
    words(svg, "", (12.0, top + 24.0), "start", &title);
    for power in axes.first..=axes.last {
        let seconds = 10_f64.powi(power) / 1e3;
        let y = axes.y(seconds);
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{}\" y1=\"{y:.1}\" x2=\"{}\" y2=\"{y:.1}\"/>",
            PLOT.0, PLOT.1
        );
        let label = match power {
            3.. => format!("{seconds:.0} s"),
            0..3 => format!("{:.0} ms", seconds * 1e3),
            _ => format!("{:.0} us", seconds * 1e6),
        };
        words(svg, "dim", (PLOT.0 - 8.0, y + 4.0), "end", &label);
    }
    // Five steps of 1, 2 or 5 times a power of ten, or a few less.
    let power = 10_f64.powf((axes.rps_max / 5.0).log10().floor());
    let least = axes.rps_max / 5.0;
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * power);
    let step = steps
        .into_iter()
        .find(|step| *step >= least)
        .unwrap_or(least);
    for count in 0..=5 {
        let rps = step * f64::from(count);
        if rps > axes.rps_max {
            break;
        }
        words(
            svg,
            "dim",
            (axes.x(rps), top + PLOT.3 + 18.0),
            "middle",
            &number(rps),
        );
    }
}

fn upright(svg: &mut String, class: &str, x: f64, top: f64) {
    let (from, to) = (top + PLOT.2, top + PLOT.3);
    let _ = write!(
        svg,
        "<line class=\"{class}\" x1=\"{x:.1}\" y1=\"{from:.1}\" x2=\"{x:.1}\" y2=\"{to:.1}\"/>"
    );
}

fn legend(svg: &mut String, findings: &Findings, top: f64) {
    let y = top + PLOT.3 + 38.0;
    let told =
        "requests/s; line: p99 of a call as forecast; broken line: p50; green: full, as predicted";
    words(svg, "dim", (PLOT.0, y), "start", told);
    if findings.validation.is_some() {
        let seen = "dots: p99 of what was not refused, as measured; dotted: the most that was done";
        words(svg, "dim", (PLOT.0, y + 16.0), "start", seen);
    }
}

fn words(svg: &mut String, class: &str, (x, y): (f64, f64), anchor: &str, words: &str) {
    let _ = write!(
        svg,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>",
        escape(words)
    );
}

/// What comes from outside: names of tasks and files.
fn escape(words: &str) -> String {
    let mut out = String::with_capacity(words.len());
    for c in words.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mix::Mix;
    use crate::predict::tests::measured;
    use crate::validate::{Point, Validation};

    fn ask() -> Ask {
        Ask {
            pod: None,
            pods: 1,
            utilisation: 0.7,
            target_rps: None,
        }
    }

    fn point(offered: f64, p99: f64) -> Point {
        Point {
            load: 0.5,
            offered_per_s: offered,
            done_per_s: offered,
            refused: 0.0,
            failed: 0.0,
            predicted_p99_s: p99,
            measured_p50_s: p99,
            measured_p99_s: p99,
            server_cores: 1.0,
            client_cores: 0.1,
            other_cores: 0.0,
            predicted_per_s: 900.0,
        }
    }

    #[test]
    fn every_mark_is_inside_and_no_name_breaks_the_picture() {
        let mut measured = measured();
        measured.mix = Mix::parse("task:a=@<b>&c").unwrap();
        let points = vec![
            point(450.0, 0.02),
            point(5_000.0, 30.0),
            point(1.0, f64::NAN),
        ];
        let findings = Findings {
            measured,
            validation: Some(Validation {
                saturation: points[0].clone(),
                error: 0.0,
                points,
            }),
        };
        let svg = chart(&[findings.clone(), findings], &ask());
        assert!(
            svg.contains("task:a=@&lt;b&gt;&amp;c") && !svg.contains("<b>"),
            "{svg}"
        );
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        assert_eq!(
            svg.matches("<circle").count(),
            4,
            "a point without a time is no dot"
        );
        for (mark, most) in [
            (" x=\"", WIDTH),
            (" cx=\"", WIDTH),
            (" x1=\"", WIDTH),
            (" cy=\"", HEAD + 2.0 * PANEL),
        ] {
            for found in svg.split(mark).skip(1) {
                let value: f64 = found.split('"').next().unwrap().parse().unwrap();
                assert!((0.0..=most).contains(&value), "{mark}{value}");
            }
        }
    }

    #[test]
    fn a_plan_that_was_not_tried_has_a_curve_alone() {
        let findings = Findings {
            measured: measured(),
            validation: None,
        };
        let svg = chart(&[findings], &ask());
        assert!(svg.contains("class=\"told\"") && !svg.contains("<circle"));
    }
}
