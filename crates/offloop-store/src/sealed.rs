//! How sealed content looks, so that whoever meets some unopened knows what it is.

/// Sealed content begins so; as JSON, behind a quote.
pub const SEALED_PREFIX: &str = "offloop-sealed:";

/// Whether these bytes are sealed content, as JSON or as text.
pub fn is_sealed(bytes: &[u8]) -> bool {
    let text = bytes.strip_prefix(b"\"").unwrap_or(bytes);
    text.starts_with(SEALED_PREFIX.as_bytes())
}
