//! Values of flags that several commands read alike.

/// A number in its range; the error tells the range.
pub(crate) fn within(text: &str, least: f64, most: f64) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "no number".to_owned())?;
    if (least..=most).contains(&number) {
        Ok(number)
    } else {
        Err(format!("give {least} to {most}"))
    }
}
