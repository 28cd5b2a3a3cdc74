//! A filter of a list that is set.

/// A filter by name and value.
pub(super) type SetFilter<'a> = (&'static str, &'a str);

/// The value of a filter.
pub(super) fn value<'a>(filters: &[SetFilter<'a>], name: &str) -> Option<&'a str> {
    filters.iter().find(|(own, _)| *own == name).map(|(_, value)| *value)
}
