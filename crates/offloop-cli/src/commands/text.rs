//! Figures and foreign text as a person reads them on a terminal.
//!
//! Must never: let what a task wrote steer the terminal.

use serde_json::Value;

/// `7 ms`, `1.2 s`, `3 min 4 s`, `2 h 5 min`, `3 d 4 h`.
pub(crate) fn span(ms: u64) -> String {
    let seconds = ms / 1_000;
    match seconds {
        0 => format!("{ms} ms"),
        1..60 => format!("{}.{} s", seconds, ms % 1_000 / 100),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// `512 B`, `1.5 KiB`, `300.0 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1 << 10 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64;
    let mut unit = "";
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

/// A figure that may be missing.
pub(crate) fn or_dash(value: &Value, show: fn(u64) -> String) -> String {
    value.as_u64().map_or_else(|| "-".into(), show)
}

/// Text of a task or a client on one line: control characters are shown, not obeyed.
pub(crate) fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c == '\t' {
            out.push_str("    ");
        } else if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// The same of a field of the server's answer.
pub(crate) fn field(value: &Value) -> String {
    match value {
        Value::String(text) => plain(text),
        Value::Null => "-".into(),
        other => plain(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        let spans = [
            (0, "0 ms"),
            (999, "999 ms"),
            (1_250, "1.2 s"),
            (59_999, "59.9 s"),
            (61_000, "1 min 1 s"),
            (7_500_000, "2 h 5 min"),
            (277_200_000, "3 d 5 h"),
        ];
        for (ms, want) in spans {
            assert_eq!(span(ms), want);
        }
        let sizes = [
            (0, "0 B"),
            (1_023, "1023 B"),
            (1_536, "1.5 KiB"),
            (314_572_800, "300.0 MiB"),
            (u64::MAX, "16777216.0 TiB"),
        ];
        for (bytes, want) in sizes {
            assert_eq!(size(bytes), want);
        }
    }

    #[test]
    fn what_a_task_wrote_does_not_steer_the_terminal() {
        let nasty = "a\u{1b}]0;owned\u{7}\tb\r\u{9b}2Jü\n";
        assert_eq!(plain(nasty), "a\\u{1b}]0;owned\\u{7}    b\\r\\u{9b}2Jü\\n");
    }
}
