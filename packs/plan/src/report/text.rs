//! A plan as text: what was measured, what follows, what to configure.

use std::fmt::Write as _;

use super::{Ask, cautions, conclusion, figures, milliseconds, number, rows};
use crate::Findings;
use crate::cores::Cores;
use crate::measure::Cost;
use crate::mix::Operation;
use crate::predict::Model;
use crate::validate::{Point, Validation};

/// The whole text of one mix, without colours.
pub fn text(findings: &Findings, ask: &Ask) -> String {
    let model = Model::of(&findings.measured);
    let mut out = String::new();
    costs(&mut out, findings);
    capacity(&mut out, findings, ask, &model);
    answers(&mut out, findings, ask, &model);
    configure(&mut out, findings, ask, &model);
    if let Some(validation) = &findings.validation {
        validated(&mut out, validation, findings, &model);
    }
    for caution in cautions(findings, ask, &model) {
        say(&mut out, format_args!("note: {caution}"));
    }
    say(
        &mut out,
        format_args!("{}", conclusion(findings, ask, &model)),
    );
    out
}

fn say(out: &mut String, line: std::fmt::Arguments<'_>) {
    let _ = writeln!(out, "{line}"); // writing to a String does not fail
}

fn costs(out: &mut String, findings: &Findings) {
    let measured = &findings.measured;
    say(out, format_args!("mix: {}\n", measured.mix));
    let names = measured.parts.iter().map(|part| part.operation.len());
    let width = names.max().unwrap_or(0).clamp(14, 60);
    let all = format!("{} cores", measured.cores);
    say(
        out,
        format_args!(
            "{:<width$} {:>8} | {:^35} | {:^27}",
            "", "", "alone, answer in ms", "processor time of a call, ms"
        ),
    );
    say(
        out,
        format_args!(
            "{:<width$} {:>8} | {:>8} {:>8} {:>8} {:>8} | {:>9} {:>9} {:>8}",
            "operation", "calls", "mean", "p50", "p99", "CV", "one core", all, "scaling"
        ),
    );
    for part in measured.parts.iter().chain([&measured.empty]) {
        say(out, format_args!("{}", cost(part, width)));
    }
    out.push('\n');
}

fn cost(part: &Cost, width: usize) -> String {
    let calls = if part.weight > 0.0 {
        part.weight.to_string()
    } else {
        String::new()
    };
    let ms = |seconds: f64| figures(seconds * 1e3);
    format!(
        "{:<width$} {calls:>8} | {:>8} {:>8} {:>8} {:>8.2} | {:>9} {:>9} {:>8.2}",
        part.operation,
        ms(part.alone.mean_s),
        ms(part.alone.p50_s),
        ms(part.alone.p99_s),
        part.alone.cv,
        ms(part.one_core_s),
        ms(part.all_cores_s),
        part.one_core_s / part.all_cores_s.max(1e-12),
    )
}

fn capacity(out: &mut String, findings: &Findings, ask: &Ask, model: &Model) {
    let utilisation = ask.utilisation;
    say(
        out,
        format_args!(
            "capacity = cores x 1/E[S] x scaling x utilisation\n\
             E[S] = {} of processor time per request on one core, {} of it HTTP ({} calls);\n\
             together at random times the parts cost {:.2} of their sum, which is in it\n",
            milliseconds(model.one_s * model.calls),
            milliseconds(model.empty_s * model.calls),
            model.calls,
            model.together,
        ),
    );
    say(
        out,
        format_args!(
            "{:<26} {:>9} {:>12} {:>12}   requests/s",
            "",
            "scaling",
            "full",
            format!("at {:.0} %", utilisation * 100.0)
        ),
    );
    for row in rows(findings, ask, model) {
        let each = model.requests_per_s(1.0);
        say(
            out,
            format_args!(
                "{:<26} {:>9.2} {:>12} {:>12}{}",
                row.name,
                row.full_rps / (each * row.cores),
                number(row.full_rps),
                number(row.full_rps * utilisation),
                if row.is_guess {
                    "   beyond what was measured"
                } else {
                    ""
                }
            ),
        );
    }
    if let Some(rps) = ask.target_rps {
        target(out, rps, ask.pod(findings), ask.utilisation, model);
    }
    out.push('\n');
}

fn target(out: &mut String, rps: f64, pod: Cores, utilisation: f64, model: &Model) {
    let pods = number(model.pods_for(rps, utilisation, pod).max(1.0));
    let pods = pods
        .strip_suffix(".00")
        .or(pods.strip_suffix(".0"))
        .unwrap_or(&pods);
    let asked = number(rps);
    let Some(cores) = model.cores_for(rps, utilisation) else {
        return say(
            out,
            format_args!(
                "\n{asked} requests/s need {pods} pods of {pod}; one machine does not carry them"
            ),
        );
    };
    let guess = if model.is_guess(cores) {
        " (beyond what was measured)"
    } else {
        ""
    };
    let cores = figures(cores);
    say(
        out,
        format_args!(
            "\n{asked} requests/s need {cores} cores in one piece{guess}, or {pods} pods of {pod}"
        ),
    );
}

