//! `/console/check`: whether an exchange would be granted, rule by rule, without effect. A question without a token is a
//! link; a token is sent in a form and never in a URL.

use actix_web::HttpResponse;
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;

use super::agents::agent_path;
use super::frame::ConsolePage;
use super::guard::{ConsoleRequest, Incoming, PageAnswer, serve};
use super::links::form_encoded;
use super::proposals;
use super::words;
use crate::domain::audit::filter::Filter;
use crate::domain::audit::personal::resolved;
use crate::domain::audit::search::Order;
use crate::domain::principal::Principal;
use crate::domain::refusal::{Error, Refusal, catalogue};
use crate::platform::fault::Fault;
use crate::services::audit::query::{self, AuditQuery, LogPage};
use crate::services::token_exchange::{
    CheckResult, ExchangeCheck, ExchangeRule, PresentedSubject, Question, RuleOutcome, check as ask,
};
use actchain_protocol::scope;
use actchain_protocol::token_exchange::RequestedAccess;

/// Refusals of the agent beside the form.
const REFUSALS: usize = 10;

/// The fields of both forms; a token has no place in a query.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct CheckQuery {
    client: String,
    /// The `sub` of the user for whom the agent acts.
    subject: String,
    subject_iss: String,
    /// The delegation under which the subject token was issued.
    via: String,
    scope: String,
    audience: String,
    delegation: String,
}

impl CheckQuery {
    fn of_form(known: &ConsoleRequest<'_>) -> Self {
        let field = |name: &str| known.form.get(name).unwrap_or_default().trim().to_owned();
        Self {
            client: field("client"),
            subject: field("subject"),
            subject_iss: field("subject_iss"),
            via: field("via"),
            scope: field("scope"),
            audience: field("audience"),
            delegation: field("delegation"),
        }
    }

    fn link(&self, known: &ConsoleRequest<'_>) -> String {
        let members = [
            ("client", &self.client),
            ("subject", &self.subject),
            ("subject_iss", &self.subject_iss),
            ("via", &self.via),
            ("scope", &self.scope),
            ("audience", &self.audience),
            ("delegation", &self.delegation),
        ];
        let set = members.into_iter().filter(|(_, value)| !value.is_empty());
        let query: Vec<String> = set.map(|(name, value)| format!("{name}={}", form_encoded(value))).collect();
        format!("{}?{}", known.url("/console/check"), query.join("&"))
    }

    /// The subject of a question without a token.
    fn subject(&self, known: &ConsoleRequest<'_>) -> Result<Option<PresentedSubject>, Refusal> {
        if !self.via.is_empty() {
            return Ok(Some(PresentedSubject::Under(self.via.clone())));
        }
        if self.subject.is_empty() {
            return Ok(None);
        }
        let registry = known.app.registry();
        let iss = match (self.subject_iss.as_str(), registry.issuers.len()) {
            ("", 1) => registry.issuers.keys().next().cloned(),
            ("", _) => None,
            (iss, _) => Some(iss.to_owned()),
        };
        let iss = iss.ok_or(Refusal::Malformed("Name the issuer of the user"))?;
        Ok(Some(PresentedSubject::User(Principal::new(iss, self.subject.clone()))))
    }

    fn question(&self, subject: PresentedSubject) -> Result<Question, Refusal> {
        let set = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let scopes = set(&self.scope).map(|text| scope::parse(&text).ok_or(Refusal::ScopeMalformed));
        let audiences = set(&self.audience);
        Ok(Question {
            subject,
            client_id: self.client.clone(),
            jkt: None,
            wanted: RequestedAccess {
                scopes: scopes.transpose()?,
                audiences: audiences.map(|text| text.split_whitespace().map(str::to_owned).collect()),
                details: None,
                capability: None,
            },
            delegation_id: set(&self.delegation),
        })
    }
}

/// A question without a token. It has no effect, so that it can be a link.
pub(super) async fn show(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let query: CheckQuery = known.query()?;
        let subject = if query.client.is_empty() { None } else { query.subject(&known)? };
        let checked = match subject {
            None => None,
            Some(subject) => Some(answer_to(&known, &query.question(subject)?).await?),
        };
        page(&known, &query, checked.as_ref()).await
    })
    .await
}

