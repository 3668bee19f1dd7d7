//! Names of what runs on loops, as small numbers: a mark is one store of one word.
//!
//! Names are made when tasks and routes are declared, never per request.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

/// What a name names: it decides the remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A task of the io lane.
    Task,
    /// A route of the door.
    Route,
    /// Anything else.
    Section,
}

impl Kind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Task => "task",
            Self::Route => "route",
            Self::Section => "section",
        }
    }
}

/// A name that was made known. Equal names are equal numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(u16);

/// Names of one process; those that come later share one, `(others)`.
const NAMES_MAX: usize = 4_096;
const NAME_BYTES_MAX: usize = 160;

#[derive(Default)]
struct Table {
    texts: Vec<(Kind, Arc<str>)>,
    numbers: HashMap<(Kind, Arc<str>), u16>,
}

static TABLE: RwLock<Option<Table>> = RwLock::new(None);

impl Name {
    pub fn task(text: &str) -> Self {
        Self::of(Kind::Task, text)
    }

    /// Such as `GET /v1/jobs/{id}`: the pattern, never the path of a request.
    pub fn route(text: &str) -> Self {
        Self::of(Kind::Route, text)
    }

    pub fn section(text: &str) -> Self {
        Self::of(Kind::Section, text)
    }

    fn of(kind: Kind, text: &str) -> Self {
        let text = &text[..text.floor_char_boundary(NAME_BYTES_MAX)];
        let key = (kind, Arc::from(text));
        let mut table = TABLE.write().unwrap_or_else(PoisonError::into_inner);
        let table = table.get_or_insert_with(|| {
            let mut table = Table::default();
            table.add((Kind::Section, Arc::from("(others)")));
            table
        });
        if let Some(number) = table.numbers.get(&key) {
            return Self(*number);
        }
        if table.texts.len() >= NAMES_MAX {
            return Self(1);
        }
        Self(table.add(key))
    }

    /// Never 0.
    pub(crate) const fn number(self) -> u16 {
        self.0
    }

    /// `None` for 0, which marks nothing.
    pub(crate) fn from_number(number: u16) -> Option<Self> {
        (number != 0).then_some(Self(number))
    }

    pub fn kind(self) -> Kind {
        self.entry().0
    }

    pub fn text(self) -> Arc<str> {
        self.entry().1
    }

    fn entry(self) -> (Kind, Arc<str>) {
        let table = TABLE.read().unwrap_or_else(PoisonError::into_inner);
        let at = usize::from(self.0.saturating_sub(1));
        let entry = table.as_ref().and_then(|table| table.texts.get(at));
        entry.cloned().unwrap_or((Kind::Section, Arc::from("?")))
    }
}

impl Table {
    fn add(&mut self, key: (Kind, Arc<str>)) -> u16 {
        self.texts.push(key.clone());
        let number = self.texts.len() as u16;
        self.numbers.insert(key, number);
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_names_are_one_and_kinds_keep_them_apart() {
        let one = Name::task("resize");
        assert_eq!(one, Name::task("resize"));
        assert_ne!(one, Name::route("resize"));
        assert_eq!((one.kind(), &*one.text()), (Kind::Task, "resize"));
        assert_ne!(one.number(), 0);
    }

    #[test]
    fn a_long_name_is_cut_between_characters() {
        let long = "ü".repeat(200);
        assert_eq!(Name::section(&long).text().len(), NAME_BYTES_MAX);
    }
}
