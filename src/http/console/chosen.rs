//! What a person has chosen in the form of a request, kept in the URL while it signs in once more. It is shown again, and
//! decides nothing.

use super::guard::ConsoleRequest;
use super::links::form_encoded;
use crate::domain::refusal::Refusal;

/// The field that says that choices follow.
const MARK: &str = "chosen";
/// A longer query is not kept: the choices are made again.
const MAX_BYTES: usize = 1_500;
const NUMBERS: [&str; 3] = ["expires_in", "max_uses", "max_depth"];

/// The choices of a form, by the names of its fields.
#[derive(Debug, Default)]
pub(super) struct Chosen(Option<Vec<(String, String)>>);

impl Chosen {
    /// The choices in the URL.
    ///
    /// # Errors
    /// A refusal of a query with other parameters.
    pub(super) fn read(known: &ConsoleRequest<'_>, boxes: &[&str]) -> Result<Self, Refusal> {
        let pairs: Vec<(String, String)> = known.query()?;
        let is_known = |name: &str| {
            name == MARK || NUMBERS.contains(&name) || boxes.iter().any(|prefix| name.starts_with(prefix))
        };
        if pairs.iter().any(|(name, _)| !is_known(name)) {
            return Err(Refusal::Malformed("The query is not what this page reads"));
        }
        Ok(Self(pairs.iter().any(|(name, _)| name == MARK).then_some(pairs)))
    }

    /// The query with the choices of a form, if it is not too long.
    pub(super) fn query(known: &ConsoleRequest<'_>, boxes: &[&str]) -> Option<String> {
        let mut query = format!("{MARK}=yes");
        for name in NUMBERS {
            if let Some(value) = known.form.get(name).filter(|value| !value.is_empty()) {
                query.push_str(&format!("&{name}={}", form_encoded(value)));
            }
        }
        for prefix in boxes {
            for name in known.form.names_after(prefix) {
                query.push_str(&format!("&{}=on", form_encoded(&format!("{prefix}{name}"))));
            }
        }
        (query.len() <= MAX_BYTES).then_some(query)
    }

    /// The text that was entered in a field.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        let pairs = self.0.as_deref()?;
        pairs.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// Whether the box of this name is ticked; `None` where no choice is kept.
    pub(super) fn box_is_ticked(&self, prefix: &str, name: &str) -> Option<bool> {
        let pairs = self.0.as_deref()?;
        Some(pairs.iter().any(|(own, _)| own.strip_prefix(prefix) == Some(name)))
    }
}