fn answers(out: &mut String, findings: &Findings, ask: &Ask, model: &Model) {
    let pod = ask.pod(findings);
    say(
        out,
        format_args!(
            "answers of a call by load, on {pod} cores (M/G/c: Erlang C, Lee and Longton)"
        ),
    );
    say(
        out,
        format_args!(
            "{:>6} {:>12} {:>9} {:>11} {:>11} {:>11}",
            "load", "requests/s", "waits", "mean wait", "p50", "p99"
        ),
    );
    for told in model.forecasts(pod.count()) {
        say(
            out,
            format_args!(
                "{:>6} {:>12} {:>7.0} % {:>11} {:>11} {:>11}",
                format!("{:.0} %", told.load * 100.0),
                number(told.per_s / model.calls),
                told.waits * 100.0,
                milliseconds(told.wait_s),
                milliseconds(told.p50_s),
                milliseconds(told.p99_s)
            ),
        );
    }
    out.push('\n');
}

fn configure(out: &mut String, findings: &Findings, ask: &Ask, model: &Model) {
    let pod = ask.pod(findings);
    let pool = model.pool(pod.count());
    say(
        out,
        format_args!("configure for {pod} cores, in offloop.toml"),
    );
    let mix = &findings.measured.mix;
    let on_cpu_lane = |part: &crate::mix::Part| match &part.operation {
        Operation::Cpu(_) => true,
        Operation::Task { name, .. } => name.as_str().starts_with("offloop."),
        _ => false,
    };
    if mix.parts().iter().any(on_cpu_lane) {
        say(
            out,
            format_args!("  [lanes.calls]\n  threads = {}", pool.threads),
        );
    }
    if crate::operation::needs_vault(mix) {
        say(
            out,
            format_args!("  [packs.vault]\n  threads = {}", pool.threads),
        );
    }
    if let Some(processes) = pool.processes {
        for name in crate::setup::tasks(mix) {
            say(
                out,
                format_args!(
                    "  [tasks.{name}]\n  calls = {{ processes = {processes}, line = {}, max_wait = \"{:.0}ms\" }}",
                    pool.line,
                    pool.max_wait_s * 1e3
                ),
            );
        }
    }
    out.push('\n');
}

fn validated(out: &mut String, validation: &Validation, findings: &Findings, model: &Model) {
    say(
        out,
        format_args!(
            "held against the server: {} cores less what the client and others use",
            findings.measured.cores
        ),
    );
    say(
        out,
        format_args!(
            "{:>6} {:>10} {:>10} {:>8} {:>11} {:>11} | {:>7} {:>7} {:>7}",
            "load",
            "offered/s",
            "done/s",
            "refused",
            "p99 told",
            "p99 seen",
            "server",
            "client",
            "others"
        ),
    );
    for point in &validation.points {
        say(out, format_args!("{}", point_line(point, model)));
    }
    let most = &validation.saturation;
    say(
        out,
        format_args!(
            "saturation: predicted {} requests/s, measured {}: {:+.1} %\n",
            number(most.predicted_per_s / model.calls),
            number(most.done_per_s / model.calls),
            validation.error * 100.0
        ),
    );
}

fn point_line(point: &Point, model: &Model) -> String {
    let ms = |seconds: f64| milliseconds(seconds);
    let failed = if point.failed > 0.0 {
        format!("  {:.1} % failed", point.failed * 100.0)
    } else {
        String::new()
    };
    format!(
        "{:>6} {:>10} {:>10} {:>6.1} % {:>11} {:>11} | {:>7.2} {:>7.2} {:>7.2}{failed}",
        format!("{:.0} %", point.load * 100.0),
        number(point.offered_per_s / model.calls),
        number(point.done_per_s / model.calls),
        point.refused * 100.0,
        ms(point.predicted_p99_s),
        ms(point.measured_p99_s),
        point.server_cores,
        point.client_cores,
        point.other_cores,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::predict::tests::measured;

    #[test]
    fn everything_that_was_asked_for_is_told() {
        let findings = Findings {
            measured: measured(),
            validation: None,
        };
        let ask = Ask {
            pod: Some(Cores::parse("1500m").unwrap()),
            pods: 3,
            utilisation: 0.7,
            target_rps: Some(500.0),
        };
        let told = text(&findings, &ask);
        for words in [
            "mix: cpu:10ms + 2*cpu:1ms",
            "capacity = cores x 1/E[S] x scaling x utilisation",
            "E[S] = 12.0 ms",
            "1 pod of 1500m",
            "3 pods of 1500m",
            "500 requests/s need",
            "[lanes.calls]\n  threads = 2",
            "periods of 100 ms",
            "cpu:10ms is 83 % of the cost",
        ] {
            assert!(told.contains(words), "{words} is missing:\n{told}");
        }
        assert!(!told.contains("NaN") && !told.contains("inf"), "{told}");
    }

    #[test]
    fn a_look_that_was_disturbed_is_told() {
        let mut findings = Findings {
            measured: measured(),
            validation: None,
        };
        let ask = Ask {
            pod: None,
            pods: 1,
            utilisation: 0.7,
            target_rps: None,
        };
        let disturbed =
            |findings: &Findings| text(findings, &ask).contains("on one core as on all");
        assert!(!disturbed(&findings));
        for part in &mut findings.measured.parts {
            part.one_core_s = part.all_cores_s * 4.7;
        }
        assert!(disturbed(&findings));
    }
}
