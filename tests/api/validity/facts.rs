//! Random facts: revocations of all kinds, trees of delegations, chains of tokens, and their rows. Times are seconds from
//! one beginning, and epochs are small, so that many of them are equal.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use serde_json::{Value, json};
use sqlx::{Executor as _, PgConnection};
use time::OffsetDateTime;

use crate::support::START;
use crate::support::world::IDP;

/// A revoke-all: its epoch and its time.
pub type RevokeAll = Option<(i64, i64)>;

#[derive(Debug, Clone)]
pub struct Agent {
    pub revoked: RevokeAll,
    pub deactivated: bool,
    pub disabled: bool,
}

#[derive(Debug, Clone)]
pub struct Delegation {
    pub parent: Option<usize>,
    /// The user that delegates, at a root. The delegator of a child is the delegate of its parent.
    pub user: usize,
    pub delegate: usize,
    pub epoch: i64,
    pub activated: bool,
    pub expires: i64,
    pub revoked: Option<i64>,
    pub max_uses: Option<i64>,
    pub uses: i64,
    pub used_up: Option<i64>,
    pub exhausted: Option<i64>,
    pub key_rotating: bool,
    pub suspended: bool,
    pub grant: Option<StandingGrant>,
}

/// The standing grant under which a delegation became active.
#[derive(Debug, Clone)]
pub struct StandingGrant {
    pub revoked: Option<i64>,
    pub suspended: bool,
}

#[derive(Debug, Clone)]
pub struct Token {
    pub made_from: Option<usize>,
    pub client: usize,
    pub subject: usize,
    pub delegation: Option<usize>,
    pub key: usize,
    pub auth_key: Option<usize>,
    pub epoch: i64,
    pub revoked: bool,
}

#[derive(Debug, Clone)]
pub struct Facts {
    pub now: i64,
    /// The epoch up to which a restored backup revokes tokens.
    pub restored: Option<i64>,
    /// Used ids that expired up to this time were purged.
    pub horizon: i64,
    pub users: Vec<RevokeAll>,
    pub agents: Vec<Agent>,
    /// Agent, key and epoch.
    pub removed: Vec<(usize, usize, i64)>,
    pub delegations: Vec<Delegation>,
    pub tokens: Vec<Token>,
}

pub fn time(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(START + seconds).unwrap()
}

fn rarely<T: std::fmt::Debug>(one: impl Strategy<Value = T>) -> impl Strategy<Value = Option<T>> {
    option::weighted(0.15, one)
}

fn revoke_all() -> impl Strategy<Value = RevokeAll> {
    option::weighted(0.3, (0..6_i64, 0..8_i64))
}

fn agent() -> impl Strategy<Value = Agent> {
    (revoke_all(), prop::bool::weighted(0.15), prop::bool::weighted(0.2))
        .prop_map(|(revoked, deactivated, disabled)| Agent { revoked, deactivated, disabled })
}

fn delegation() -> impl Strategy<Value = Delegation> {
    let sides = (option::weighted(0.6, 0..100_usize), 0..3_usize, 0..4_usize, 2..8_i64);
    let times = (prop::bool::weighted(0.9), prop_oneof![4 => Just(20), 1 => 0..8_i64], rarely(0..8_i64));
    let uses = (option::of(1..3_i64), 0..3_i64, option::of(0..8_i64), option::weighted(0.08, 0..8_i64));
    let grant = (rarely(0..8_i64), prop::bool::weighted(0.15));
    let grant = grant.prop_map(|(revoked, suspended)| StandingGrant { revoked, suspended });
    let waits = (prop::bool::weighted(0.1), prop::bool::weighted(0.05), option::weighted(0.4, grant));
    (sides, times, uses, waits).prop_map(|(sides, times, uses, (key_rotating, suspended, grant))| {
        let ((parent, user, delegate, epoch), (activated, expires, revoked)) = (sides, times);
        let (max_uses, uses, used_up, exhausted) = uses;
        Delegation {
            parent,
            user,
            delegate,
            epoch,
            activated,
            expires,
            revoked,
            max_uses,
            uses,
            used_up,
            exhausted,
            key_rotating,
            suspended,
            grant,
        }
    })
}

fn token() -> impl Strategy<Value = Token> {
    let made = (option::weighted(0.6, 0..100_usize), 0..4_usize, 0..3_usize);
    let keys = (option::weighted(0.7, 0..100_usize), 0..4_usize, option::of(0..4_usize));
    (made, keys, 2..8_i64, prop::bool::weighted(0.1)).prop_map(|(made, keys, epoch, revoked)| {
        let ((made_from, client, subject), (delegation, key, auth_key)) = (made, keys);
        Token { made_from, client, subject, delegation, key, auth_key, epoch, revoked }
    })
}

