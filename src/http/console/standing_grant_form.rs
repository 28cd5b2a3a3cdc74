//! `/console/standing-grants/new`: a standing grant, filled in from a request of an agent, shown in full before anything is granted.

use actix_web::HttpResponse;
use maud::{Markup, html};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::Duration;

use super::error_page::PageError;
use super::frame::ConsolePage;
use super::guard::{ConsoleRequest, Incoming, PageAnswer, serve};
use super::list_query::YES;
use super::standing_grants::{GRANTS_PATH, grant_path};
use super::{proposals, words};
use crate::domain::delegation::view::View;
use crate::domain::principal::Principal;
use crate::domain::refusal::Refusal;
use crate::platform::fault::{Context as _, Fault};
use crate::services::delegations;
use crate::services::standing_grants::{self, NewStandingGrant};

/// The fields of the form, as they are in the URL and in the form that gives.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct GrantFields {
    /// A request whose limits fill in the form.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grantor_iss: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grantor_sub: Option<String>,
    client_id: String,
    scopes: String,
    audiences: String,
    keys: String,
    capability_ceiling: String,
    authorization_details: String,
    max_ttl: String,
    max_uses: String,
    max_depth: String,
    offline_access: String,
    expires_in: String,
    /// Whether the page shows what would be granted.
    #[serde(skip_serializing_if = "Option::is_none")]
    preview: Option<String>,
}

impl GrantFields {
    /// The limits of a request.
    fn of_request(one: &View) -> Result<Self, Fault> {
        let number = |number: Option<i64>| number.map(|number| number.to_string()).unwrap_or_default();
        let names =
            |names: &Option<Vec<String>>| names.iter().flatten().cloned().collect::<Vec<_>>().join(" ");
        let details = one.authorization_details.as_ref().map(serde_json::to_string).transpose();
        Ok(Self {
            grantor_iss: Some(one.delegator.iss.clone()),
            grantor_sub: Some(one.delegator.sub.clone()),
            client_id: one.delegate.clone(),
            scopes: names(&one.scopes),
            audiences: names(&one.audiences),
            capability_ceiling: one.capability_ceiling.clone().unwrap_or_default(),
            authorization_details: details.context("writing authorization details")?.unwrap_or_default(),
            max_ttl: number(one.expires_in.map(i64::from)),
            max_uses: number(one.max_uses),
            max_depth: number(one.max_depth.map(i64::from)),
            offline_access: if one.offline_access { YES.to_owned() } else { String::new() },
            ..Self::default()
        })
    }

    fn of_form(known: &ConsoleRequest<'_>) -> Self {
        let text = |name: &str| known.form.get(name).unwrap_or_default().to_owned();
        let set = |name: &str| known.form.get(name).filter(|text| !text.is_empty()).map(str::to_owned);
        Self {
            from: None,
            grantor_iss: set("grantor_iss"),
            grantor_sub: set("grantor_sub"),
            client_id: text("client_id"),
            scopes: text("scopes"),
            audiences: text("audiences"),
            keys: text("keys"),
            capability_ceiling: text("capability_ceiling"),
            authorization_details: text("authorization_details"),
            max_ttl: text("max_ttl"),
            max_uses: text("max_uses"),
            max_depth: text("max_depth"),
            offline_access: text("offline_access"),
            expires_in: text("expires_in"),
            preview: None,
        }
    }

