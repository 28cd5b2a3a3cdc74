//! `/console/check`: whether an exchange would be granted, rule by rule, without effect.

use actix_web::HttpResponse;
use maud::{Markup, html};

use super::frame::ConsolePage;
use super::guard::{ConsoleRequest, Incoming, PageAnswer, serve};
use super::words;
use crate::domain::refusal::Refusal;
use crate::platform::fault::Fault;
use crate::services::token_exchange::{
    CheckResult, ExchangeCheck, ExchangeRule, Question, RuleOutcome, check as ask,
};
use actchain_protocol::scope;
use actchain_protocol::token_exchange::RequestedAccess;

pub(super) async fn show(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| Ok(PageAnswer::Shown(ConsolePage::new("Check", body(&known, None)?)))).await
}

pub(super) async fn check(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let question = question(&known)?;
        let checked = ExchangeCheck::from(ask(&known.context, known.app, &question).await?);
        Ok(PageAnswer::Shown(ConsolePage::new("Check", body(&known, Some(&checked))?)))
    })
    .await
}

fn question(known: &ConsoleRequest<'_>) -> Result<Question, Refusal> {
    let field = |name: &str| known.form.get(name).map(str::trim).filter(|text| !text.is_empty());
    let scopes = field("scope").map(|text| scope::parse(text).ok_or(Refusal::ScopeMalformed)).transpose()?;
    let missing = Refusal::Malformed("The client and the subject token are needed");
    Ok(Question {
        token: field("subject_token").ok_or(missing)?.to_owned(),
        token_type: None,
        subject_issuer: field("subject_issuer").map(str::to_owned),
        client_id: field("client_id").ok_or(missing)?.to_owned(),
        jkt: None,
        wanted: RequestedAccess {
            scopes,
            audiences: field("at").map(|text| text.split_whitespace().map(str::to_owned).collect()),
            details: None,
            capability: None,
        },
        delegation_id: field("delegation_id").map(str::to_owned),
    })
}

fn body(known: &ConsoleRequest<'_>, checked: Option<&ExchangeCheck>) -> Result<Markup, Fault> {
    let here = known.url("/console/check");
    let before = |name: &str| known.form.get(name).unwrap_or_default().to_owned();
    Ok(html! {
        h1 { "Check" }
        p { "Would this exchange be granted, and if not, why? Nothing is issued, counted or recorded." }
        @if let Some(checked) = checked { (answer(known, checked)) }
        form method="post" action=(here) {
            (known.hidden(&here)?)
            p { label.field { "agent" input name="client_id" required value=(before("client_id")); } }
            p { label.field { "subject token" textarea name="subject_token" rows="4" cols="72" required autocomplete="off" spellcheck="false" {} } }
            p { label.field { "issuer of an opaque token" input name="subject_issuer" value=(before("subject_issuer")); } }
            p { label.field { "scopes" input name="scope" size="40" value=(before("scope")); } }
            p { label.field { "audiences" input name="at" size="40" value=(before("at")); } }
            p { label.field { "delegation" input name="delegation_id" size="40" value=(before("delegation_id")); } }
            div.moves { button.primary type="submit" data-move="c" { "Check" } }
        }
    })
}

fn answer(known: &ConsoleRequest<'_>, checked: &ExchangeCheck) -> Markup {
    html! {
        h2 { @if checked.granted { span.ok { "✓ It would be granted" } } @else { span.bad { "✗ It would be refused" } } }
        ol {
            @for rule in &checked.rules {
                li {
                    @match rule.outcome {
                        RuleOutcome::Met => span.ok { span.mark aria-hidden="true" { "✓" } " " (sentence(rule.rule)) },
                        RuleOutcome::Refused => span.bad { span.mark aria-hidden="true" { "✗" } " Not: " (sentence(rule.rule)) },
                        RuleOutcome::NotReached => span.dim { "– " (sentence(rule.rule)) " (not checked)" },
                    }
                }
            }
        }
        @match &checked.result {
            CheckResult::Refused { reason, cause, sentence } => {
                p { (sentence) }
                p.dim { code { (reason) } @if let Some(cause) = cause { " · " code { (cause) } } }
            }
            CheckResult::Granted { scope, audience, expires_at, delegation_path, confirmations_needed } => dl {
                dt { "scopes" } dd { code.scope { (scope) } }
                dt { "audiences" } dd { (words::names(Some(&audience.iter().cloned().collect()), "")) }
                dt { "expires" } dd { (words::instant(expires_at, known.context.now)) }
                dt { "delegations" } dd { @for id in delegation_path { a href=(known.url(&format!("/console/delegations/{id}"))) { (words::short(id)) } " " } }
                @if !confirmations_needed.is_empty() { dt { "needs confirmation" } dd { (words::names(Some(confirmations_needed), "")) } }
            },
        }
    }
}

fn sentence(rule: ExchangeRule) -> &'static str {
    match rule {
        ExchangeRule::Client => "The agent is registered and enabled.",
        ExchangeRule::GrantType => "The agent may exchange tokens.",
        ExchangeRule::SubjectToken => "The subject token is valid, and this agent may present it.",
        ExchangeRule::SubjectActive => "The subject token and all tokens before it are active.",
        ExchangeRule::Authority => "A delegation gives what is asked.",
    }
}
