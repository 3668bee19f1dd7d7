//! What the engine reads from each head below a folder, as JSON lines, for comparison with
//! `exiftool -json` (`bench/photos/exif_oracle.py`).

use std::path::Path;

use offloop_photos::probe::Prober;
use offloop_photos::walk::{Found, Next, Root, WalkLimits, walk};

fn main() {
    let folder = std::env::args().nth(1).expect("usage: probe_json DIR");
    let root = Root::open(Path::new(&folder)).expect("the folder opens");
    let mut prober = Prober::new();
    walk(&root, WalkLimits::default(), &mut |found, here| {
        if let (Found::File(entry), Some(Ok(opened))) = (found, here.map(|here| here.open()))
            && let Ok(said) = prober.probe(&opened.file)
        {
            let text = |value: &Option<String>| {
                value
                    .as_ref()
                    .map_or("null".to_owned(), |value| format!("{value:?}"))
            };
            let taken = said.exif.taken;
            println!(
                "{{\"path\":{:?},\"format\":{:?},\"width\":{},\"height\":{},\"orientation\":{},\
                 \"make\":{},\"model\":{},\"taken\":{},\"offset\":{},\"position\":{}}}",
                entry.path.to_text(),
                said.format.name(),
                said.width,
                said.height,
                said.exif.orientation.exif_value(),
                text(&said.exif.make),
                text(&said.exif.model),
                text(&taken.as_ref().map(|taken| taken.local.clone())),
                taken
                    .and_then(|taken| taken.offset_minutes)
                    .map_or("null".to_owned(), |minutes| minutes.to_string()),
                said.exif
                    .position
                    .map_or("null".to_owned(), |(a, b)| format!("[{a},{b}]")),
            );
        }
        Next::Continue
    })
    .expect("walks");
}
