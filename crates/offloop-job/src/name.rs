//! Names from outside: parsed once, then trusted.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::limits::{
    IDEMPOTENCY_KEY_BYTES_MAX, NAME_BYTES_MAX, TAG_BYTES_MAX, UNIQUE_KEY_BYTES_MAX,
};

/// A text that is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("is empty; give 1 to {max} bytes")]
    Empty { max: usize },
    #[error("has {len} bytes; the limit is {max}")]
    TooLong { len: usize, max: usize },
    #[error("holds {found:?}, which is not one of {allowed}")]
    BadCharacter { found: char, allowed: &'static str },
}

const NAME_ALLOWED: &str = "a-z A-Z 0-9 . _ - :";
const TEXT_ALLOWED: &str = "the printable characters";

fn check(
    text: &str,
    max: usize,
    allowed: &'static str,
    ok: fn(char) -> bool,
) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty { max });
    }
    if text.len() > max {
        return Err(NameError::TooLong {
            len: text.len(),
            max,
        });
    }
    match text.chars().find(|c| !ok(*c)) {
        Some(found) => Err(NameError::BadCharacter { found, allowed }),
        None => Ok(()),
    }
}

const fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':')
}

fn is_text_char(c: char) -> bool {
    !c.is_control()
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $max:expr, $allowed:expr, $ok:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            pub fn parse(text: &str) -> Result<Self, NameError> {
                check(text, $max, $allowed, $ok)?;
                Ok(Self(text.into()))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::parse(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({:?})", stringify!($name), &*self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name!(
    /// A task's name: 1 to 128 bytes of `a-z A-Z 0-9 . _ - :`. Names that start with `offloop.`
    /// belong to offloop.
    TaskName, NAME_BYTES_MAX, NAME_ALLOWED, is_name_char
);
name!(
    /// A queue's name: 1 to 128 bytes of `a-z A-Z 0-9 . _ - :`.
    QueueName, NAME_BYTES_MAX, NAME_ALLOWED, is_name_char
);
name!(
    /// A schedule's name: 1 to 128 bytes of `a-z A-Z 0-9 . _ - :`.
    ScheduleName, NAME_BYTES_MAX, NAME_ALLOWED, is_name_char
);
name!(
    /// A label to find jobs by: 1 to 128 bytes without control characters.
    Tag, TAG_BYTES_MAX, TEXT_ALLOWED, is_text_char
);
name!(
    /// What makes a job unique: 1 to 256 bytes without control characters.
    UniqueKey, UNIQUE_KEY_BYTES_MAX, TEXT_ALLOWED, is_text_char
);
name!(
    /// The caller's name for one request: 1 to 256 bytes without control characters.
    IdempotencyKey, IDEMPOTENCY_KEY_BYTES_MAX, TEXT_ALLOWED, is_text_char
);

impl Default for QueueName {
    /// The queue of a job that names none.
    fn default() -> Self {
        Self("default".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_name_is_refused_with_what_is_wrong() {
        let long = "x".repeat(129);
        let rows = [
            ("report", None),
            ("photos.convert:v2_x-1", None),
            ("", Some(NameError::Empty { max: 128 })),
            (&long, Some(NameError::TooLong { len: 129, max: 128 })),
            (
                "a b",
                Some(NameError::BadCharacter {
                    found: ' ',
                    allowed: NAME_ALLOWED,
                }),
            ),
            (
                "../x",
                Some(NameError::BadCharacter {
                    found: '/',
                    allowed: NAME_ALLOWED,
                }),
            ),
            (
                "ünder",
                Some(NameError::BadCharacter {
                    found: 'ü',
                    allowed: NAME_ALLOWED,
                }),
            ),
        ];
        for (text, want) in rows {
            assert_eq!(TaskName::parse(text).err(), want, "{text:?}");
        }
        assert!(Tag::parse("customer 42 / ü").is_ok());
        assert!(Tag::parse("line\nbreak").is_err());
    }
}
