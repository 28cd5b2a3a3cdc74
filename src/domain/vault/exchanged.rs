//! Connections whose credential a provider issued in exchange for a token of a chain: one for each delegation, actors
//! and scopes. They end with the delegation.

use std::collections::BTreeSet;

use serde_json::json;
use sqlx::PgConnection;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::store::ConnectionRow;
use super::{Connection, ConnectionState};
use crate::domain::provider::{Provider, ProviderKind};
use crate::platform::fault::Fault;
use actchain_protocol::access_token::Act;
use actchain_protocol::authorization_details::Detail;
use actchain_protocol::canonical_json;
use actchain_protocol::digest::sha256;
use actchain_protocol::token_answer::{Scope, TokenSet};
use actchain_protocol::token_exchange::TokenType;

/// The most tokens of one provider that a delegation has at the same time.
pub const MOST: usize = 16;
/// Lifetime of a token whose provider reports none.
const UNTOLD: Duration = Duration::minutes(1);
/// The longest time that a token is kept, whatever the provider reports.
const LONGEST: Duration = Duration::HOUR;

/// What a token of a provider is obtained for.
#[derive(Debug, Clone)]
pub struct Purpose<'a> {
    pub provider: &'a Provider,
    pub delegation_id: &'a str,
    pub act: &'a Act,
    pub scopes: &'a BTreeSet<String>,
}

impl Purpose<'_> {
    /// The id of the connection: a UUID of version 8 (RFC 9562 §5.8) of all that the token depends on.
    pub fn connection_id(&self) -> Result<String, Fault> {
        let actors: Vec<_> = self.act.newest_first().map(|act| [&act.iss, &act.sub]).collect();
        let oauth = self.provider.settings.oauth.as_ref();
        let target = oauth.map(|oauth| (&oauth.token_endpoint, &oauth.client_id, &oauth.exchange));
        let all = json!([self.provider.id, target, self.delegation_id, actors, self.scopes]);
        let digest = sha256(&[canonical_json::to_string(&all)?.as_bytes()]);
        let bytes = digest.first_chunk().ok_or_else(|| Fault::new("a digest without 16 bytes"))?;
        Ok(uuid::Builder::from_custom_bytes(*bytes).into_uuid().to_string())
    }
}

/// Whether a name is the id of a provider whose tokens are obtained by exchange, and not that of a connection.
pub fn is_provider_name(name: &str) -> bool {
    Uuid::try_parse(name).is_err()
}

/// Why an issued token is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unacceptable {
    /// It is no access token, or one that an agent cannot present.
    Kind,
    /// It allows more scopes than requested, or its scopes are unknown.
    Scope,
}

/// The scopes of an issued token that is within what was requested (RFC 6749 §5.1, RFC 8693 §2.2.1).
pub fn accept(tokens: &TokenSet, requested: &BTreeSet<String>) -> Result<BTreeSet<String>, Unacceptable> {
    let is_access_token = tokens.issued_token_type.as_deref().is_none_or(|issued| {
        [TokenType::AccessToken, TokenType::Jwt].iter().any(|accepted| accepted.urn() == issued)
    });
    if !is_access_token || tokens.access_token.is_none() || !tokens.token_type.eq_ignore_ascii_case("Bearer")
    {
        return Err(Unacceptable::Kind);
    }
    match &tokens.scope {
        Scope::Unsaid => Ok(requested.clone()),
        Scope::Known(granted) if granted.is_subset(requested) => Ok(granted.clone()),
        Scope::Unknown | Scope::Known(_) => Err(Unacceptable::Scope),
    }
}

/// When an issued token is obtained again: not after it expires, and not after its delegation does.
pub fn expiry(tokens: &TokenSet, now: OffsetDateTime, delegation_ends_at: OffsetDateTime) -> OffsetDateTime {
    let life = tokens.expires_in.map_or(UNTOLD, |seconds| Duration::seconds(seconds.into()));
    (now + life.min(LONGEST)).min(delegation_ends_at)
}

