//! Issuers and resources in PostgreSQL.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;

use super::{ADMIN_SCOPE, AUDIT_SCOPE, DELEGATE_SCOPE, Registry, VAULT_DETAIL};
use crate::domain::introspection::Introspection;
use crate::domain::issuer::{
    Discovered, GrantCreators, Issuer, SubjectForm, parse_token_type, token_type_name,
};
use crate::domain::limit::{read_number, stored_number};
use crate::domain::resource::Resource;
use crate::domain::row_mac::RowMac;
use crate::domain::sign_in::{SignIn, SignInEndpoints, SignInSettings};
use crate::platform::fault::{Context, Fault};
use actchain_protocol::jose::Alg;
use actchain_protocol::trusted_issuer_jwt::{ActorUse, ClaimNames, ClaimPolicy, MayActUse};

#[derive(FromRow)]
struct IssuerRow {
    iss: String,
    jwks: Option<Value>,
    jwks_uri: Option<String>,
    discovered: Option<Json<Discovered>>,
    tenants: Option<Vec<String>>,
    discovery_tenant: Option<String>,
    claim_names: Json<ClaimNames>,
    accepted_clients: Option<Vec<String>>,
    audiences: Vec<String>,
    delegation_audiences: Option<Vec<String>>,
    algorithms: Vec<String>,
    token_types: Vec<String>,
    alias: Option<String>,
    subject_changed_at: Option<OffsetDateTime>,
    may_act: String,
    scope_claims: Option<Vec<String>>,
    actors: String,
    standing_grants: GrantCreators,
    introspection: Option<Value>,
    introspection_secret: Option<String>,
    sign_in: Option<Json<StoredSignIn>>,
    sign_in_secret: Option<String>,
    mac: Option<Vec<u8>>,
}

/// The column `sign_in`.
#[derive(Serialize, Deserialize)]
struct StoredSignIn {
    settings: SignInSettings,
    endpoints: SignInEndpoints,
}

#[derive(FromRow)]
struct ResourceRow {
    id: String,
    scopes: Vec<String>,
    detail_types: Vec<String>,
    token_ttl: Option<i32>,
    mac: Option<Vec<u8>>,
}

/// Reads the registry. `own_issuer` is this server, which is also a resource: its own API.
pub async fn load(rows: &RowMac, connection: &mut PgConnection, own_issuer: &str) -> Result<Registry, Fault> {
    // The version is read first: if a change intervenes, the data is newer than its version, and the ledger causes
    // another read.
    let version = version(&mut *connection).await?;
    let issuers: Vec<IssuerRow> = sqlx::query_as("SELECT * FROM issuer").fetch_all(&mut *connection).await?;
    let resources: Vec<ResourceRow> = sqlx::query_as("SELECT * FROM resource").fetch_all(connection).await?;
    let own = Resource {
        id: own_issuer.to_owned(),
        scopes: BTreeSet::from([ADMIN_SCOPE, AUDIT_SCOPE, DELEGATE_SCOPE].map(str::to_owned)),
        detail_types: BTreeSet::from([VAULT_DETAIL.to_owned()]),
        token_ttl: None,
    };
    let issuers = issuers.into_iter().map(|row| row.check(rows)).collect::<Result<Vec<_>, _>>()?;
    let resources = resources.into_iter().map(|row| row.check(rows)).collect::<Result<Vec<_>, _>>()?;
    let resources = resources.into_iter().chain([own]);
    Ok(Registry {
        version,
        issuers: issuers.into_iter().map(|issuer| (issuer.iss.clone(), issuer)).collect(),
        resources: resources.map(|resource| (resource.id.clone(), resource)).collect(),
    })
}

pub async fn version(connection: &mut PgConnection) -> Result<i64, Fault> {
    Ok(sqlx::query_scalar("SELECT version FROM registry").fetch_one(connection).await?)
}

