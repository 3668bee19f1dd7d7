//! The query of a request for work: what is there, what is bounded, and what is refused by name.

use std::time::Duration;

use offloop::http::Refusal;

use crate::strategy::Ask;
use crate::work::Pace;

/// Processor time of one piece, milliseconds.
pub const CPU_TIME_MS_MAX: u32 = 60_000;
/// How long a client may wait, milliseconds.
pub const TIMEOUT_MS_MAX: u32 = 300_000;
const TIMEOUT_MS_DEFAULT: u32 = 120_000;

/// Reads `cpu_time_ms` (or `CPUTimeMs`), and, if they are there, `timeout_ms` and `seed`.
pub(super) fn ask(query: &str, pace: Pace) -> Result<Ask, Refusal> {
    let (mut cpu_time_ms, mut timeout_ms, mut seed) = (None, TIMEOUT_MS_DEFAULT, 0);
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "cpu_time_ms" | "CPUTimeMs" => {
                cpu_time_ms = Some(number(&name, &value, 0, CPU_TIME_MS_MAX.into())? as u32);
            }
            "timeout_ms" => timeout_ms = number(&name, &value, 1, TIMEOUT_MS_MAX.into())? as u32,
            "seed" => seed = number(&name, &value, 0, u64::MAX)?,
            _ => {
                let known = "is not known here; there are cpu_time_ms, timeout_ms and seed";
                return Err(Refusal::parameter(&name, known));
            }
        }
    }
    let Some(cpu_time_ms) = cpu_time_ms else {
        let wanted = format!("is missing; give 0 to {CPU_TIME_MS_MAX}");
        return Err(Refusal::parameter("cpu_time_ms", wanted));
    };
    Ok(Ask {
        piece: pace.piece(cpu_time_ms, seed),
        timeout: Duration::from_millis(timeout_ms.into()),
    })
}

fn number(name: &str, value: &str, least: u64, most: u64) -> Result<u64, Refusal> {
    let number = value.parse().ok();
    number
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(|| {
            let shown: String = value.chars().take(40).collect();
            let wanted = format!("is {shown:?}; give a whole number, {least} to {most}");
            Refusal::parameter(name, wanted)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::Piece;
    use offloop::http::axum::response::IntoResponse as _;
    use std::num::NonZeroU64;

    fn pace() -> Pace {
        Pace::of(NonZeroU64::new(10).unwrap())
    }

    #[test]
    fn the_names_of_both_documents_ask_for_the_same_work() {
        let rows = [
            ("cpu_time_ms=25", 250, 120_000, 0),
            ("CPUTimeMs=25&seed=7", 250, 120_000, 7),
            ("timeout_ms=50&cpu_time_ms=60000", 600_000, 50, 0),
            ("cpu_time_ms=0", 0, 120_000, 0),
        ];
        for (query, rounds, timeout_ms, seed) in rows {
            let asked = ask(query, pace()).unwrap();
            assert_eq!(asked.piece, Piece { rounds, seed }, "{query}");
            assert_eq!(asked.timeout, Duration::from_millis(timeout_ms), "{query}");
        }
    }

    #[test]
    fn a_parameter_that_cannot_be_is_refused_and_never_taken_for_another_number() {
        let bad = [
            "",
            "cpu_time_ms=",
            "cpu_time_ms=-1",
            "cpu_time_ms=1.5",
            "cpu_time_ms=60001",
            "cpu_time_ms=99999999999999999999",
            "cpu_time_ms=5&timeout_ms=0",
            "cpu_time_ms=5&timeout_ms=300001",
            "cpu_time_ms=5&seed=x",
            "cpu_time_ms=5&cputime=5",
        ];
        for query in bad {
            let refusal = ask(query, pace()).unwrap_err().into_response();
            assert_eq!(refusal.status(), 400, "{query}");
        }
    }
}
