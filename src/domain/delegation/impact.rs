//! Impact of a revocation: counts of affected delegations, agents and tokens. The counts are exact up to a bound, and
//! are read before or after the revocation.

use serde::Serialize;
use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::domain::principal::Principal;
use crate::platform::clock::rfc3339;
use crate::platform::fault::Fault;

/// Counts above this number are reported as this number, with `at_least`.
pub const BOUND: i64 = 1_000;

/// Agents that are named.
const NAMED: i64 = 20;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RevocationScope<'a> {
    /// One delegation, by its id.
    Delegation(&'a str),
    /// The delegations of several ephemeral agents of a task.
    Delegations(&'a [String]),
    /// A client, as long as it is disabled.
    Client { id: &'a str, issuer: &'a str },
    /// A revoke-all: everything that the principal has at present.
    Principal {
        who: &'a Principal,
        /// The client id, if the principal is a client of this server.
        client_id: Option<&'a str>,
        /// The epoch of the previous revoke-all of this principal.
        before: Option<i64>,
    },
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Impact {
    /// Delegations that were neither revoked nor expired before.
    pub delegations: i64,
    /// Delegates of these delegations.
    pub agents: i64,
    /// Tokens under these delegations that are neither expired nor revoked, and whose keys are not removed.
    pub tokens: i64,
    /// Audiences of these tokens.
    pub audiences: Vec<String>,
    /// The first of the agents, by id.
    pub first_agents: Vec<String>,
    /// When the last of these tokens expires; `None` without tokens, and if they are more than the bound.
    pub last_token_exp: Option<String>,
    /// Whether counting stopped at the bound.
    pub at_least: bool,
}

/// Above this number of delegations or tokens, the person who revokes types a name first.
const TYPED_ABOVE: i64 = 100;

impl Impact {
    /// Whether it affects so much that a click is not enough.
    pub fn is_large(&self) -> bool {
        self.delegations > TYPED_ABOVE || self.tokens > TYPED_ABOVE
    }
}

/// The seeds are the delegations that the revocation itself affects, unless they or an ancestor were inactive for
/// another reason. Below the seeds, the statement follows all delegations that are not inactive themselves.
/// `delegation_problem` and `token_problem` decide, on the facts without those that this revocation has brought about.
/// Counted uses are left out: a delegation whose last use was an exchange still has its tokens, and counts as active
/// here. `LIMIT` in the step avoids sorting all children of one parent; `OFFSET` in the condition avoids a comparison
/// with every revoked token.
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
            LEFT JOIN standing_grant g ON g.id = a.standing_grant_id
            WHERE a.id = ANY (s.path)
              AND delegation_problem(
                      $1, a.expires_at, exhausted_at => u.exhausted_at,
                      revoked_at => CASE WHEN coalesce(a.id <> ALL ($2), true) THEN coalesce(
                          a.revoked_at, CASE WHEN g.revoked_at < a.expires_at THEN g.revoked_at END) END,
                      principal_revoked => revocation_covers(greatest(
                          CASE WHEN c.iss = $4 AND c.sub = $5 THEN $6 ELSE c.revocation_epoch END,
                          CASE WHEN k.client_id = $3 AND $4 IS NOT NULL THEN $6 ELSE k.cutoff_epoch END
                      ), a.created_epoch)) IS NOT NULL)
        UNION
        SELECT b.id, b.delegate FROM reach r CROSS JOIN LATERAL (
            SELECT b.id, b.delegate FROM delegation_status b
            WHERE b.parent = r.id
              AND delegation_problem($1, b.expires_at, b.revoked_at, b.principal_revoked, b.exhausted_at) IS NULL
            LIMIT $7
        ) b
    ), delegations AS MATERIALIZED (
        SELECT id, delegate FROM reach LIMIT $7
    ), tokens AS MATERIALIZED (
        SELECT t.audience, t.expires_at FROM (
            SELECT t.jti, t.lineage, t.audience, t.expires_at FROM delegations d JOIN issued_token t ON t.delegation_id = d.id
            WHERE t.expires_at > $1 AND t.status_index >= 0
            UNION ALL
            SELECT t.jti, t.lineage, t.audience, t.expires_at FROM issued_token t
            WHERE t.client_id = $3 AND t.delegation_id IS NULL AND t.expires_at > $1 AND t.status_index >= 0
              AND token_problem(t.created_epoch, client_epoch =>
                      CASE WHEN $4 IS NOT NULL THEN $6
                           ELSE (SELECT k.cutoff_epoch FROM client k WHERE k.client_id = $3) END) IS NULL
        ) t
        WHERE NOT EXISTS (
            SELECT FROM token_facts f WHERE f.jti = ANY (t.lineage || t.jti)
            AND token_problem(f.created_epoch, revoked_at => f.revoked_at, key_removed => f.key_removed,
                              restored_epoch => f.restored_epoch) IS NOT NULL
            OFFSET 0)
        LIMIT $7
    )
    SELECT (SELECT count(*) FROM delegations), (SELECT count(DISTINCT delegate) FROM delegations),
           (SELECT count(*) FROM tokens),
           ARRAY(SELECT DISTINCT unnest(audience) AS name FROM tokens ORDER BY name),
           ARRAY(SELECT DISTINCT delegate FROM delegations ORDER BY delegate LIMIT $9),
           (SELECT max(expires_at) FROM tokens)";

/// What the statement answers.
type Row = (i64, i64, i64, Vec<String>, Vec<String>, Option<OffsetDateTime>);

/// Counts what a revocation would affect, or has just affected.
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
    let (delegations, agents, tokens, audiences, first_agents, last_token_exp): Row = sqlx::query_as(IMPACT)
        .bind(now)
        .bind(delegations)
        .bind(client)
        .bind(who.map(|who| &who.iss))
        .bind(who.map(|who| &who.sub))
        .bind(before)
        .bind(BOUND + 1)
        .bind(giver)
        .bind(NAMED)
        .fetch_one(connection)
        .await?;
    Ok(Impact {
        delegations: delegations.min(BOUND),
        agents,
        tokens: tokens.min(BOUND),
        audiences,
        first_agents,
        last_token_exp: last_token_exp.filter(|_| tokens <= BOUND).map(rfc3339),
        at_least: delegations > BOUND || tokens > BOUND,
    })
}
