//! `/console/me`: who the console thinks one is, one's sessions, and preferences.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, LOCATION, SET_COOKIE};
use maud::{Markup, html};
use uuid::Uuid;

use super::cookies;
use super::event_rows;
use super::frame::{ConsolePage, role};
use super::guard::{ConsoleRequest, Incoming, PageAnswer, serve};
use super::words;
use crate::domain::console::{AuthTime, ConsoleSession};
use crate::domain::refusal::Refusal;
use crate::platform::clock::rfc3339;
use crate::platform::fault::Fault;
use crate::services::audit::decisions;
use crate::services::console;

/// Preferences with their values; the first is the default.
const PREFERENCES: [(&str, &str, &[&str]); 4] = [
    ("actchain-zone", "times", &["utc", "local"]),
    ("actchain-theme", "colours", &["system", "light", "dark"]),
    ("actchain-density", "rows", &["normal", "compact"]),
    ("actchain-keys", "keys", &["on", "off"]),
];

pub(super) async fn show(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let sessions = console::list(&known.context).await?;
        let decisions = decisions::own(&known.context).await?;
        let body = html! {
            (body(&known, &sessions)?)
            h2 { "What you did of late" }
            @if decisions.items.is_empty() { p { "Nothing yet that is in the newest events." } }
            @else { (event_rows::table(&known, &decisions)) }
        };
        Ok(PageAnswer::Shown(ConsolePage::new("Me", body)))
    })
    .await
}

fn body(known: &ConsoleRequest<'_>, sessions: &[ConsoleSession]) -> Result<Markup, Fault> {
    let (now, own) = (known.context.now, known.session);
    let prefer = known.url("/console/me/preferences");
    Ok(html! {
        h1 { "Me" }
        dl {
            dt { "person" } dd { @match &own.who { Some(who) => (words::principal(who)), None => "an operator" } }
            dt { "role" } dd {
                (role(own.role))
                @if let Some(by) = &own.role_by { ", because " (words::visible(by)) }
            }
            dt { "signed in" } dd { (words::instant(&rfc3339(own.signed_in_at), now)) }
            dt { "authenticated" } dd {
                (words::instant(&rfc3339(own.authenticated_at), now))
                @if own.auth_time == AuthTime::Unknown { " " span.dim { "at the latest: your issuer did not say when" } }
            }
            dt { "until" } dd { (words::instant(&rfc3339(own.expires_at), now)) }
            dt { "session" } dd { (words::id(&own.id.to_string())) }
        }
        @if !sessions.is_empty() {
            h2 { "Sessions" }
            table.rows {
                thead { tr { th { "signed in" } th { "last seen" } th { "from" } th { "state" } } }
                tbody {
                    @for one in sessions {
                        tr data-row {
                            td data-label="signed in" { (words::instant(&rfc3339(one.signed_in_at), now)) }
                            td data-label="last seen" { (words::instant(&rfc3339(one.last_seen_at), now)) }
                            td data-label="from" { (one.ip.as_deref().unwrap_or_default()) " " span.dim { (words::visible(one.user_agent.as_deref().unwrap_or_default())) } }
                            td data-label="state" {
                                @if one.id == own.id { "this one" }
                                @else if one.is_lasting(now) { (end(known, one)?) }
                                @else { span.dim { "ended" } }
                            }
                        }
                    }
                }
            }
        }
        @if !sessions.is_empty() {
            @let target = known.url("/console/me/sign-out-everywhere");
            form method="post" action=(target) { (known.hidden(&target)?) button type="submit" { "Sign out everywhere" } }
        }
        h2 { "Preferences" }
        form method="post" action=(prefer) {
            (known.hidden(&prefer)?)
            @for (name, label, values) in PREFERENCES {
                @let set = cookies::preference(known.request, name);
                label.field { (label)
                    select name=(name) {
                        @for value in values { option value=(value) selected[set.as_deref() == Some(*value)] { (value) } }
                    }
                }
                " "
            }
            div.moves { button type="submit" { "Keep" } }
        }
    })
}

fn end(known: &ConsoleRequest<'_>, one: &ConsoleSession) -> Result<Markup, Fault> {
    let target = known.url(&format!("/console/me/sessions/{}/end", one.id));
    Ok(
        html! { form method="post" action=(target) { (known.hidden(&target)?) button type="submit" { "End" } } },
    )
}

pub(super) async fn end_session(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let id = Uuid::parse_str(&known.segment("id")).map_err(|_| Refusal::NotFound)?;
        console::end(&known.context, id).await?;
        Ok(PageAnswer::See(known.url("/console/me")))
    })
    .await
}

/// Preferences are cookies of a year: the server keeps none.
pub(super) async fn prefer(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let mut response = HttpResponse::build(StatusCode::SEE_OTHER);
        response
            .insert_header((LOCATION, known.url("/console/me")))
            .insert_header((CACHE_CONTROL, "no-store"));
        for (name, _, values) in PREFERENCES {
            let chosen =
                known.form.get(name).and_then(|chosen| values.iter().find(|value| **value == chosen));
            if let Some(value) = chosen {
                let cookie = cookies::set_preference(&known.url("/console"), name, value)?;
                response.append_header((SET_COOKIE, cookie));
            }
        }
        Ok(PageAnswer::Response(response.finish()))
    })
    .await
}