    /// Names and values of the fields of the form that grants.
    fn pairs(&self) -> Vec<(&'static str, &str)> {
        let optional = [("grantor_iss", &self.grantor_iss), ("grantor_sub", &self.grantor_sub)];
        let optional = optional.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)));
        let texts = [
            ("client_id", &self.client_id),
            ("scopes", &self.scopes),
            ("audiences", &self.audiences),
            ("keys", &self.keys),
            ("capability_ceiling", &self.capability_ceiling),
            ("authorization_details", &self.authorization_details),
            ("max_ttl", &self.max_ttl),
            ("max_uses", &self.max_uses),
            ("max_depth", &self.max_depth),
            ("offline_access", &self.offline_access),
            ("expires_in", &self.expires_in),
        ];
        optional.chain(texts.into_iter().map(|(name, value)| (name, value.as_str()))).collect()
    }

    fn query(&self) -> String {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(self.pairs()).append_pair("preview", YES);
        query.finish()
    }

    /// # Errors
    /// Names the field that cannot be read.
    fn request(&self) -> Result<NewStandingGrant, PageError> {
        let names = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let number = |name: &'static str, text: &str| match text.trim() {
            "" => Ok(None),
            text => match text.parse::<u32>() {
                Ok(number) if number > 0 => Ok(Some(number)),
                _ => Err(PageError::Field {
                    name,
                    sentence: "Give a number of at least 1, or leave it empty.",
                }),
            },
        };
        let details = match self.authorization_details.trim() {
            "" => None,
            text => Some(serde_json::from_str::<Value>(text).map_err(|_| PageError::Field {
                name: "authorization_details",
                sentence: "Give a JSON list of objects, or leave it empty.",
            })?),
        };
        let set = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        Ok(NewStandingGrant {
            grantor: self
                .grantor_iss
                .clone()
                .zip(self.grantor_sub.clone())
                .map(|(iss, sub)| Principal { iss, sub }),
            client_id: self.client_id.trim().to_owned(),
            keys: Some(names(&self.keys)).filter(|keys| !keys.is_empty()),
            scopes: names(&self.scopes),
            audiences: names(&self.audiences),
            authorization_details: details,
            capability_ceiling: set(&self.capability_ceiling),
            max_ttl: number("max_ttl", &self.max_ttl)?,
            max_uses: number("max_uses", &self.max_uses)?,
            max_depth: number("max_depth", &self.max_depth)?,
            offline_access: self.offline_access == YES,
            expires_in: number("expires_in", &self.expires_in)?,
        })
    }
}

pub(super) async fn new(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let mut fields: GrantFields = known.query()?;
        if let Some(id) = &fields.from {
            let request = delegations::show(&known.context, id).await?;
            let keys = standing_grants::keys_of_request(&known.context, &request).await?.join(" ");
            fields = GrantFields { keys, ..GrantFields::of_request(&request)? };
        }
        let typed = fields.clone();
        // The person sees which keys are pinned, and grants with no others.
        if fields.preview.is_some() && fields.keys.trim().is_empty() {
            fields.keys =
                standing_grants::keys_of_agent(&known.context, fields.client_id.trim()).await?.join(" ");
        }
        let body = match fields.preview {
            Some(_) => preview(&known, &typed, &fields)?,
            None => form(&known, &fields, proposals::agents(&known).await?),
        };
        Ok(PageAnswer::Shown(ConsolePage::new("New standing grant", body)))
    })
    .await
}

fn form(known: &ConsoleRequest<'_>, fields: &GrantFields, proposed: Markup) -> Markup {
    let text = |label: &str, name: &str, value: &str| html! { label.field { (label) input name=(name) value=(value) size="40"; } };
    let number = |label: &str, name: &str, value: &str| html! { label.field { (label) input type="number" name=(name) min="1" value=(value); } };
    html! {
        p { a href=(known.url(GRANTS_PATH)) data-back { "Standing grants" } }
        h1 { "Always allow an agent, within limits" }
        p { "Requests of the agent within these limits become active without a click. The next page shows all of it before anything is granted." }
        (proposed)
        form method="get" action=(known.url(&format!("{GRANTS_PATH}/new"))) {
            input type="hidden" name="preview" value=(YES);
            label.field { "Agent" input name="client_id" list=(proposals::AGENTS) value=(fields.client_id) required size="40"; }
            (text("Scopes, with spaces between", "scopes", &fields.scopes))
            (text("Targets, with spaces between", "audiences", &fields.audiences))
            (text("Highest capability (empty: any)", "capability_ceiling", &fields.capability_ceiling))
            (text("Authorization details as JSON (empty: any)", "authorization_details", &fields.authorization_details))
            fieldset {
                legend { "Each delegation at most" }
                (number("Seconds (empty: as by default)", "max_ttl", &fields.max_ttl))
                (number("Uses (empty: any number)", "max_uses", &fields.max_uses))
                (number("Agents in a row (empty: any number)", "max_depth", &fields.max_depth))
                label { input type="checkbox" name="offline_access" value=(YES) checked[fields.offline_access == YES]; "It may work while the user is away" }
            }
            (number("Ends after seconds (empty: as by default)", "expires_in", &fields.expires_in))
            (text("Thumbprints of the agent's keys (empty: its registered keys)", "keys", &fields.keys))
            @if known.context.caller.administers() {
                fieldset {
                    legend { "For whom" }
                    label.field { "Issuer" input name="grantor_iss" value=[fields.grantor_iss.as_deref()] size="40"; }
                    label.field { "Name at the issuer" input name="grantor_sub" value=[fields.grantor_sub.as_deref()] size="40"; }
                }
            }
            div.moves { button.primary type="submit" { "See what it gives" } }
        }
    }
}