/// A question with a token.
pub(super) async fn check(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let query = CheckQuery::of_form(&known);
        let field = |name: &str| known.form.get(name).map(str::trim).filter(|text| !text.is_empty());
        let token = field("subject_token").filter(|_| !query.client.is_empty());
        let missing = Refusal::Malformed("The agent and the subject token are needed");
        let subject = PresentedSubject::Token {
            token: token.ok_or(missing)?.to_owned(),
            token_type: None,
            issuer: field("subject_issuer").map(str::to_owned),
        };
        let checked = answer_to(&known, &query.question(subject)?).await?;
        page(&known, &query, Some(&checked)).await
    })
    .await
}

async fn answer_to(known: &ConsoleRequest<'_>, question: &Question) -> Result<ExchangeCheck, Error> {
    Ok(ExchangeCheck::from(ask(&known.context, known.app, question).await?))
}

async fn page(
    known: &ConsoleRequest<'_>,
    query: &CheckQuery,
    checked: Option<&ExchangeCheck>,
) -> super::guard::PageResult {
    let refusals = match query.client.as_str() {
        "" => None,
        client => Some(refusals_of(known, client).await?),
    };
    let nothing = match &refusals {
        Some(found) if found.next.is_some() => "No refusal of the agent is among the newest events.",
        _ => "The agent was not refused yet.",
    };
    let refusals = match refusals {
        None => None,
        Some(found) => Some(asked_again(known, &found).await?),
    };
    let proposed = proposals::agents(known).await?;
    let body = html! {
        h1 { "Check" }
        p { "Would this exchange be granted, and if not, why? Nothing is issued, counted or recorded." }
        @if let Some(checked) = checked { (answer(known, query, checked)) }
        (forms(known, query)?)
        (proposed)
        (proposals::access(known))
        @if let Some(refusals) = &refusals { (refused(known, refusals, nothing)) }
    };
    Ok(PageAnswer::Shown(ConsolePage::new("Check", body)))
}

fn forms(known: &ConsoleRequest<'_>, query: &CheckQuery) -> Result<Markup, Fault> {
    let here = known.url("/console/check");
    let registry = known.app.registry();
    Ok(html! {
        h2 { "By user" }
        form method="get" action={ (here) "#result" } {
            (shared(query, "named"))
            div.row {
                label.field { "for the user" input name="subject" size="30" value=(query.subject) autocomplete="off"; }
                label.field { "of the issuer"
                    select name="subject_iss" {
                        @for iss in registry.issuers.keys() { option value=(iss) selected[query.subject_iss == *iss] { (iss) } }
                    }
                }
                label.field { "or with a token under the delegation" input name="via" size="40" value=(query.via) autocomplete="off"; }
            }
            div.moves { button.primary type="submit" data-move="c" { "Check" } }
        }
        h2 { "By token" }
        form method="post" action=(here) {
            (known.hidden(&here)?)
            (shared(query, "token"))
            p { label.field { "subject token" textarea name="subject_token" rows="4" cols="72" required autocomplete="off" spellcheck="false" {} } }
            p { label.field { "issuer of an opaque token" input name="subject_issuer" size="40"; } }
            div.moves { button type="submit" { "Check the token" } }
        }
    })
}

/// What both forms ask.
fn shared(query: &CheckQuery, of: &str) -> Markup {
    html! {
        div.row {
            label.field { "agent" input id={ "client-" (of) } name="client" required list=(proposals::AGENTS) value=(query.client) autofocus[query.client.is_empty()]; }
            label.field { "scopes" input id={ "scope-" (of) } name="scope" size="30" list=(proposals::SCOPES) value=(query.scope); }
            label.field { "audiences" input id={ "audience-" (of) } name="audience" size="40" list=(proposals::AUDIENCES) value=(query.audience); }
            label.field { "only by the delegation" input id={ "delegation-" (of) } name="delegation" size="40" value=(query.delegation) autocomplete="off"; }
        }
    }
}