/// Any earlier row is a parent; numbers without an earlier row are none.
fn earlier(number: Option<usize>, own: usize) -> Option<usize> {
    number.filter(|_| own > 0).map(|number| number % own)
}

pub fn facts() -> impl Strategy<Value = Facts> {
    let world = (vec(revoke_all(), 3), vec(agent(), 4), vec((0..4_usize, 0..4_usize, 3..9_i64), 0..5));
    let rows = (vec(delegation(), 1..9), vec(token(), 1..12));
    let times = (0..8_i64, 0..8_i64, option::weighted(0.2, 1..6_i64));
    (times, world, rows).prop_map(|((now, horizon, restored), (users, agents, removed), rows)| {
        let (mut delegations, mut tokens) = rows;
        for (own, one) in delegations.iter_mut().enumerate() {
            one.parent = earlier(one.parent, own);
        }
        for (own, one) in tokens.iter_mut().enumerate() {
            one.made_from = earlier(one.made_from, own);
            one.delegation = one.delegation.map(|number| number % delegations.len());
        }
        Facts { now, restored, horizon, users, agents, removed, delegations, tokens }
    })
}

pub fn user(number: usize) -> String {
    format!("user-{number}")
}

pub fn agent_id(number: usize) -> String {
    format!("agent-{number}")
}

pub fn delegation_id(number: usize) -> String {
    format!("d{number}")
}

pub fn jti(number: usize) -> uuid::Uuid {
    uuid::Uuid::from_u128(number as u128 + 1)
}

fn at(seconds: i64) -> Value {
    json!(actchain::platform::clock::rfc3339(time(seconds)))
}

fn at_or_null(seconds: Option<i64>) -> Value {
    seconds.map_or(Value::Null, at)
}

impl Facts {
    /// The delegation with its ancestors, root first.
    pub fn path(&self, own: usize) -> Vec<usize> {
        let mut path = vec![own];
        while let Some(parent) = self.delegations[path[0]].parent {
            path.insert(0, parent);
        }
        path
    }

    pub fn path_ids(&self, own: usize) -> Vec<String> {
        self.path(own).into_iter().map(delegation_id).collect()
    }

    /// The token with those from which it was made, oldest first.
    pub fn lineage(&self, own: usize) -> Vec<usize> {
        let mut lineage = vec![own];
        while let Some(parent) = self.tokens[lineage[0]].made_from {
            lineage.insert(0, parent);
        }
        lineage
    }

    /// Replaces the rows of all earlier cases.
    pub async fn store(&self, sql: &mut PgConnection, issuer: &str) {
        sql.execute(
            "TRUNCATE client, delegation, issued_token, principal_revocation, principal_revocation_history CASCADE",
        )
        .await
        .unwrap();
        for (table, rows) in self.rows(issuer) {
            let insert =
                format!("INSERT INTO {table} SELECT * FROM jsonb_populate_recordset(NULL::{table}, $1)");
            let query = sqlx::query(sqlx::AssertSqlSafe(insert)).bind(Value::Array(rows));
            query.execute(&mut *sql).await.unwrap();
        }
        // No list lies below this index as a whole.
        sqlx::query("UPDATE revocation_epoch SET restored_epoch = $1, restored_status_index = $2")
            .bind(self.restored)
            .bind(self.restored.map(|_| 1_000_i64))
            .execute(&mut *sql)
            .await
            .unwrap();
        sqlx::query("UPDATE replay_horizon SET purged_before = $1")
            .bind(time(self.horizon))
            .execute(sql)
            .await
            .unwrap();
    }

    fn rows(&self, issuer: &str) -> Vec<(&'static str, Vec<Value>)> {
        let numbered = |count: usize| 0..count;
        let clients = numbered(self.agents.len()).map(|n| self.client(n)).collect();
        let of_users = self.users.iter().enumerate().map(|(n, all)| (IDP, user(n), *all, Value::Null));
        let of_agents = self.agents.iter().enumerate().map(|(n, agent)| {
            let id = agent_id(n);
            (issuer, id.clone(), agent.revoked, json!(id))
        });
        let (mut revocations, mut history) = (Vec::new(), Vec::new());
        for (iss, sub, all, client_id) in of_users.chain(of_agents) {
            let Some((epoch, seconds)) = all else { continue };
            let row = json!({"iss": iss, "sub": sub, "at": at(seconds), "revocation_epoch": epoch,
                             "reason": "", "client_id": client_id});
            revocations.push(row.clone());
            history.push(row);
        }
        let mut removed: Vec<Value> = Vec::new();
        for (agent, key, epoch) in &self.removed {
            let (client_id, jkt) = (json!(agent_id(*agent)), json!(format!("key-{key}")));
            removed.retain(|row| (&row["client_id"], &row["jkt"]) != (&client_id, &jkt));
            removed.push(json!({"client_id": client_id, "jkt": jkt, "removed_at": at(0),
                                "removed_epoch": epoch}));
        }
        let usage = self.delegations.iter().enumerate().map(|(n, one)| {
            json!({"delegation_id": delegation_id(n), "uses": one.uses,
                   "used_up_at": at_or_null(one.used_up), "exhausted_at": at_or_null(one.exhausted)})
        });
        vec![
            ("client", clients),
            ("principal_revocation", revocations),
            ("principal_revocation_history", history),
            ("removed_key", removed),
            ("standing_grant", numbered(self.delegations.len()).filter_map(|n| self.grant(n)).collect()),
            ("delegation", numbered(self.delegations.len()).map(|n| self.delegation(n, issuer)).collect()),
            ("delegation_usage", usage.collect()),
            ("issued_token", numbered(self.tokens.len()).map(|n| self.token(n)).collect()),
        ]
    }