/// Whether the owner has disconnected what the delegation or an ancestor has at the provider.
pub async fn is_disconnected(
    connection: &mut PgConnection,
    delegation_id: &str,
    provider: &str,
) -> Result<bool, Fault> {
    let sql = "SELECT EXISTS (SELECT FROM delegation d JOIN connection c ON c.delegation_id = ANY (d.path)
                              WHERE d.id = $1 AND c.provider = $2 AND c.disconnected_at IS NOT NULL)";
    Ok(sqlx::query_scalar(sql).bind(delegation_id).bind(provider).fetch_one(connection).await?)
}

/// The connections of the delegation at the provider that are not disconnected, at most [`MOST`]; unusable ones first, then by
/// their expiry.
pub async fn of_delegation(
    connection: &mut PgConnection,
    delegation_id: &str,
    provider: &str,
) -> Result<Vec<Connection>, Fault> {
    let rows: Vec<ConnectionRow> = sqlx::query_as(
        "SELECT * FROM connection WHERE delegation_id = $1 AND provider = $2 AND disconnected_at IS NULL
         ORDER BY needs_reconnect_at IS NULL, expires_at, id LIMIT $3",
    )
    .bind(delegation_id)
    .bind(provider)
    .bind(i64::try_from(MOST).unwrap_or(i64::MAX))
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(Connection::from).collect())
}

/// Whether another token can take the place of this one: it has expired, or its provider has moved.
pub fn is_replaceable(one: &Connection, now: OffsetDateTime) -> bool {
    one.has_ended(now) || one.state() == ConnectionState::NeedsReconnect
}

/// Deletes a connection whose place another token takes, unless its version has changed.
pub async fn delete_replaced(connection: &mut PgConnection, one: &Connection) -> Result<bool, Fault> {
    let done = sqlx::query(
        "DELETE FROM connection WHERE id = $1 AND version = $2 AND delegation_id IS NOT NULL AND disconnected_at IS NULL",
    )
    .bind(&one.id)
    .bind(one.version)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Disconnects the other connections that the delegation and its descendants have at the provider, and returns them.
pub async fn disconnect_siblings(
    connection: &mut PgConnection,
    one: &Connection,
    now: OffsetDateTime,
) -> Result<Vec<Connection>, Fault> {
    let rows: Vec<ConnectionRow> = sqlx::query_as(
        "UPDATE connection SET disconnected_at = $4, updated_at = $4, version = version + 1
         WHERE provider = $2 AND id <> $3 AND disconnected_at IS NULL
           AND delegation_id IN (SELECT d.id FROM delegation d WHERE $1 = ANY (d.path)) RETURNING *",
    )
    .bind(&one.delegation_id)
    .bind(&one.provider)
    .bind(&one.id)
    .bind(now)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(Connection::from).collect())
}

/// The connections `c` whose delegation `d` has ended at `$2`: it or an ancestor was revoked, has expired, or was exhausted
/// by a reported command. One whose last use was a retrieval keeps its tokens until it expires.
macro_rules! where_ended {
    ($before:literal, $after:literal) => {
        concat!(
            $before,
            " FROM connection c LEFT JOIN delegation d ON d.id = c.delegation_id
              WHERE c.delegation_id IS NOT NULL
                AND (d.id IS NULL OR EXISTS (
                    SELECT FROM delegation_status a WHERE a.id = ANY (d.path)
                      AND delegation_problem($2, a.expires_at, revoked_at => a.revoked_at,
                                             principal_revoked => a.principal_revoked,
                                             exhausted_at => a.exhausted_at) IS NOT NULL)) ",
            $after
        )
    };
}

/// Some connections that are not disconnected, and whose delegation has ended.
pub async fn ended(
    connection: &mut PgConnection,
    most: i64,
    now: OffsetDateTime,
) -> Result<Vec<Connection>, Fault> {
    let rows: Vec<ConnectionRow> = sqlx::query_as(where_ended!(
        "SELECT c.*",
        "AND c.disconnected_at IS NULL ORDER BY random() LIMIT $1"
    ))
    .bind(most)
    .bind(now)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(Connection::from).collect())
}