/// What would be granted, in full, with the form that grants it, and a link back to what was typed.
fn preview(
    known: &ConsoleRequest<'_>,
    typed: &GrantFields,
    fields: &GrantFields,
) -> Result<Markup, PageError> {
    let request = fields.request()?;
    let target = known.url(&format!("{GRANTS_PATH}/new"));
    let settings = &known.app.config;
    let ttl = request.max_ttl.unwrap_or(settings.delegations.default_ttl).min(settings.delegations.max_ttl);
    let life = request
        .expires_in
        .unwrap_or(settings.standing_grants.default_ttl)
        .min(settings.standing_grants.max_ttl);
    let duration = |seconds: u32| words::duration(Duration::seconds(seconds.into()));
    Ok(html! {
        p { a href={ (target) "?" (typed.query().replace(&format!("&preview={YES}"), "")) } data-back { "Change it" } }
        h1 { "Always allow " bdi { (words::visible(&request.client_id)) } "?" }
        @if known.context.caller.administers() && request.grantor.is_some() {
            p.note { span.warn { span.mark aria-hidden="true" { "!" } " You give as an administrator, in place of this user." } " The log will say so." }
        }
        p {
            "For " (duration(life)) " it may use " (words::names(Some(&request.scopes), "")) " at " (words::names(Some(&request.audiences), ""))
            " as often as it asks, without a click. Each time it gets at most " (duration(ttl)) ", "
            @match request.max_uses { None => "any number of uses", Some(most) => { (most) " uses" } }
            ", and "
            @match request.max_depth { None => "may pass it on", Some(1) => "may not pass it on", Some(most) => { "may pass it on (" (most) " deep)" } }
            "."
            @if request.offline_access { " Until a delegation ends, it may work under it without you, with a refresh token." }
        }
        dl {
            @if let Some(who) = &request.grantor { dt { "user" } dd { (words::principal(who)) } }
            dt { "highest capability" } dd { @match &request.capability_ceiling { Some(name) => code { (words::visible(name)) }, None => "any capability" } }
            dt { "authorization details" } dd { @match fields.authorization_details.trim() { "" => "any details", details => pre { (words::visible(details)) } } }
            dt { "keys" } dd { @match &request.keys { Some(keys) => { @for jkt in keys { (words::id(jkt)) " " } }, None => span.warn { span.mark aria-hidden="true" { "!" } " none: the agent has registered no key" } } }
        }
        p { "Requests that wait now stay as they are. Another key of the agent suspends the standing grant until you confirm the key." }
        form method="post" action=(target) {
            (known.hidden(&target)?)
            @for (name, value) in fields.pairs() { input type="hidden" name=(name) value=(value); }
            div.moves { button.primary type="submit" data-move="a" { "Always allow" } a href=(known.url(GRANTS_PATH)) { "Cancel" } }
        }
    })
}

pub(super) async fn create(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let fields = GrantFields::of_form(&known);
        let request = fields.request()?;
        if request.scopes.is_empty() || request.audiences.is_empty() {
            return Err(Refusal::Malformed("Name at least one scope and one target").into());
        }
        // Nothing is pinned but what the preview has shown.
        if request.keys.is_none() {
            return Err(Refusal::Malformed(
                "The agent has registered no key: name the thumbprint of its key",
            )
            .into());
        }
        known.require_fresh_keeping(Some(fields.query()))?;
        let made = standing_grants::create(&known.context, &request).await?;
        Ok(PageAnswer::See(known.url(&grant_path(&made.value.id))))
    })
    .await
}
