//! Which session reported steps are in. Pure.

use time::OffsetDateTime;

use super::MAX_IDLE;
use super::names::NameMeaning;

/// The name in a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportedName {
    pub name: String,
    /// What it is to the client.
    pub meaning: NameMeaning,
}

/// The newest exchange under a delegation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewestExchange {
    pub session_id: String,
    pub at: OffsetDateTime,
}

/// A session as it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WantedSession<'a> {
    /// The one with this id.
    Id(&'a str),
    /// The one to which the client gave this name.
    Named(&'a str),
    /// The one that goes on.
    Continued,
}

impl<'a> WantedSession<'a> {
    /// The session of a report. Without a name, it is the session of the newest exchange under the delegation, else the one
    /// that goes on.
    pub fn of_report(
        name: Option<&'a ReportedName>,
        newest: Option<&'a NewestExchange>,
        now: OffsetDateTime,
    ) -> Self {
        match name {
            Some(ReportedName { name, meaning: NameMeaning::Id }) => Self::Id(name),
            // An exchange within the last minute may be the first one in the session of this id.
            Some(ReportedName { name, .. }) if newest.is_some_and(|one| one.session_id == *name) => {
                Self::Id(name)
            }
            Some(ReportedName { name, .. }) => Self::Named(name),
            None => match newest.filter(|one| now - one.at <= MAX_IDLE) {
                Some(one) => Self::Id(&one.session_id),
                None => Self::Continued,
            },
        }
    }
}
