//! What the queries of lists have alike. All of a view is in its URL: the filters that are set, and nothing else.

use maud::{Markup, html};

use super::error_page::PageError;
use super::guard::ConsoleRequest;
use super::links::form_encoded;
pub(super) use super::set_filter::{SetFilter, value};
use super::{windows, words};

/// The value of a box that is ticked.
pub(super) const YES: &str = "yes";

/// The filters that are set. A field of a form that was left empty does not restrict, and neither does the window of all times.
pub(super) fn set<'a>(
    members: impl IntoIterator<Item = (&'static str, &'a Option<String>)>,
) -> Vec<SetFilter<'a>> {
    let values = members.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)));
    values.filter(|(name, value)| !value.is_empty() && (*name, *value) != ("window", "all")).collect()
}

/// Whether a box is ticked.
pub(super) fn is_ticked(filters: &[SetFilter<'_>], name: &'static str) -> Result<bool, PageError> {
    match value(filters, name) {
        None => Ok(false),
        Some(YES) => Ok(true),
        Some(_) => Err(PageError::Field { name, sentence: "It is “yes”, or absent." }),
    }
}

/// Path and query of a view, with other values; an empty value takes a filter away.
pub(super) fn path_with(path: &str, filters: &[SetFilter<'_>], changes: &[(&str, &str)]) -> String {
    let kept =
        filters.iter().copied().filter(|(name, _)| !changes.iter().any(|(changed, _)| changed == name));
    let set = kept.chain(changes.iter().copied().filter(|(_, value)| !value.is_empty()));
    let query: Vec<String> = set.map(|(name, value)| format!("{name}={}", form_encoded(value))).collect();
    if query.is_empty() { path.to_owned() } else { format!("{path}?{}", query.join("&")) }
}

/// The active filters, each as a link that removes it, and a link with the times that the window has now. A view without a
/// window has the `usual` one, if there is one.
pub(super) fn removable(
    known: &ConsoleRequest<'_>,
    path: &str,
    filters: &[SetFilter<'_>],
    usual: Option<&str>,
) -> Markup {
    let mut timed = filters.to_vec();
    timed.extend(usual.filter(|_| value(filters, "window").is_none()).map(|window| ("window", window)));
    let fixed = windows::fixed(&timed, known.context.now);
    let fixed = fixed.map(|times| {
        path_with(path, filters, &times.each_ref().map(|(name, value)| (*name, value.as_str())))
    });
    html! {
        @if !filters.is_empty() || fixed.is_some() {
            ul.filters {
                @for (name, value) in filters {
                    @let without = known.url(&path_with(path, filters, &[(name, "")]));
                    li { a href=(without) { (name) ": " bdi { (words::visible(value)) } " " span aria-hidden="true" { "✕" } span.visually-hidden { " remove" } } }
                }
                @if let Some(fixed) = fixed { li { a href=(known.url(&fixed)) data-link { "Link with these times" } } }
            }
        }
    }
}

/// To the newest and to the next page of a view.
pub(super) fn pages(known: &ConsoleRequest<'_>, view: &str, cursors: Cursors<'_>) -> Markup {
    let join = if view.contains('?') { '&' } else { '?' };
    html! {
        p.pages {
            @if cursors.own.is_some() { a rel="prev" href=(known.url(view)) { "Newest" } }
            @if let Some(next) = cursors.next { a rel="next" href=(known.url(&format!("{view}{join}cursor={}", form_encoded(next)))) { "Older" } }
        }
    }
}

/// Where a page begins, and where the next one does.
pub(super) struct Cursors<'a> {
    pub(super) own: Option<&'a str>,
    pub(super) next: Option<&'a str>,
}
