//! What an end reaches: counted, exactly up to a bound, after the end is in force or before it is brought about. Nobody
//! waits for it.

use serde::Serialize;
use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::domain::principal::Principal;
use crate::platform::fault::Fault;

/// Beyond this, counts say "at least".
pub const BOUND: i64 = 1_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RevocationScope<'a> {
    /// One delegation.
    Delegation(&'a str),
    /// Several: those that the agents of a task were made for.
    Delegations(&'a [String]),
    /// A client, for as long as it is disabled.
    Client { id: &'a str, issuer: &'a str },
    /// Everything that a principal has up to now.
    Principal {
        who: &'a Principal,
        /// Its id where it is a client of ours.
        client_id: Option<&'a str>,
        /// The epoch up to which everything had been ended before.
        before: Option<i64>,
    },
}

/// What is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Impact {
    /// Delegations that had not ended.
    pub delegations: i64,
    /// Agents that hold them.
    pub agents: i64,
    /// Tokens under them that have neither expired nor been revoked, nor lost their key.
    pub tokens: i64,
    /// What those tokens are for.
    pub audiences: Vec<String>,
    /// Whether counting stopped at the bound.
    pub at_least: bool,
}

/// The seeds are what the end hits itself and what had not ended for another reason, above or there; below them, whatever
/// has not ended by itself. Only what the end itself brought about is looked past. What an exchange has used up still has
/// its tokens, and so has not ended here. `LIMIT` in the step keeps it from sorting all children of one parent, `OFFSET`
/// in the condition from comparing with every revoked token there is.
const IMPACT: &str = "
    WITH RECURSIVE seed AS (
        SELECT d.id, d.path, d.delegate FROM delegation d
        WHERE ($2::text[] IS NOT NULL AND d.id = ANY ($2))
           OR ($3::text IS NOT NULL AND d.delegate = $3)
           OR ($8::text IS NOT NULL AND d.delegator_iss = $8 AND d.delegator_sub = $3)
           OR ($4::text IS NOT NULL AND d.delegator_iss = $4 AND d.delegator_sub = $5)
    ), reach AS (
        SELECT s.id, s.delegate FROM seed s
        WHERE NOT EXISTS (
            SELECT FROM delegation a
            LEFT JOIN delegation_usage u ON u.delegation_id = a.id
            LEFT JOIN principal_revocation c ON c.iss = a.delegator_iss AND c.sub = a.delegator_sub
            LEFT JOIN client k ON k.client_id = a.delegate
            WHERE a.id = ANY (s.path)
              AND (a.expires_at <= $1 OR u.exhausted_at IS NOT NULL
                   OR (a.revoked_at IS NOT NULL AND coalesce(a.id <> ALL ($2), true))
                   OR CASE WHEN c.iss = $4 AND c.sub = $5 THEN $6 ELSE c.revocation_epoch END >= a.created_epoch
                   OR CASE WHEN k.client_id = $3 AND $4 IS NOT NULL THEN $6 ELSE k.cutoff_epoch END >= a.created_epoch))
        UNION
        SELECT b.id, b.delegate FROM reach r CROSS JOIN LATERAL (
            SELECT b.id, b.delegate FROM delegation_status b
            WHERE b.parent = r.id AND b.revoked_at IS NULL AND b.expires_at > $1 AND NOT b.principal_revoked
              AND b.exhausted_at IS NULL
            LIMIT $7
        ) b
    ), delegations AS MATERIALIZED (
        SELECT id, delegate FROM reach LIMIT $7
    ), tokens AS MATERIALIZED (
        SELECT t.audience FROM (
            SELECT t.jti, t.lineage, t.audience FROM delegations d JOIN issued_token t ON t.delegation_id = d.id
            WHERE t.expires_at > $1 AND t.revoked_at IS NULL
            UNION ALL
            SELECT t.jti, t.lineage, t.audience FROM issued_token t
            WHERE t.client_id = $3 AND t.delegation_id IS NULL AND t.expires_at > $1 AND t.revoked_at IS NULL
              AND t.created_epoch > coalesce(CASE WHEN $4 IS NOT NULL THEN $6::bigint
                                         ELSE (SELECT k.cutoff_epoch FROM client k WHERE k.client_id = $3) END, -1)
        ) t
        WHERE NOT EXISTS (
            SELECT FROM issued_token p WHERE p.jti = ANY (t.lineage || t.jti)
            AND (p.revoked_at IS NOT NULL
                 OR EXISTS (SELECT FROM removed_key r WHERE r.client_id = p.client_id AND r.jkt IN (p.jkt, p.auth_key)
                                                        AND r.removed_epoch >= p.created_epoch))
            OFFSET 0)
        LIMIT $7
    )
    SELECT (SELECT count(*) FROM delegations), (SELECT count(DISTINCT delegate) FROM delegations),
           (SELECT count(*) FROM tokens),
           ARRAY(SELECT DISTINCT unnest(audience) AS name FROM tokens ORDER BY name)";

/// Counts what an end reaches, or has just reached.
pub async fn impact(
    connection: &mut PgConnection,
    ending: &RevocationScope<'_>,
    now: OffsetDateTime,
) -> Result<Impact, Fault> {
    let mut delegations = None;
    let (client, giver, who, before) = match ending {
        RevocationScope::Delegation(id) => {
            delegations = Some(vec![(*id).to_owned()]);
            (None, None, None, None)
        }
        RevocationScope::Delegations(ids) => {
            delegations = Some(ids.to_vec());
            (None, None, None, None)
        }
        RevocationScope::Client { id, issuer } => (Some(*id), Some(*issuer), None, None),
        RevocationScope::Principal { who, client_id, before } => (*client_id, None, Some(*who), *before),
    };
    let (delegations, agents, tokens, audiences): (i64, i64, i64, Vec<String>) = sqlx::query_as(IMPACT)
        .bind(now)
        .bind(delegations)
        .bind(client)
        .bind(who.map(|who| &who.iss))
        .bind(who.map(|who| &who.sub))
        .bind(before)
        .bind(BOUND + 1)
        .bind(giver)
        .fetch_one(connection)
        .await?;
    Ok(Impact {
        delegations: delegations.min(BOUND),
        agents,
        tokens: tokens.min(BOUND),
        audiences,
        at_least: delegations > BOUND || tokens > BOUND,
    })
}
