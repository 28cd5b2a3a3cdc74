//! Pages of lists, with cursors.

use serde::Serialize;

use crate::domain::refusal::Refusal;

const MAX_LIMIT: u32 = 100;
const DEFAULT_LIMIT: u32 = 50;

/// Cursor and size of the page that the caller wants.
#[derive(Debug, Clone, Default)]
pub struct PageRequest {
    /// `next` of the previous page.
    pub cursor: Option<String>,
    /// 1 to 100; 50 if absent.
    pub limit: Option<u32>,
}

impl PageRequest {
    pub(super) fn limit(&self) -> Result<i64, Refusal> {
        match self.limit.unwrap_or(DEFAULT_LIMIT) {
            limit @ 1..=MAX_LIMIT => Ok(i64::from(limit)),
            _ => Err(Refusal::Malformed("limit is 1 to 100")),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Page<T, C = String> {
    pub items: Vec<T>,
    /// Cursor of the next page; `None` on the last page.
    pub next: Option<C>,
}

impl<T> Page<T> {
    pub(super) fn empty() -> Self {
        Self { items: Vec::new(), next: None }
    }
}

/// A page of a short list, in the order of its ids. The cursor is the last id.
pub(super) fn page_of<T>(
    mut items: Vec<(String, T)>,
    prefix: Option<&str>,
    page: &PageRequest,
) -> Result<Page<T>, Refusal> {
    let limit = page.limit()?;
    let prefix = prefix.unwrap_or_default();
    let after = |id: &String| page.cursor.as_ref().is_none_or(|cursor| id > cursor);
    items.retain(|(id, _)| id.starts_with(prefix) && after(id));
    items.sort_by(|(first, _), (second, _)| first.cmp(second));
    let next = cut(&mut items, limit).map(|(id, _)| id.clone());
    Ok(Page { items: items.into_iter().map(|(_, item)| item).collect(), next })
}

/// Cuts rows that were read with one row more than `limit`. Returns the last row left if there is a next page.
pub(super) fn cut<T>(rows: &mut Vec<T>, limit: i64) -> Option<&T> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = rows.len() > limit;
    rows.truncate(limit);
    rows.last().filter(|_| more)
}
