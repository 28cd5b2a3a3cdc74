//! Who may come to a route. The table itself is in `mod.rs`, with the handlers; requests carry the lookup in it.

use actix_web::HttpRequest;

use crate::domain::console::ConsoleRole;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConsoleMethod {
    Get,
    Post,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RouteAccess {
    /// No session is needed.
    Public,
    Roles(&'static [ConsoleRole]),
}

/// Finds the access to a path of the table.
#[derive(Debug, Clone, Copy)]
pub(super) struct AccessTable(pub(super) fn(ConsoleMethod, &str) -> RouteAccess);

/// The access to a path below the issuer, by the table of this server. A path that is not in the table has no roles.
pub(super) fn access_to(request: &HttpRequest, method: ConsoleMethod, path: &str) -> RouteAccess {
    request.app_data::<AccessTable>().map_or(RouteAccess::Roles(&[]), |table| (table.0)(method, path))
}
