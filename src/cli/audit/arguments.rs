//! Values of options that several commands of `actchain audit` take.

use std::path::Path;

use crate::domain::audit::filter::Filter;
use crate::platform::fault::{Context, Fault};
use actchain_protocol::signed_note::{self, Checkpoint, VerifierKey};

pub(super) fn verifier_keys(texts: &[String]) -> Result<Vec<VerifierKey>, Fault> {
    let key = |text: &String| {
        VerifierKey::parse(text).ok_or_else(|| Fault::new(format!("{text} is no verifier key")))
    };
    texts.iter().map(key).collect()
}

/// Reads a checkpoint from a file. Refuses a file whose line endings or encoding were converted.
pub(in crate::cli) fn read_checkpoint(path: &Path) -> Result<String, Fault> {
    let note = std::fs::read_to_string(path).context(&format!("reading {}", path.display()))?;
    if note.starts_with('\u{feff}') || note.contains('\r') {
        return Err(Fault::new(format!(
            "{} was converted on its way: it has a byte order mark, or its lines end in CRLF",
            path.display()
        )));
    }
    match signed_note::parts(&note).and_then(|(text, _)| Checkpoint::parse(&text)) {
        Some(_) => Ok(note),
        None => Err(Fault::new(format!("{} is no checkpoint", path.display()))),
    }
}

pub(super) fn filter(texts: &[String]) -> Result<Filter, Fault> {
    let mut filter = Filter::default();
    for text in texts {
        let unknown = || Fault::new(format!("{text} is no filter"));
        let (name, value) = text.split_once('=').ok_or_else(unknown)?;
        match filter.set(name, value) {
            Ok(true) => {}
            Ok(false) => return Err(unknown()),
            Err(refusal) => return Err(Fault::new(format!("{text}: {}", refusal.sentence()))),
        }
    }
    Ok(filter)
}
