//! Any bytes as a form: nothing panics, pieces change neither the file nor the answer, and what is handed
//! on is part of what came. The first byte chooses the pieces.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use offloop_ingest::decode::form::{FormError, FormFile};

fn read(bytes: &Bytes, piece: usize) -> (Vec<u8>, Result<(), FormError>) {
    let mut form = FormFile::new("multipart/form-data; boundary=a").expect("a boundary");
    let mut file = Vec::new();
    let mut rest = bytes.clone();
    while !rest.is_empty() {
        let piece = rest.split_to(piece.min(rest.len()));
        let mut out = Vec::new();
        let pushed = form.push(&piece, &mut out);
        out.iter().for_each(|bytes| file.extend_from_slice(bytes));
        if pushed.is_err() {
            return (file, pushed);
        }
    }
    let end = form.finish();
    (file, end)
}

fuzz_target!(|data: &[u8]| {
    let Some((piece, bytes)) = data.split_first() else {
        return;
    };
    let bytes = Bytes::copy_from_slice(bytes);
    let whole = read(&bytes, usize::MAX);
    let parts = read(&bytes, usize::from(*piece).max(1));
    assert_eq!(whole.1, parts.1);
    if whole.1.is_ok() {
        assert_eq!(whole.0, parts.0);
    }
    assert!(whole.0.is_empty() || bytes.windows(whole.0.len()).any(|at| at == whole.0));
    // Content types are hostile too.
    if let Ok(text) = std::str::from_utf8(&bytes) {
        let _any = FormFile::new(text);
    }
});