/// Deletes some connections without a credential that were disconnected before a time, and whose delegation had ended by then:
/// no decision depends on them any more. Returns how many.
pub async fn delete_ended(
    connection: &mut PgConnection,
    most: i64,
    before: OffsetDateTime,
) -> Result<u64, Fault> {
    let sql = where_ended!(
        "DELETE FROM connection WHERE id IN (SELECT c.id",
        "AND c.sealed IS NULL AND c.disconnected_at <= $2 LIMIT $1)"
    );
    Ok(sqlx::query(sql).bind(most).bind(before).execute(connection).await?.rows_affected())
}

impl Provider {
    /// Whether its tokens are obtained by exchange.
    pub fn exchanges(&self) -> bool {
        self.settings.kind == ProviderKind::TokenExchange
    }

    /// The declared scopes that authorization details allow; `None` if the details allow scopes, but none of them.
    pub fn scopes_within(&self, detail: &Detail) -> Option<BTreeSet<String>> {
        let declared = self.settings.oauth.as_ref().map(|oauth| oauth.scopes.clone()).unwrap_or_default();
        match detail.lists.get("scopes") {
            None => Some(declared),
            Some(most) => Some(&declared & most).filter(|within| !within.is_empty()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actchain_protocol::token_answer::{Extent, TokenResponse, read};
    use serde_json::Value;

    fn tokens(answer: &Value) -> TokenSet {
        match read(200, answer.to_string().as_bytes(), Extent::Whole) {
            TokenResponse::Tokens(tokens) => tokens,
            other => panic!("{other:?}"),
        }
    }

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn an_issued_token_is_accepted_only_within_the_request() {
        let asked = names(&["a", "b"]);
        let accepted = |more: Value| {
            let mut answer = json!({"access_token": "t"});
            answer.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            accept(&tokens(&answer), &asked)
        };
        assert_eq!(accepted(json!({})), Ok(asked.clone()));
        assert_eq!(accepted(json!({"scope": "a", "token_type": "bearer"})), Ok(names(&["a"])));
        for wide in ["a b c", "c", "", "\u{7}"] {
            assert_eq!(accepted(json!({"scope": wide})), Err(Unacceptable::Scope), "{wide:?}");
        }
        for kind in ["N_A", "DPoP", "mac"] {
            assert_eq!(accepted(json!({"token_type": kind})), Err(Unacceptable::Kind), "{kind}");
        }
        let issued = |kind: &str| {
            accepted(json!({"issued_token_type": format!("urn:ietf:params:oauth:token-type:{kind}")}))
        };
        assert!(issued("access_token").is_ok() && issued("jwt").is_ok());
        assert!(issued("id_token").is_err() && issued("refresh_token").is_err() && issued("saml2").is_err());
        assert_eq!(
            accept(&tokens(&json!({"refresh_token": "r"})), &asked),
            Err(Unacceptable::Kind),
            "no access token"
        );
    }

    #[test]
    fn a_token_is_kept_no_longer_than_an_hour_and_its_delegation() {
        let now = OffsetDateTime::UNIX_EPOCH;
        let kept = |answer: Value, ends: i64| {
            (expiry(&tokens(&answer), now, now + Duration::seconds(ends)) - now).whole_seconds()
        };
        assert_eq!(kept(json!({"access_token": "t"}), 10_000), 60);
        assert_eq!(kept(json!({"access_token": "t", "expires_in": 300}), 10_000), 300);
        assert_eq!(kept(json!({"access_token": "t", "expires_in": 2_000_000_000}), 10_000), 3_600);
        assert_eq!(kept(json!({"access_token": "t", "expires_in": 300}), 20), 20);
    }

    #[test]
    fn only_what_is_not_a_uuid_names_a_provider() {
        assert!(is_provider_name("crm") && is_provider_name("01a203bc"));
        assert!(!is_provider_name("01a203bc-ad75-7433-9a64-484d3e5d9dc8"));
        assert!(!is_provider_name("01A203BCAD7574339A64484D3E5D9DC8"));
    }
}
