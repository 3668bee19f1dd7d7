//! The name of a load: under which its notes, its reject file and its status are found again.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

const BYTES_MAX: usize = 64;

/// Invariant: 1 to 64 bytes of `a-z`, `A-Z`, `0-9`, `_` and `-`, so it is safe in a file name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LoadId(Arc<str>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a load's name has 1 to {BYTES_MAX} characters of a-z, A-Z, 0-9, _ and -, not `{shown}`")]
pub struct LoadIdError {
    shown: String,
}

impl LoadId {
    pub fn parse(text: &str) -> Result<Self, LoadIdError> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if text.is_empty() || text.len() > BYTES_MAX || !text.bytes().all(is_plain) {
            return Err(LoadIdError {
                shown: text.chars().take(BYTES_MAX).collect(),
            });
        }
        Ok(Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LoadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for LoadId {
    type Error = LoadIdError;

    fn try_from(text: String) -> Result<Self, LoadIdError> {
        Self::parse(&text)
    }
}

impl From<LoadId> for String {
    fn from(id: LoadId) -> Self {
        id.0.as_ref().into()
    }
}
