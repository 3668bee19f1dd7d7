//! The record as an SVG: latency of `/` by way on a logarithmic axis, and beside it what became of
//! the work. Readable on light and dark pages: its colours follow the reader's scheme.

use std::fmt::Write as _;

use super::{Probe, Record, Row, span};

const WIDTH: f64 = 1_000.0;
const TOP: f64 = 104.0;
const LINE: f64 = 40.0;
const NAMES: f64 = 132.0;
/// Left and right end of the two panels.
const LATENCY: (f64, f64) = (144.0, 600.0);
const WORK: (f64, f64) = (660.0, 976.0);
const BAR: f64 = 14.0;

const STYLE: &str = "\
text{font:13px system-ui,sans-serif;fill:#1f2328}.head{font-weight:600;font-size:15px}\
.dim{fill:#59636e;font-size:12px}.grid{stroke:#d1d9e0}.idle{stroke:#1a7f37;stroke-dasharray:4 3}\
.cap{stroke:#59636e;stroke-dasharray:2 3}.range{stroke:#8c959f;stroke-width:2}\
.p50{fill:#0969da}.p99{fill:#bc4c00}.max{fill:none;stroke:#8c959f;stroke-width:2}\
.done{fill:#1a7f37}.refused{fill:#bf8700}.late{fill:#cf222e}\
@media(prefers-color-scheme:dark){text{fill:#f0f6fc}.dim{fill:#9198a1}.grid{stroke:#3d444d}\
.idle{stroke:#3fb950}.cap{stroke:#9198a1}.p50{fill:#4493f8}.p99{fill:#f0883e}\
.done{fill:#3fb950}.refused{fill:#d29922}.late{fill:#f85149}}";