pub async fn put_issuer(rows: &RowMac, connection: &mut PgConnection, issuer: &Issuer) -> Result<(), Fault> {
    let algorithms: Vec<&str> = issuer.algorithms.iter().map(|alg| alg.name()).collect();
    let kinds: Vec<&str> = issuer.token_types.iter().map(|kind| token_type_name(*kind)).collect();
    let settings = issuer.introspection.as_ref().map(|one| serde_json::to_value(&one.settings));
    let settings = settings.transpose().context("writing the introspection of an issuer")?;
    sqlx::query(
        "INSERT INTO issuer (iss, jwks, jwks_uri, audiences, algorithms, token_types, delegation_audiences,
                             alias, subject_changed_at, may_act, scope_claims, actors, introspection, introspection_secret, mac,
                             discovered, tenants, discovery_tenant, claim_names, accepted_clients, sign_in, sign_in_secret,
                             standing_grants)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23)
         ON CONFLICT (iss) DO UPDATE SET jwks = excluded.jwks, jwks_uri = excluded.jwks_uri,
             audiences = excluded.audiences, algorithms = excluded.algorithms, token_types = excluded.token_types,
             delegation_audiences = excluded.delegation_audiences, alias = excluded.alias,
             subject_changed_at = excluded.subject_changed_at, may_act = excluded.may_act,
             scope_claims = excluded.scope_claims, actors = excluded.actors,
             introspection = excluded.introspection, introspection_secret = excluded.introspection_secret,
             discovered = excluded.discovered, tenants = excluded.tenants,
             discovery_tenant = excluded.discovery_tenant, claim_names = excluded.claim_names,
             accepted_clients = excluded.accepted_clients, sign_in = excluded.sign_in,
             sign_in_secret = excluded.sign_in_secret, mac = excluded.mac, standing_grants = excluded.standing_grants",
    )
    .bind(&issuer.iss)
    .bind(&issuer.jwks)
    .bind(&issuer.jwks_uri)
    .bind(listed(&issuer.audiences))
    .bind(algorithms)
    .bind(kinds)
    .bind(issuer.delegation_audiences.as_ref().map(listed))
    .bind(match &issuer.subject {
        SubjectForm::Raw => None,
        SubjectForm::Prefixed { alias } => Some(alias),
    })
    .bind(issuer.subject_changed_at)
    .bind(issuer.claims.may_act.name())
    .bind(&issuer.claims.scope_claims)
    .bind(issuer.claims.actors.name())
    .bind(settings)
    .bind(issuer.introspection.as_ref().and_then(|one| one.sealed.as_ref()))
    .bind(rows.of(issuer))
    .bind(issuer.discovered.as_ref().map(Json))
    .bind(issuer.tenants.as_ref().map(listed))
    .bind(&issuer.discovery_tenant)
    .bind(Json(&issuer.claims.names))
    .bind(issuer.claims.accepted_clients.as_ref().map(listed))
    .bind(issuer.sign_in.as_ref().map(StoredSignIn::of).map(Json))
    .bind(issuer.sign_in.as_ref().and_then(|one| one.sealed.as_ref()))
    .bind(issuer.standing_grants)
    .execute(connection)
    .await?;
    Ok(())
}

/// A use of a client secret of this server at an issuer.
#[derive(Debug, Clone, Copy)]
pub enum IssuerSecretUse {
    Introspection,
    SignIn,
}

/// A sealed client secret of this server at an issuer.
#[derive(Debug)]
pub struct IssuerSecret {
    pub iss: String,
    pub of: IssuerSecretUse,
    /// The additional authenticated data of the seal.
    pub row: String,
    pub sealed: String,
}

/// Replaces a sealed secret, which is outside of the MAC of the row.
pub async fn put_issuer_secret(connection: &mut PgConnection, secret: &IssuerSecret) -> Result<(), Fault> {
    let update = match secret.of {
        IssuerSecretUse::Introspection => "UPDATE issuer SET introspection_secret = $2 WHERE iss = $1",
        IssuerSecretUse::SignIn => "UPDATE issuer SET sign_in_secret = $2 WHERE iss = $1",
    };
    sqlx::query(update).bind(&secret.iss).bind(&secret.sealed).execute(connection).await?;
    Ok(())
}

