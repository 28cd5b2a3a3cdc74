//! `/console/settings`: the configuration in force, this server and its database, and an examination on request.

use actix_web::HttpResponse;
use maud::{Markup, html};

use super::frame::ConsolePage;
use super::guard::{ConsoleRequest, Incoming, PageAnswer, PageResult, serve};
use super::words;
use crate::platform::clock::rfc3339;
use crate::platform::config::{Setting, SettingSource, SettingValue};
use crate::platform::db::Schema;
use crate::platform::fault::Fault;
use crate::services::doctor::{Examination, examine_server};
use crate::services::server_facts::{ServerFacts, server_facts};

const DOCTOR: &str = "/console/settings/doctor";

pub(super) async fn show(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| page(&known, None).await).await
}

pub(super) async fn examine(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let examination = examine_server(&known.context, known.app).await?;
        page(&known, Some(&examination)).await
    })
    .await
}

async fn page(known: &ConsoleRequest<'_>, examination: Option<&Examination>) -> PageResult {
    let facts = server_facts(&known.context).await?;
    let settings = known.app.config.settings()?;
    Ok(PageAnswer::Shown(ConsolePage::new("Settings", body(known, &facts, &settings, examination)?)))
}

fn body(
    known: &ConsoleRequest<'_>,
    facts: &ServerFacts,
    settings: &[Setting],
    examination: Option<&Examination>,
) -> Result<Markup, Fault> {
    let doctor = known.url(DOCTOR);
    let now = known.context.now;
    Ok(html! {
        h1 { "Settings" }
        p { "Read-only. The file and the variables of the server decide; a change needs a restart." }
        h2 { "This server" }
        dl {
            dt { "version" } dd { (env!("CARGO_PKG_VERSION")) }
            dt { "process" } dd { (std::process::id()) }
            dt { "database" } dd { "PostgreSQL " (facts.postgresql) }
            dt { "schema" } dd {
                "migration " (facts.schema_version)
                @if facts.schema == Schema::Current { ", current" } @else { ", " span.bad { "the database has other migrations: restart this server with the program that migrated it" } }
            }
            @match &facts.started_last {
                Some(server) => {
                    dt { "started last" }
                    dd {
                        code { (server.listen) } ", process " (server.pid) ", " (words::instant(&rfc3339(server.started_at), now))
                        @if server.pid != i64::from(std::process::id()) { " (not this server)" }
                    }
                },
                None => {},
            }
        }
        h2 #doctor { "Examination" }
        p { "Checks the database, the log, the keys, and whether trusted issuers answer. It changes nothing and takes at most 20 seconds." }
        @if let Some(examination) = examination { (report(examination)) }
        form method="post" action=(doctor) {
            (known.hidden(&doctor)?)
            div.moves { button type="submit" data-move="c" { "Examine this server" } }
        }
        h2 { "Configuration" }
        table.rows {
            thead { tr { th { "key" } th { "value" } th { "from" } } }
            tbody {
                @for one in settings {
                    tr data-row {
                        td data-label="key" { code { (one.key) } }
                        td data-label="value" { (value(&one.value)) }
                        td data-label="from" { (source(&one.source)) }
                    }
                }
            }
        }
    })
}

fn value(value: &SettingValue) -> Markup {
    html! {
        @match value {
            SettingValue::Unset => span.dim { "not set" },
            SettingValue::Secret => "set",
            SettingValue::Text(text) => code { (words::visible(text)) },
        }
    }
}

fn source(source: &SettingSource) -> Markup {
    html! {
        @match source {
            SettingSource::Default => span.dim { "default" },
            SettingSource::File(name) => { "file " code { (words::visible(name)) } },
            SettingSource::Variable(name) => { "variable " code { (name) } },
        }
    }
}

fn report(examination: &Examination) -> Markup {
    let report = match examination {
        Examination::Busy => {
            return html! { p.warn role="status" { span.mark aria-hidden="true" { "!" } " Another examination of this server is not over. Try again in a moment." } };
        }
        Examination::Done(report) => report,
    };
    html! {
        p role="status" {
            @if report.is_well() { span.ok { span.mark aria-hidden="true" { "✓" } " Nothing is wrong." } }
            @else { span.bad { span.mark aria-hidden="true" { "✗" } " Something is wrong." } }
        }
        ul {
            @for finding in &report.findings {
                li {
                    @match &finding.problem {
                        None => { span.ok { span.mark aria-hidden="true" { "✓" } } " " (words::visible(&finding.check)) },
                        Some(problem) => { span.bad { span.mark aria-hidden="true" { "✗" } " " (words::visible(&finding.check)) ": " (words::visible(problem)) } },
                    }
                    @if !finding.warnings.is_empty() {
                        ul { @for warning in &finding.warnings { li { span.warn { span.mark aria-hidden="true" { "!" } " " (words::visible(warning)) } } } }
                    }
                }
            }
        }
    }
}
