//! Figures: a line of JSON each as they come, and a table at the end.

use std::time::Duration;

use serde_json::{Value, json};

/// Values of one measure's rounds.
#[derive(Clone, Debug)]
pub(crate) struct Rounds(Vec<f64>);

impl Rounds {
    pub(crate) fn new(mut rounds: Vec<f64>) -> Self {
        rounds.sort_by(f64::total_cmp);
        Self(rounds)
    }

    pub(crate) fn median(&self) -> f64 {
        self.0.get(self.0.len() / 2).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn least(&self) -> f64 {
        self.0.first().copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn most(&self) -> f64 {
        self.0.last().copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What a figure is held against.
#[derive(Clone, Debug)]
pub(crate) enum Goal {
    /// This many times the rival of the same run.
    TimesRival(f64),
    /// At most this many times the rival of the same run: less is better.
    AtMostTimesRival(f64),
    Below(f64),
    None,
}

/// One row of the table.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    pub(crate) measure: String,
    pub(crate) unit: &'static str,
    pub(crate) ours: Rounds,
    pub(crate) rival: Rounds,
    /// What the machine allows, and why.
    pub(crate) limit: Option<(f64, &'static str)>,
    pub(crate) goal: Goal,
    pub(crate) more: Value,
}

impl Figure {
    pub(crate) fn new(measure: impl Into<String>, unit: &'static str, ours: Vec<f64>) -> Self {
        Self {
            measure: measure.into(),
            unit,
            ours: Rounds::new(ours),
            rival: Rounds::new(Vec::new()),
            limit: None,
            goal: Goal::None,
            more: Value::Null,
        }
    }

    pub(crate) fn below(mut self, goal: f64) -> Self {
        self.goal = Goal::Below(goal);
        self
    }

    pub(crate) fn goal(mut self, goal: Goal) -> Self {
        self.goal = goal;
        self
    }

    pub(crate) fn rival(mut self, rounds: Vec<f64>) -> Self {
        self.rival = Rounds::new(rounds);
        self
    }

    pub(crate) fn more(mut self, more: Value) -> Self {
        self.more = more;
        self
    }

    fn ratio(&self) -> Option<f64> {
        (!self.rival.is_empty()).then(|| self.ours.median() / self.rival.median())
    }

    fn verdict(&self) -> String {
        match (&self.goal, self.ratio()) {
            (Goal::TimesRival(goal), Some(ratio)) => {
                let word = if ratio >= *goal { "met" } else { "MISSED" };
                format!("{word} (goal {goal}x)")
            }
            (Goal::AtMostTimesRival(goal), Some(ratio)) => {
                let word = if ratio <= *goal { "met" } else { "MISSED" };
                format!("{word} (goal <= {goal}x)")
            }
            (Goal::Below(goal), _) => {
                let word = if self.ours.median() < *goal {
                    "met"
                } else {
                    "MISSED"
                };
                format!("{word} (goal < {goal})")
            }
            _ => String::new(),
        }
    }

    pub(crate) fn json(&self) -> Value {
        let spread = |rounds: &Rounds| {
            if rounds.is_empty() {
                return Value::Null;
            }
            json!({ "median": rounds.median(), "min": rounds.least(), "max": rounds.most(), "rounds": rounds.0.len() })
        };
        json!({
            "measure": self.measure,
            "unit": self.unit,
            "ours": spread(&self.ours),
            "rival": spread(&self.rival),
            "ratio": self.ratio(),
            "limit": self.limit.map(|(value, why)| json!({ "value": value, "of": why })),
            "verdict": self.verdict(),
            "more": self.more,
        })
    }
}

/// For a table: three digits that matter.
fn short(value: f64) -> String {
    if value.is_nan() {
        "-".into()
    } else if value >= 100.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}

pub(crate) fn table(figures: &[Figure]) {
    println!(
        "\n| measure | ours: median (min to max) | rival: median (min to max) | ratio | limit | goal |\n|---|---|---|---|---|---|"
    );
    for figure in figures {
        let spread = |rounds: &Rounds| {
            let (median, least, most) = (rounds.median(), rounds.least(), rounds.most());
            format!("{} ({} to {})", short(median), short(least), short(most))
        };
        let limit = figure.limit.map_or("-".into(), |(value, why)| {
            format!(
                "{:.0} % of {} ({why})",
                figure.ours.median() / value * 100.0,
                short(value)
            )
        });
        println!(
            "| {}, {} | {} | {} | {} | {limit} | {} |",
            figure.measure,
            figure.unit,
            spread(&figure.ours),
            if figure.rival.is_empty() {
                "-".into()
            } else {
                spread(&figure.rival)
            },
            figure
                .ratio()
                .map_or("-".into(), |ratio| format!("{ratio:.2}x")),
            figure.verdict(),
        );
    }
}

/// p50, p99 and max in milliseconds.
pub(crate) fn quantiles(waits: &mut [Duration]) -> (f64, f64, f64) {
    waits.sort_unstable();
    let at = |share: f64| {
        let index = ((waits.len() as f64 * share) as usize).min(waits.len().saturating_sub(1));
        waits
            .get(index)
            .map_or(f64::NAN, |wait| wait.as_secs_f64() * 1e3)
    };
    (at(0.5), at(0.99), at(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_goal_is_called_missed() {
        let mut figure = Figure::new("add", "jobs/s", vec![110.0, 100.0, 120.0]);
        figure.rival = Rounds::new(vec![100.0]);
        figure.goal = Goal::TimesRival(1.2);
        assert_eq!(
            (figure.ours.median(), figure.verdict().contains("MISSED")),
            (110.0, true)
        );
        figure.goal = Goal::TimesRival(1.1);
        assert!(figure.verdict().starts_with("met"));
        figure.goal = Goal::AtMostTimesRival(1.05);
        assert!(figure.verdict().starts_with("MISSED"));
        assert!(
            Figure::new("p99", "ms", vec![5.0])
                .below(5.0)
                .verdict()
                .contains("MISSED")
        );
    }

    #[test]
    fn quantiles_are_of_the_sorted_waits() {
        let mut waits: Vec<_> = (1..=100).rev().map(Duration::from_millis).collect();
        assert_eq!(quantiles(&mut waits), (51.0, 100.0, 100.0));
    }
}
