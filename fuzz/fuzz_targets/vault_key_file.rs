//! Any bytes as a key file, and any text as its name.
#![no_main]

use libfuzzer_sys::fuzz_target;
use offloop_vault::keys::folder::{FileName, material};

fuzz_target!(|data: &[u8]| {
    let _ = material(data);
    if let Ok(text) = std::str::from_utf8(data)
        && let Some(name) = FileName::parse(text)
    {
        assert_eq!(name.to_string(), text);
    }
});