/// A whole SVG document.
pub fn chart(record: &Record) -> String {
    let rows = &record.strategies;
    let bottom = TOP + LINE * rows.len() as f64;
    let height = bottom + 92.0;
    let mut svg = String::new();
    let _ = write!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" role=\"img\"><title>offloop lab: latency of / while work runs, by where it \
         runs</title><style>{STYLE}</style>"
    );
    let asked = &record.parameters;
    let subtitle = format!(
        "{} ms of work at {}x capacity, {} cores, {}; clients wait {} ms",
        asked.cpu_time_ms,
        asked.offered,
        record.machine.cores,
        record.machine.processor,
        asked.patience_ms
    );
    text(
        &mut svg,
        "head",
        (12.0, 26.0),
        "start",
        "What heavy work does to GET /, by where it runs",
    );
    text(&mut svg, "dim", (12.0, 46.0), "start", &subtitle);
    latencies(&mut svg, record, bottom);
    work(&mut svg, record, bottom);
    for (at, row) in rows.iter().enumerate() {
        let middle = TOP + LINE * (at as f64 + 0.5);
        text(
            &mut svg,
            "",
            (NAMES, middle + 4.0),
            "end",
            row.strategy.name(),
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn text(svg: &mut String, class: &str, (x, y): (f64, f64), anchor: &str, words: &str) {
    let words = escape(words);
    let _ = write!(
        svg,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>"
    );
}

fn line(svg: &mut String, class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
    let _ = write!(
        svg,
        "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
    );
}

fn bar(svg: &mut String, class: &str, x: f64, y: f64, width: f64) {
    let _ = write!(
        svg,
        "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BAR}\"/>"
    );
}

fn dot(svg: &mut String, class: &str, x: f64, y: f64) {
    let _ = write!(
        svg,
        "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\"/>"
    );
}

/// What comes from outside: the processor's name.
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

/// Powers of ten around everything that is shown, milliseconds.
struct Decades {
    first: i32,
    last: i32,
}

impl Decades {
    fn around<'a>(probes: impl Iterator<Item = &'a Probe>) -> Self {
        let (mut least, mut most) = (f64::INFINITY, f64::NEG_INFINITY);
        for probe in probes {
            for ms in [probe.p50_ms, probe.p99_ms, probe.max_ms] {
                least = least.min(at_least(ms));
                most = most.max(at_least(ms));
            }
        }
        if least > most {
            (least, most) = (0.1, 1.0);
        }
        let first = least.log10().floor() as i32;
        let last = (most.log10().ceil() as i32).max(first + 1);
        Self { first, last }
    }

    fn x(&self, ms: f64) -> f64 {
        let part =
            (at_least(ms).log10() - f64::from(self.first)) / f64::from(self.last - self.first);
        LATENCY.0 + part.clamp(0.0, 1.0) * (LATENCY.1 - LATENCY.0)
    }
}

/// A logarithmic axis has no zero: a microsecond stands for it.
fn at_least(ms: f64) -> f64 {
    ms.max(0.001)
}

fn label(power: i32) -> String {
    match power {
        3.. => format!("{:.0} s", 10_f64.powi(power - 3)),
        0..3 => format!("{:.0} ms", 10_f64.powi(power)),
        _ => format!("{:.0} us", 10_f64.powi(power + 3)),
    }
}

fn latencies(svg: &mut String, record: &Record, bottom: f64) {
    let probes = record.strategies.iter().map(|row| &row.probe);
    let axis = Decades::around(probes.chain([&record.idle]));
    text(
        svg,
        "",
        (LATENCY.0, TOP - 26.0),
        "start",
        "latency of GET /, logarithmic",
    );
    for power in axis.first..=axis.last {
        let x = axis.x(10_f64.powi(power));
        line(svg, "grid", (x, TOP - 6.0), (x, bottom));
        text(svg, "dim", (x, bottom + 18.0), "middle", &label(power));
    }
    let idle = axis.x(record.idle.p99_ms);
    line(svg, "idle", (idle, TOP - 6.0), (idle, bottom));
    text(svg, "dim", (idle, TOP - 10.0), "middle", "idle p99");
    for (at, row) in record.strategies.iter().enumerate() {
        let (y, probe) = (TOP + LINE * (at as f64 + 0.5), &row.probe);
        let (p50, p99, max) = (
            axis.x(probe.p50_ms),
            axis.x(probe.p99_ms),
            axis.x(probe.max_ms),
        );
        line(svg, "range", (p50, y), (max, y));
        dot(svg, "max", max, y);
        dot(svg, "p50", p50, y);
        dot(svg, "p99", p99, y);
        // Beside the figure that counts, and never out of the panel.
        let (x, anchor) = if p99 > LATENCY.1 - 60.0 {
            (p99 - 2.0, "end")
        } else {
            (p99, "middle")
        };
        text(svg, "dim", (x, y - 9.0), anchor, &span(probe.p99_ms));
    }
    let legend = bottom + 48.0;
    for (at, (class, words)) in [("p50", "p50"), ("p99", "p99 (figure)"), ("max", "max")]
        .iter()
        .enumerate()
    {
        let x = LATENCY.0 + 110.0 * at as f64;
        dot(svg, class, x + 6.0, legend - 4.0);
        text(svg, "dim", (x + 18.0, legend), "start", words);
    }
}

fn work(svg: &mut String, record: &Record, bottom: f64) {
    let offered = |row: &Row| row.work.offered_per_s;
    let most = record.strategies.iter().map(offered);
    let most = most.fold(record.capacity_per_s, f64::max).max(1.0);
    let scale = |per_s: f64| (per_s / most).clamp(0.0, 1.0) * (WORK.1 - WORK.0);
    text(
        svg,
        "",
        (WORK.0, TOP - 26.0),
        "start",
        "work, pieces per second",
    );
    line(svg, "grid", (WORK.0, TOP - 6.0), (WORK.0, bottom));
    let capacity = WORK.0 + scale(record.capacity_per_s);
    for (at, row) in record.strategies.iter().enumerate() {
        let (y, work) = (TOP + LINE * (at as f64 + 0.5), &row.work);
        let mut x = WORK.0;
        let late = work.late_per_s + work.failed_per_s;
        for (class, per_s) in [
            ("done", work.done_per_s),
            ("refused", work.refused_per_s),
            ("late", late),
        ] {
            let width = scale(per_s).min(WORK.1 - x);
            bar(svg, class, x, y - BAR / 2.0, width);
            x += width;
        }
        let words = format!("{:.0}", work.done_per_s);
        text(svg, "dim", (WORK.0 + 2.0, y - 9.0), "start", &words);
    }
    line(svg, "cap", (capacity, TOP - 6.0), (capacity, bottom));
    let words = format!("the cores' capacity: {:.0}", record.capacity_per_s);
    text(svg, "dim", (capacity, bottom + 18.0), "middle", &words);
    let legend = bottom + 48.0;
    for (at, (class, words)) in [
        ("done", "done (figure)"),
        ("refused", "refused"),
        ("late", "late, failed"),
    ]
    .iter()
    .enumerate()
    {
        let x = WORK.0 + 110.0 * at as f64;
        bar(svg, class, x, legend - 12.0, BAR);
        text(svg, "dim", (x + 20.0, legend), "start", words);
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{record, row};
    use super::*;
    use crate::strategy::Kind;

    fn numbers<'a>(svg: &'a roxmltree::Document<'a>, name: &'a str) -> Vec<f64> {
        let nodes = svg.descendants();
        let found = nodes.filter_map(|node| node.attribute(name)?.parse().ok());
        found.collect()
    }

    #[test]
    fn the_chart_is_an_svg_with_a_row_for_each_way_and_nothing_outside_of_it() {
        let mut taken = record(Kind::ALL.map(|kind| row(kind, 3.0, 300.0)).to_vec());
        taken.strategies[0].probe.max_ms = 12_000.0;
        taken.strategies[1].probe.p50_ms = 0.0;
        taken.strategies[2].work.offered_per_s = 9_000.0;
        let text = chart(&taken);
        let svg = roxmltree::Document::parse(&text).unwrap();
        let root = svg.root_element();
        assert_eq!(
            root.tag_name().namespace(),
            Some("http://www.w3.org/2000/svg")
        );
        let height: f64 = root.attribute("height").unwrap().parse().unwrap();
        let words: Vec<_> = svg.descendants().filter_map(|node| node.text()).collect();
        for kind in Kind::ALL {
            assert!(words.contains(&kind.name()), "{kind:?}: {words:?}");
        }
        assert!(
            words
                .iter()
                .any(|word| word.contains("Some <CPU> & \"more\"")),
            "what is named outside is text, never marks: {words:?}"
        );
        for name in ["x", "x1", "x2", "cx"] {
            let found = numbers(&svg, name);
            assert!(
                found.iter().all(|x| (0.0..=WIDTH).contains(x)),
                "{name}: {found:?}"
            );
        }
        for name in ["y", "y1", "y2", "cy"] {
            let found = numbers(&svg, name);
            assert!(
                found.iter().all(|y| (0.0..=height).contains(y)),
                "{name}: {found:?}"
            );
        }
    }

    #[test]
    fn ten_times_the_latency_is_one_decade_to_the_right() {
        let axis = Decades::around([row(Kind::Cpu, 30.0, 1.0).probe].iter());
        assert_eq!((axis.first, axis.last), (1, 2));
        let probes = [
            row(Kind::Cpu, 0.3, 1.0).probe,
            row(Kind::Cpu, 3_000.0, 1.0).probe,
        ];
        let axis = Decades::around(probes.iter());
        let step = axis.x(10.0) - axis.x(1.0);
        assert!(step > 10.0 && (axis.x(100.0) - axis.x(10.0) - step).abs() < 1e-9);
        let labels = [
            (-2, "10 us"),
            (0, "1 ms"),
            (2, "100 ms"),
            (3, "1 s"),
            (4, "10 s"),
        ];
        for (power, want) in labels {
            assert_eq!(label(power), want);
        }
    }

    #[test]
    fn no_rows_and_no_figures_are_still_a_chart() {
        let mut taken = record(Vec::new());
        assert!(roxmltree::Document::parse(&chart(&taken)).is_ok());
        taken.strategies = vec![row(Kind::Inline, 0.0, 0.0)];
        taken.capacity_per_s = 0.0;
        let text = chart(&taken);
        assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
    }
}