fn answer(known: &ConsoleRequest<'_>, query: &CheckQuery, checked: &ExchangeCheck) -> Markup {
    let now = known.context.now;
    html! {
        h2 #result { @if checked.granted { span.ok { "✓ It would be granted" } } @else { span.bad { "✗ It would be refused" } } }
        ol {
            @for rule in &checked.rules {
                li {
                    @match rule.outcome {
                        RuleOutcome::Met => span.ok { span.mark aria-hidden="true" { "✓" } " " (sentence(rule.rule)) },
                        RuleOutcome::Assumed => span { span.mark aria-hidden="true" { "~" } " " (sentence(rule.rule)) " " span.dim { "(assumed: no token was presented)" } },
                        RuleOutcome::Refused => span.bad { span.mark aria-hidden="true" { "✗" } " Not: " (sentence(rule.rule)) },
                        RuleOutcome::NotReached => span.dim { "– " (sentence(rule.rule)) " (not checked)" },
                    }
                    @if let (RuleOutcome::Refused, CheckResult::Refused { reason, cause, sentence }) = (rule.outcome, &checked.result) {
                        (why(known, query, rule.rule, Why { reason, cause: *cause, sentence }))
                    }
                }
            }
        }
        @if let CheckResult::Granted { scope, audience, expires_at, delegation_path, confirmations_needed } = &checked.result {
            dl {
                dt { "scopes" } dd { code.scope { (scope) } }
                dt { "audiences" } dd { (words::names(Some(&audience.iter().cloned().collect()), "")) }
                dt { "expires" } dd { (words::instant(expires_at, now)) }
                dt { "delegations" } dd { @for id in delegation_path { a href=(known.url(&format!("/console/delegations/{}", form_encoded(id)))) { (words::short(id)) } " " } }
                @if !confirmations_needed.is_empty() { dt { "needs confirmation" } dd { (words::names(Some(confirmations_needed), "")) } }
            }
        }
    }
}

/// What is said about the rule that refuses.
struct Why<'a> {
    reason: &'a str,
    cause: Option<&'a str>,
    sentence: &'a str,
}

fn why(known: &ConsoleRequest<'_>, query: &CheckQuery, rule: ExchangeRule, why: Why<'_>) -> Markup {
    let Why { reason, cause, sentence } = why;
    let (name, place) = place(known, query, rule);
    html! {
        p { (sentence) ". " code { (reason) } @if let Some(cause) = cause { " · " code { (cause) } } }
        @if let Some(entry) = catalogue::find(reason) { p { "What to do: " (entry.advice) } }
        p { a href=(place) { (name) } }
    }
}

/// Where the rule is decided.
fn place(known: &ConsoleRequest<'_>, query: &CheckQuery, rule: ExchangeRule) -> (&'static str, String) {
    let agent = known.url(&agent_path(&query.client));
    let to_it = format!("{}?delegate={}", known.url("/console/delegations"), form_encoded(&query.client));
    match rule {
        ExchangeRule::Client | ExchangeRule::GrantType => ("See the agent", agent),
        ExchangeRule::SubjectToken | ExchangeRule::SubjectActive | ExchangeRule::Lifetime => {
            ("See the issuers", known.url("/console/registry/issuers"))
        }
        ExchangeRule::Actor
        | ExchangeRule::Delegation
        | ExchangeRule::DelegationActive
        | ExchangeRule::Depth
        | ExchangeRule::Capability => ("See the delegations to the agent", to_it),
        ExchangeRule::Resource | ExchangeRule::AuthorizationDetails | ExchangeRule::Scope => {
            ("See the resources and their scopes", known.url("/console/registry/resources"))
        }
    }
}

fn sentence(rule: ExchangeRule) -> &'static str {
    match rule {
        ExchangeRule::Client => "The agent is registered and enabled.",
        ExchangeRule::GrantType => "The agent may exchange tokens.",
        ExchangeRule::SubjectToken => "The subject token is valid, and this agent may present it.",
        ExchangeRule::SubjectActive => "The subject token and all tokens before it are active.",
        ExchangeRule::Actor => "The agent may become an actor of the token.",
        ExchangeRule::Delegation => "A delegation leads from the holder of the token to the agent.",
        ExchangeRule::DelegationActive => "The delegation and those above it are active and have uses left.",
        ExchangeRule::Depth => "The chain is not too long.",
        ExchangeRule::Resource => "The audiences are registered, and the agent may get tokens for them.",
        ExchangeRule::AuthorizationDetails => "The authorization details are within those allowed.",
        ExchangeRule::Scope => "The scopes are allowed, and each audience has them.",
        ExchangeRule::Capability => "The capability is within the ceiling.",
        ExchangeRule::Lifetime => "The new token would not expire at once.",
    }
}

