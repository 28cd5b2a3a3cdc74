//! Token introspection (RFC 7662), for the resource servers that the token is for.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use sqlx::PgConnection;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::client_request::{self, ClientCredentialsInput, KnownClient};
use super::issue::seconds;
use super::own_token;
use crate::app::App;
use crate::domain::client::{Client, ClientKind, GrantType};
use crate::domain::delegation;
use crate::domain::delegation::candidates::Memory;
use crate::domain::limit::Limit;
use crate::domain::refresh_token;
use crate::domain::refusal::Error;
use crate::domain::resource::Resource;
use crate::domain::token::TokenStatus;
use crate::domain::token::status_reader::{StatusAnswer, StatusQuestion};
use crate::platform::fault::{Context as _, Fault};
use actchain_protocol::access_token::Claims;
use actchain_protocol::authorization_details::Details;
use actchain_protocol::introspection::{self, Form, VisibleClaims};
use actchain_protocol::scope;

/// The format of a response.
#[derive(Debug, Clone, PartialEq)]
pub enum IntrospectionAnswer {
    Json(Value),
    Jwt(String),
}

/// Introspects a token for the caller. Every token that is not active for the caller has the same response.
pub async fn introspect(
    app: &App,
    request: &ClientCredentialsInput,
    token: &str,
    form: Form,
    now: OffsetDateTime,
) -> Result<IntrospectionAnswer, Error> {
    let authenticated = client_request::authenticate(app, request, now, Memory::Usable).await?;
    let claims = own_token::find(app, token, now).await?;
    let jti = claims.as_ref().map(|claims| Uuid::parse_str(&claims.jti)).transpose();
    let question = StatusQuestion {
        client_id: Some(authenticated.client.client_id.clone()),
        jti: jti.context("the id of a token of this server")?,
    };
    // One read for the client, the registry and the token.
    let mut stored = app.statuses.read(question.clone()).await?;
    let known = KnownClient { authenticated, stored: stored.client_version };
    let waits = known.has_changed() || known.asserts() || !matches!(request.proof, Ok(None));
    let client = client_request::proven(app, request, known, now).await?;
    if waits {
        // A revocation may have been answered while the client was proven.
        stored = app.statuses.read(question).await?;
    }
    let answer = match (claims, refresh_token::digest(token)) {
        (Some(claims), _) => {
            of_access_token(app, &client, ReadToken { claims: &claims, stored }, now).await?
        }
        (None, Some(digest)) => of_refresh_token(app, &client, &digest, now).await?,
        (None, None) => None,
    };
    let answer = answer.unwrap_or_else(introspection::inactive);
    match form {
        Form::Json => Ok(IntrospectionAnswer::Json(answer)),
        Form::Jwt => {
            let claims = introspection::signed_claims(&app.issuer, &client.client_id, seconds(now), answer);
            Ok(IntrospectionAnswer::Jwt(app.keyring().active.sign(introspection::TYP, &claims)?))
        }
    }
}

/// An access token, and what is stored of it.
struct ReadToken<'a> {
    claims: &'a Claims,
    stored: StatusAnswer,
}

async fn of_access_token(
    app: &App,
    client: &Client,
    ReadToken { claims, stored }: ReadToken<'_>,
    now: OffsetDateTime,
) -> Result<Option<Value>, Error> {
    let registry = app.registry_at(stored.registry_version).await?;
    let meant = |name: &&String| client.audiences.contains(*name);
    let targets: Vec<&Resource> =
        claims.aud.values().iter().filter(meant).filter_map(|name| registry.resources.get(name)).collect();
    if client.kind != ClientKind::ResourceServer || targets.is_empty() {
        return Ok(None);
    }
    let Some(standing) = stored.token else { return Ok(None) };
    if standing.check(now).is_err() {
        return Ok(None);
    }
    Ok(Some(tell(claims, &standing, &targets, now)?))
}

/// A refresh token, for its own client. `scope` is the most that its tokens can have.
async fn of_refresh_token(
    app: &App,
    client: &Client,
    digest: &[u8; 32],
    now: OffsetDateTime,
) -> Result<Option<Value>, Error> {
    let find = async |connection: &mut PgConnection| {
        let found = refresh_token::store::find(&app.rows, connection, digest).await?;
        let Some(found) = found.filter(|found| found.token.client_id == client.client_id) else {
            return Ok(None);
        };
        let path = delegation::store::path(&app.rows, connection, &found.token.delegation_id).await?;
        Ok(path.map(|path| (found, path)))
    };
    let Some((found, path)) = app.read(find).await? else { return Ok(None) };
    let max_idle = Duration::seconds(app.config.offline.max_idle.into());
    let is_active = client.grant_types.contains(&GrantType::RefreshToken)
        && found.problem.is_none()
        && found.check(max_idle, now).is_ok()
        && path.check(now).is_ok()
        && path.0.iter().all(|one| one.terms.offline_access);
    if !is_active {
        return Ok(None);
    }
    let registry = app.current_registry().await?;
    let token = &found.token;
    let ends = path.0.iter().map(|one| one.facts.expires_at).min();
    let ends = ends.map_or(found.last_used_at + max_idle, |end| end.min(found.last_used_at + max_idle));
    let mut answer = json!({
        "active": true,
        "iss": app.issuer,
        "sub": registry.subject_claim(&token.subject, &app.issuer),
        "client_id": token.client_id,
        "iat": seconds(token.issued_at),
        "exp": seconds(ends),
        "cnf": {"jkt": token.jkt},
        "act": token.granted.act,
        "dlg": token.delegation_id,
        "txn": token.txn,
        "delegation": {"id": token.delegation_id, "state": path.state(now).0, "path": path.ids()},
    });
    let limits = path.0.iter().map(|one| one.terms.scopes.clone());
    let limits = limits.chain([Limit::from_stored(token.granted.scopes.clone())]);
    let scopes = limits.fold(Limit::Only(client.scopes.clone()), |scopes, limit| scopes.intersect(&limit));
    if let (Limit::Only(scopes), Some(members)) = (scopes, answer.as_object_mut()) {
        members.insert("scope".to_owned(), Value::String(scope::join(&scopes)));
    }
    Ok(Some(answer))
}

/// The response members for the caller: of a token for several resources, only the caller's own scopes and details.
fn tell(
    claims: &Claims,
    standing: &TokenStatus,
    targets: &[&Resource],
    now: OffsetDateTime,
) -> Result<Value, Fault> {
    let granted = match claims.scope.as_str() {
        "" => BTreeSet::new(),
        text => {
            scope::parse(text).ok_or_else(|| Fault::new("a token of this server has no list of scopes"))?
        }
    };
    let mine: BTreeSet<String> = granted
        .into_iter()
        .filter(|name| targets.iter().any(|target| target.scopes.contains(name)))
        .collect();
    let details = claims.authorization_details.as_ref().map(|details| {
        let mine = |kind: &str| targets.iter().any(|target| target.detail_types.contains(kind));
        Details(details.0.iter().filter(|detail| mine(&detail.kind)).cloned().collect())
    });
    let delegation = standing.path.as_ref().map(|path| {
        let (state, _) = path.state(now);
        json!({"id": path.leaf().map(|leaf| leaf.id.as_str()), "state": state, "path": path.ids()})
    });
    let scope = scope::join(&mine);
    Ok(introspection::active(claims, VisibleClaims { scope: &scope, details: details.as_ref(), delegation }))
}
