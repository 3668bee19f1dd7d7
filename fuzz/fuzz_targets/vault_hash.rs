//! Any text as a stored hash: what is parsed comes back as it was, within its bounds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use offloop_vault::{argon, bcrypt};

fuzz_target!(|text: &str| {
    if let Ok(hash) = argon::Hash::parse(text) {
        assert_eq!(hash.to_string(), text);
        assert!(hash.cost.problem().is_none());
    }
    if let Ok(hash) = bcrypt::Hash::parse(text) {
        assert_eq!(bcrypt::Hash::parse(&hash.to_string()), Ok(hash));
    }
});