/// The sealed secrets at all issuers.
pub async fn issuer_secrets(connection: &mut PgConnection) -> Result<Vec<IssuerSecret>, Fault> {
    type Row = (String, Option<Value>, Option<String>, Option<Json<StoredSignIn>>, Option<String>);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT iss, introspection, introspection_secret, sign_in, sign_in_secret FROM issuer
         WHERE introspection_secret IS NOT NULL OR sign_in_secret IS NOT NULL ORDER BY iss",
    )
    .fetch_all(connection)
    .await?;
    let mut secrets = Vec::new();
    for (iss, introspection, introspection_secret, sign_in, sign_in_secret) in rows {
        if let (Some(settings), Some(sealed)) = (introspection, introspection_secret) {
            let settings = serde_json::from_value(settings).context(&format!("reading issuer {iss}"))?;
            let row = Introspection::secret_row(&iss, &settings)?;
            let of = IssuerSecretUse::Introspection;
            secrets.push(IssuerSecret { iss: iss.clone(), of, row, sealed });
        }
        if let (Some(Json(stored)), Some(sealed)) = (sign_in, sign_in_secret) {
            let row = SignIn::secret_row(&iss, &stored.settings, &stored.endpoints)?;
            secrets.push(IssuerSecret { iss, of: IssuerSecretUse::SignIn, row, sealed });
        }
    }
    Ok(secrets)
}

pub async fn put_resource(
    rows: &RowMac,
    connection: &mut PgConnection,
    resource: &Resource,
) -> Result<(), Fault> {
    sqlx::query(
        "INSERT INTO resource (id, scopes, detail_types, token_ttl, mac) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (id) DO UPDATE SET scopes = excluded.scopes, detail_types = excluded.detail_types,
             token_ttl = excluded.token_ttl, mac = excluded.mac",
    )
    .bind(&resource.id)
    .bind(resource.scopes.iter().cloned().collect::<Vec<_>>())
    .bind(resource.detail_types.iter().cloned().collect::<Vec<_>>())
    .bind(resource.token_ttl.map(stored_number))
    .bind(rows.of(resource))
    .execute(connection)
    .await?;
    Ok(())
}

fn listed(names: &BTreeSet<String>) -> Vec<String> {
    names.iter().cloned().collect()
}

/// Whether an issuer, or a tenant of an issuer, has this name in its tokens.
pub async fn has_issuer(connection: &mut PgConnection, iss: &str) -> Result<bool, Fault> {
    let found = sqlx::query_scalar("SELECT EXISTS (SELECT FROM issuer_identifier WHERE identifier = $1)");
    Ok(found.bind(iss).fetch_one(connection).await?)
}

/// The names that tokens of an issuer may have; empty if the issuer is not registered.
pub async fn identifiers(connection: &mut PgConnection, iss: &str) -> Result<Vec<String>, Fault> {
    let found =
        sqlx::query_scalar("SELECT identifier FROM issuer_identifier WHERE iss = $1 ORDER BY identifier");
    Ok(found.bind(iss).fetch_all(connection).await?)
}

/// Removes an issuer; `false` if the issuer is not registered.
pub async fn mark_issuer_removed(connection: &mut PgConnection, iss: &str) -> Result<bool, Fault> {
    let done = sqlx::query("DELETE FROM issuer WHERE iss = $1").bind(iss).execute(connection).await?;
    Ok(done.rows_affected() == 1)
}

/// Removes a resource; `false` if the resource is not registered.
pub async fn mark_resource_removed(connection: &mut PgConnection, id: &str) -> Result<bool, Fault> {
    let done = sqlx::query("DELETE FROM resource WHERE id = $1").bind(id).execute(connection).await?;
    Ok(done.rows_affected() == 1)
}

/// Issuers and resources whose rows have no MAC, unchecked. Only for sealing rows for the first time.
pub async fn unsealed(connection: &mut PgConnection) -> Result<(Vec<Issuer>, Vec<Resource>), Fault> {
    let issuers: Vec<IssuerRow> =
        sqlx::query_as("SELECT * FROM issuer WHERE mac IS NULL").fetch_all(&mut *connection).await?;
    let resources: Vec<ResourceRow> =
        sqlx::query_as("SELECT * FROM resource WHERE mac IS NULL").fetch_all(connection).await?;
    let issuers = issuers.into_iter().map(Issuer::try_from).collect::<Result<Vec<_>, _>>()?;
    let resources = resources.into_iter().map(Resource::try_from).collect::<Result<_, _>>()?;
    Ok((issuers, resources))
}

