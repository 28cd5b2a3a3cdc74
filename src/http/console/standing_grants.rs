//! `/console/standing-grants`: lasting consents, newest first.

use actix_web::HttpResponse;
use maud::{Markup, html};
use serde::Deserialize;
use time::Duration;

use super::error_page::PageError;
use super::frame::ConsolePage;
use super::guard::{ConsoleRequest, Incoming, PageAnswer, serve};
use super::list_query::{self, Cursors, SetFilter};
use super::{live, proposals, who, words};
use crate::domain::console::ConsoleRole;
use crate::domain::delegation::waiting::BoundedCount;
use crate::domain::standing_grant::StandingGrantState;
use crate::domain::standing_grant::list::StandingGrantFilter;
use crate::domain::standing_grant::view::StandingGrantView;
use crate::services::page::PageRequest;
use crate::services::standing_grants::{self, RecentRefusals};

pub(super) const GRANTS_PATH: &str = "/console/standing-grants";
const ROWS: u32 = 20;
const STATES: [&str; 5] = ["", "active", "suspended", "expired", "revoked"];

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct GrantsQuery {
    state: Option<String>,
    agent: Option<String>,
    cursor: Option<String>,
}

impl GrantsQuery {
    fn filters(&self) -> Vec<SetFilter<'_>> {
        list_query::set([("state", &self.state), ("agent", &self.agent)])
    }

    fn filter(&self) -> Result<StandingGrantFilter, PageError> {
        let filters = self.filters();
        let sentence = "A state is active, suspended, expired or revoked.";
        let state = list_query::value(&filters, "state").map(str::parse::<StandingGrantState>);
        Ok(StandingGrantFilter {
            grantor: None,
            client_id: list_query::value(&filters, "agent").map(str::to_owned),
            state: state.transpose().map_err(|_| PageError::Field { name: "state", sentence })?,
            ends_before: None,
        })
    }
}

pub(super) async fn list(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let query: GrantsQuery = known.query()?;
        let page = PageRequest { cursor: query.cursor.clone(), limit: Some(ROWS) };
        let found = standing_grants::list(&known.context, &query.filter()?, &page).await?;
        let mut rows = Vec::with_capacity(found.items.len());
        let mut connection = known.context.pool.acquire().await?;
        let refusals = RecentRefusals::begin(&mut connection, known.context.now).await?;
        for one in &found.items {
            let refused = refusals.count(&mut connection, &one.id, &one.client_id).await?;
            rows.push(row(&known, one, &refused));
        }
        drop(connection);
        let proposed = proposals::agents(&known).await?;
        let cursors = Cursors { own: query.cursor.as_deref(), next: found.next.as_deref() };
        let body = html! {
            h1 { "Standing grants" }
            p { "Requests of an agent that are within one of these become active without a click." }
            p { a.button href=(known.url(&format!("{GRANTS_PATH}/new"))) data-move="c" { "New standing grant…" } }
            (form(&known, &query))
            (proposed)
            @if rows.is_empty() { (nothing(&known, &query)) }
            @else {
                table.rows {
                    thead { tr {
                        th { "state" } th { "agent" } @if !known.has_role(ConsoleRole::User) { th { "user" } }
                        th { "scopes and targets" } th { "each delegation at most" } th { "ends" } th { "last used" } th { "refused of late" }
                    } }
                    tbody { @for row in &rows { (row) } }
                }
            }
            (list_query::pages(&known, &list_query::path_with(GRANTS_PATH, &query.filters(), &[]), cursors))
        };
        let feed = live::grants_feed(found.items.iter().map(|one| one.id.as_str()));
        Ok(PageAnswer::Shown(ConsolePage { feed, ..ConsolePage::new("Standing grants", body) }))
    })
    .await
}

fn form(known: &ConsoleRequest<'_>, query: &GrantsQuery) -> Markup {
    let filters = query.filters();
    let value = |name| list_query::value(&filters, name);
    html! {
        form.filter method="get" action=(known.url(GRANTS_PATH)) {
            label.field { "state"
                select name="state" data-move="f" {
                    @for name in STATES {
                        option value=(name) selected[value("state").unwrap_or_default() == name] { (if name.is_empty() { "any" } else { name }) }
                    }
                }
            }
            label.field { "agent" input name="agent" list=(proposals::AGENTS) value=[value("agent")] size="18"; }
            button type="submit" { "Show" }
        }
        (list_query::removable(known, GRANTS_PATH, &filters, None))
    }
}

fn nothing(known: &ConsoleRequest<'_>, query: &GrantsQuery) -> Markup {
    html! {
        @if query.filters().is_empty() && query.cursor.is_none() {
            p { "There is none yet. “Always allow…” on the request of an agent makes one, filled in; or begin with “New standing grant”." }
        } @else { p { "Nothing matches. " a href=(known.url(GRANTS_PATH)) { "Show all" } } }
    }
}

fn row(known: &ConsoleRequest<'_>, one: &StandingGrantView, refused: &BoundedCount) -> Markup {
    let now = known.context.now;
    let page = known.url(&grant_path(&one.id));
    html! {
        tr data-row {
            td data-label="state" { a href=(page) { span data-state-of=(one.id) { (words::grant_state(one.state)) } } }
            td data-label="agent" { bdi { (words::visible(&one.client_id)) } }
            @if !known.has_role(ConsoleRole::User) { td data-label="user" { (who::link(known, &one.grantor)) } }
            td data-label="scopes and targets" { (words::names(Some(&one.scopes), "")) " at " (words::names(Some(&one.audiences), "")) }
            td data-label="each delegation at most" { (each(one)) }
            td data-label="ends" {
                (words::deadline(&one.expires_at, now))
                @if one.state == StandingGrantState::Active { " " a href={ (page) "#renew" } { "renew" } }
            }
            td data-label="last used" { @match &one.last_used_at { Some(at) => (words::instant(at, now)), None => span.dim { "never" } } }
            td data-label="refused of late" { span data-refused-of=(one.id) { (words::bounded(refused)) } }
        }
    }
}

/// The path of the page of a standing grant.
pub(super) fn grant_path(id: &str) -> String {
    format!("{GRANTS_PATH}/{id}")
}

/// The most that each delegation gets, in words.
pub(super) fn each(one: &StandingGrantView) -> Markup {
    html! {
        (words::duration(Duration::seconds(one.max_ttl.into()))) ", "
        @match one.max_uses { None => "any number of uses", Some(1) => "one use", Some(most) => { (most) " uses" } }
        ", "
        @match one.max_depth { None => "any depth", Some(1) => "not passed on", Some(most) => { (most) " agents in a row" } }
        @if one.offline_access { ", also while the user is away" }
    }
}