    fn client(&self, number: usize) -> Value {
        let agent = &self.agents[number];
        json!({
            "client_id": agent_id(number), "version": 1, "kind": "agent", "name": "agent", "auth": "none",
            "secrets": [], "scopes": [], "audiences": [], "detail_types": [], "grant_types": [],
            "dpop": "required", "token_type": "dpop", "assertion_audience": "issuer", "dpop_keys": [],
            "actor_subjects": [], "created_at": at(0), "updated_at": at(0),
            "dpop_restricted": false, "cutoff_epoch": agent.revoked.map(|(epoch, _)| epoch),
            "deactivated_at": at_or_null(agent.deactivated.then_some(0)),
            "disabled_at": at_or_null(agent.disabled.then_some(0)),
        })
    }

    fn delegation(&self, number: usize, issuer: &str) -> Value {
        let one = &self.delegations[number];
        let (iss, sub) = match one.parent {
            None => (IDP.to_owned(), user(one.user)),
            Some(parent) => (issuer.to_owned(), agent_id(self.delegations[parent].delegate)),
        };
        let root = &self.delegations[self.path(number)[0]];
        json!({
            "id": delegation_id(number), "path": self.path_ids(number), "parent": one.parent.map(delegation_id),
            "root_iss": IDP, "root_sub": user(root.user), "delegator_iss": iss, "delegator_sub": sub,
            "delegate": agent_id(one.delegate), "max_uses": one.max_uses, "origin": "granted",
            "requested_at": at(0), "activated_at": at_or_null(one.activated.then_some(0)),
            "expires_at": at(one.expires), "revoked_at": at_or_null(one.revoked), "ceremony_required_for": [],
            "pending_jwk": one.key_rotating.then(|| json!({})), "suspended_at": at_or_null(one.suspended.then_some(0)),
            "expiry_logged": false, "offline_access": false,
            "standing_grant_id": one.grant.as_ref().map(|_| delegation_id(number)),
            "created_epoch": one.epoch,
        })
    }

    /// The standing grant of a delegation has the id of the delegation.
    fn grant(&self, number: usize) -> Option<Value> {
        let one = &self.delegations[number];
        let grant = one.grant.as_ref()?;
        Some(json!({
            "id": delegation_id(number), "grantor_iss": IDP, "grantor_sub": user(one.user), "client_id": agent_id(one.delegate),
            "keys": ["key"], "scopes": [], "audiences": [], "max_ttl": 600, "created_at": at(0), "created_by": "user",
            "expires_at": at(one.expires), "revoked_at": at_or_null(grant.revoked),
            "suspended_at": at_or_null(grant.suspended.then_some(0)),
            "suspension_cause": grant.suspended.then_some("key_not_pinned"), "suspension_logged": true, "expiry_logged": true,
            "offline_access": false, "created_epoch": one.epoch,
        }))
    }

    fn token(&self, number: usize) -> Value {
        let one = &self.tokens[number];
        let mut lineage: Vec<_> = self.lineage(number).into_iter().map(jti).collect();
        lineage.pop();
        json!({
            "jti": jti(number), "parent": one.made_from.map(jti), "lineage": lineage, "txn": jti(0),
            "client_id": agent_id(one.client), "subject_iss": IDP, "subject_sub": user(one.subject),
            "delegation_id": one.delegation.map(delegation_id), "jkt": format!("key-{}", one.key), "kid": "kid",
            "auth_key": one.auth_key.map(|key| format!("key-{key}")), "scope": "", "audience": [],
            // The oldest token of a lineage was issued first.
            "issued_at": at(number as i64 - 100), "expires_at": at(600),
            "revoked_at": at_or_null(one.revoked.then_some(0)), "created_epoch": one.epoch,
            "status_index": number,
        })
    }
}