/// Makes every server read the registry and verify cached tokens again before it issues another token. A new client
/// needs this too: its id may be the name of a user.
pub async fn raise_version(connection: &mut PgConnection) -> Result<(), Fault> {
    sqlx::query("UPDATE registry SET version = version + 1").execute(connection).await?;
    Ok(())
}

impl StoredSignIn {
    fn of(one: &SignIn) -> Self {
        Self { settings: one.settings.clone(), endpoints: one.endpoints.clone() }
    }

    fn with(self, sealed: Option<String>) -> SignIn {
        SignIn { settings: self.settings, endpoints: self.endpoints, sealed }
    }
}

impl IssuerRow {
    fn check(mut self, rows: &RowMac) -> Result<Issuer, Fault> {
        let mac = self.mac.take();
        rows.check(Issuer::try_from(self)?, mac.as_deref())
    }
}

impl ResourceRow {
    fn check(mut self, rows: &RowMac) -> Result<Resource, Fault> {
        let mac = self.mac.take();
        rows.check(Resource::try_from(self)?, mac.as_deref())
    }
}

impl TryFrom<IssuerRow> for Issuer {
    type Error = Fault;

    /// Unknown content is a fault: an issuer with fewer restrictions than declared would be another issuer.
    fn try_from(row: IssuerRow) -> Result<Self, Fault> {
        let unknown = |what: &str, name: &str| Fault::new(format!("issuer {}: {what} {name:?}", row.iss));
        let algorithms =
            row.algorithms.iter().map(|name| Alg::parse(name).ok_or_else(|| unknown("algorithm", name)));
        let token_types = row
            .token_types
            .iter()
            .map(|name| parse_token_type(name).ok_or_else(|| unknown("token type", name)));
        let may_act = MayActUse::parse(&row.may_act).ok_or_else(|| unknown("may_act", &row.may_act))?;
        let actors = ActorUse::parse(&row.actors).ok_or_else(|| unknown("actors", &row.actors))?;
        let introspection = row.introspection.map(|settings| {
            let settings =
                serde_json::from_value(settings).context(&format!("reading issuer {}", row.iss))?;
            Ok::<_, Fault>(Introspection { settings, sealed: row.introspection_secret })
        });
        let issuer = Self {
            standing_grants: row.standing_grants,
            introspection: introspection.transpose()?,
            sign_in: row.sign_in.map(|Json(stored)| stored.with(row.sign_in_secret)),
            algorithms: algorithms.collect::<Result<_, _>>()?,
            token_types: token_types.collect::<Result<_, _>>()?,
            jwks: row.jwks,
            keys: Vec::new(),
            jwks_uri: row.jwks_uri,
            discovered: row.discovered.map(|Json(found)| found),
            tenants: row.tenants.map(|names| names.into_iter().collect()),
            discovery_tenant: row.discovery_tenant,
            audiences: row.audiences.into_iter().collect(),
            delegation_audiences: row.delegation_audiences.map(|names| names.into_iter().collect()),
            subject: row.alias.map_or(SubjectForm::Raw, |alias| SubjectForm::Prefixed { alias }),
            subject_changed_at: row.subject_changed_at,
            claims: ClaimPolicy {
                may_act,
                scope_claims: row.scope_claims,
                actors,
                names: row.claim_names.0,
                accepted_clients: row.accepted_clients.map(|names| names.into_iter().collect()),
            },
            iss: row.iss,
        };
        Ok(issuer.with_keys())
    }
}

impl TryFrom<ResourceRow> for Resource {
    type Error = Fault;

    fn try_from(row: ResourceRow) -> Result<Self, Fault> {
        Ok(Self {
            id: row.id,
            scopes: row.scopes.into_iter().collect(),
            detail_types: row.detail_types.into_iter().collect(),
            token_ttl: row.token_ttl.map(read_number).transpose()?,
        })
    }
}
