//! A plan as JSON, for programs. Its shape is in docs/guides/capacity.md, and is only ever added to.
//! Times are milliseconds, rates per second; what has no number is `null`.

use serde_json::{Value, json};

use super::{Ask, cautions, conclusion, rows};
use crate::Findings;
use crate::measure::Cost;
use crate::predict::Model;
use crate::queueing::Forecast;
use crate::validate::{Point, Validation};

/// One mix.
pub fn json(findings: &Findings, ask: &Ask) -> Value {
    let measured = &findings.measured;
    let model = Model::of(measured);
    let pod = ask.pod(findings);
    let pool = model.pool(pod.count());
    let capacity: Vec<_> = rows(findings, ask, &model)
        .iter()
        .map(|row| {
            json!({
                "for": row.name, "cores": row.cores, "full_rps": row.full_rps,
                "planned_rps": row.full_rps * ask.utilisation, "extrapolated": row.is_guess,
            })
        })
        .collect();
    let target = ask.target_rps.map(|rps| {
        json!({
            "rps": rps,
            "cores": model.cores_for(rps, ask.utilisation),
            "pods": model.pods_for(rps, ask.utilisation, pod),
        })
    });
    json!({
        "mix": measured.mix.to_string(),
        "calls_per_request": model.calls,
        "machine": { "cores": measured.cores, "others_cores": measured.others },
        "operations": measured.parts.iter().map(cost).collect::<Vec<_>>(),
        "http": cost(&measured.empty),
        "together": { "ratio": measured.together.ratio, "calls_counted": measured.together.calls },
        "service_ms": model.one_s * model.calls * 1e3,
        "scaling": model.scaling(),
        "utilisation": ask.utilisation,
        "pod": { "cores": pod.count(), "cpu": pod.to_string(), "pods": ask.pods },
        "capacity": capacity,
        "target": target,
        "answers": model.forecasts(pod.count()).iter().map(|at| forecast(at, &model)).collect::<Vec<_>>(),
        "configure": {
            "threads": pool.threads, "processes": pool.processes, "line": pool.line,
            "max_wait_ms": pool.max_wait_s * 1e3,
        },
        "validation": findings.validation.as_ref().map(|found| validation(found, &model)),
        "notes": cautions(findings, ask, &model),
        "conclusion": conclusion(findings, ask, &model),
    })
}

fn cost(part: &Cost) -> Value {
    json!({
        "operation": part.operation,
        "calls_per_request": part.weight,
        "alone_ms": {
            "mean": part.alone.mean_s * 1e3, "p50": part.alone.p50_s * 1e3,
            "p99": part.alone.p99_s * 1e3, "cv": part.alone.cv,
        },
        "cpu_ms": { "one_core": part.one_core_s * 1e3, "all_cores": part.all_cores_s * 1e3 },
        "holds_ms": part.holds_s.map(|seconds| seconds * 1e3),
        "calls_counted": part.calls,
    })
}

fn forecast(at: &Forecast, model: &Model) -> Value {
    json!({
        "load": at.load, "rps": at.per_s / model.calls, "waits": at.waits,
        "mean_wait_ms": at.wait_s * 1e3, "p50_ms": at.p50_s * 1e3, "p99_ms": at.p99_s * 1e3,
    })
}

fn validation(found: &Validation, model: &Model) -> Value {
    json!({
        "points": found.points.iter().map(|at| point(at, model)).collect::<Vec<_>>(),
        "predicted_rps": found.saturation.predicted_per_s / model.calls,
        "measured_rps": found.saturation.done_per_s / model.calls,
        "error": found.error,
    })
}

fn point(at: &Point, model: &Model) -> Value {
    json!({
        "load": at.load,
        "offered_rps": at.offered_per_s / model.calls,
        "done_rps": at.done_per_s / model.calls,
        "predicted_saturation_rps": at.predicted_per_s / model.calls,
        "refused": at.refused, "failed": at.failed,
        "predicted_p99_ms": at.predicted_p99_s * 1e3,
        "measured_p50_ms": at.measured_p50_s * 1e3,
        "measured_p99_ms": at.measured_p99_s * 1e3,
        "cores": { "server": at.server_cores, "client": at.client_cores, "others": at.other_cores },
    })
}
