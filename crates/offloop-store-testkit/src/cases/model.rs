//! Whole random lives.

use crate::Kit;

pub fn agrees_with_the_oracle(kit: &Kit) {
    crate::model::agrees_with_the_oracle(kit);
}

pub fn agrees_across_restarts(kit: &Kit) {
    crate::model::agrees_across_restarts(kit);
}