async fn refusals_of(known: &ConsoleRequest<'_>, client: &str) -> Result<LogPage<Value>, Error> {
    let filter = Filter {
        client: Some(client.to_owned()),
        action: Some("oauth.token.refused".to_owned()),
        ..Filter::default()
    };
    let asked = AuditQuery { filter, order: Order::Newest, limit: Some(REFUSALS), ..AuditQuery::default() };
    query::list(&known.context, &asked).await
}

/// A refused exchange, as a question without its token.
struct RefusedExchange {
    at: String,
    reason: String,
    again: CheckQuery,
}

async fn asked_again(
    known: &ConsoleRequest<'_>,
    found: &LogPage<Value>,
) -> Result<Vec<RefusedExchange>, Error> {
    let mut list = Vec::new();
    for event in found.items.iter().map(|event| resolved(event, None, &found.beside.people)) {
        let via = match event.get("act_chain") {
            Some(_) => delegation_of(known, text(&event, "/parent_jti")).await?,
            None => None,
        };
        let again = CheckQuery { via: via.unwrap_or_default(), ..CheckQuery::of_event(&event) };
        let (at, reason) = (text(&event, "/at").to_owned(), text(&event, "/reason").to_owned());
        list.push(RefusedExchange { at, reason, again });
    }
    Ok(list)
}

/// The delegation of a token of this server, by the event of its exchange.
async fn delegation_of(known: &ConsoleRequest<'_>, jti: &str) -> Result<Option<String>, Error> {
    let filter = Filter {
        jti: Some(jti.to_owned()),
        action: Some("oauth.token.exchanged".to_owned()),
        ..Filter::default()
    };
    let asked = AuditQuery { filter, order: Order::Newest, limit: Some(10), ..AuditQuery::default() };
    let found = query::list(&known.context, &asked).await?;
    let issued = found.items.iter().find(|event| text(event, "/jti") == jti);
    Ok(issued.map(|event| text(event, "/delegation_id").to_owned()))
}

fn refused(known: &ConsoleRequest<'_>, found: &[RefusedExchange], nothing: &str) -> Markup {
    let now = known.context.now;
    html! {
        h2 { "Its last refusals" }
        @if found.is_empty() { p { (nothing) } }
        @else {
            table.rows {
                thead { tr { th { "time" } th { "reason" } th { "for" } th { "asked" } th { "" span.visually-hidden { "moves" } } } }
                tbody {
                    @for RefusedExchange { at, reason, again } in found {
                        tr data-row {
                            td data-label="time" { (words::instant(at, now)) }
                            td data-label="reason" { code { (reason) } }
                            td data-label="for" { bdi { (words::visible(&again.subject)) } }
                            td data-label="asked" { code.scope { (words::visible(&again.scope)) } " " code { (words::visible(&again.audience)) } }
                            td data-label="moves" {
                                @if again.subject.is_empty() { span.dim { "its token named no user" } }
                                @else { a href=(again.link(known)) { "check again" } }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn text<'a>(event: &'a Value, at: &str) -> &'a str {
    event.pointer(at).and_then(Value::as_str).unwrap_or_default()
}

impl CheckQuery {
    /// The question of a refused exchange.
    fn of_event(event: &Value) -> Self {
        let audience = event.get("audience").and_then(Value::as_array);
        let audience: Vec<&str> = audience.into_iter().flatten().filter_map(Value::as_str).collect();
        Self {
            client: text(event, "/actor/client_id").to_owned(),
            subject: text(event, "/subject/sub").to_owned(),
            subject_iss: text(event, "/subject/iss").to_owned(),
            via: String::new(),
            scope: text(event, "/scope").to_owned(),
            audience: audience.join(" "),
            delegation: String::new(),
        }
    }
}
