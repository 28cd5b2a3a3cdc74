//! Cursors of lists: what is read is written the same way.
#![no_main]

use actchain::domain::delegation::list::Cursor;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Some(position) = Cursor::parse(text) {
        assert_eq!(Cursor::parse(&position.to_text()), Some(position));
    }
});
