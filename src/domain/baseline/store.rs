//! The rows of what is usual. A statement locks rows in the order of their primary key, and what it returns is compared with the
//! rows as they were before it.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::{PgConnection, Row as _};
use time::OffsetDateTime;

use super::{LEARNING, UsedTarget};
use crate::domain::principal::Principal;

/// Stores the targets, each with the time of its use. Returns those that are new for a client that is known for long enough.
pub async fn learn_targets(
    connection: &mut PgConnection,
    used: &BTreeMap<UsedTarget, OffsetDateTime>,
) -> Result<BTreeSet<UsedTarget>, sqlx::Error> {
    let rows = sqlx::query(
        "INSERT INTO used_target AS t (client_id, target, first_at)
         SELECT * FROM unnest($1::text[], $2::text[], $3::timestamptz[]) AS used (client_id, target, first_at)
         ORDER BY client_id, target
         ON CONFLICT (client_id, target) DO NOTHING
         RETURNING client_id, target, EXISTS (
             SELECT FROM used_target earlier
             WHERE earlier.client_id = t.client_id AND earlier.first_at <= t.first_at - $4) AS is_unusual",
    )
    .bind(used.keys().map(|one| one.client_id.as_str()).collect::<Vec<_>>())
    .bind(used.keys().map(|one| one.target.as_str()).collect::<Vec<_>>())
    .bind(used.values().copied().collect::<Vec<_>>())
    .bind(LEARNING)
    .fetch_all(connection)
    .await?;
    let mut unusual = BTreeSet::new();
    for row in rows {
        if row.try_get("is_unusual")? {
            unusual
                .insert(UsedTarget { client_id: row.try_get("client_id")?, target: row.try_get("target")? });
        }
    }
    Ok(unusual)
}

/// A depth, and the time of its exchange.
pub type DepthAt = (i32, OffsetDateTime);

/// Stores the greatest depths of users. Returns the depths of before for the users whose chains are deeper now, and who are
/// known for long enough.
pub async fn learn_depths(
    connection: &mut PgConnection,
    depths: &BTreeMap<Principal, DepthAt>,
) -> Result<BTreeMap<Principal, i32>, sqlx::Error> {
    let rows = sqlx::query(
        "INSERT INTO usual_depth AS d (subject_iss, subject_sub, depth, first_at)
         SELECT * FROM unnest($1::text[], $2::text[], $3::integer[], $4::timestamptz[])
             AS seen (subject_iss, subject_sub, depth, first_at)
         ORDER BY subject_sub, subject_iss
         ON CONFLICT (subject_sub, subject_iss) DO UPDATE SET depth = excluded.depth
             WHERE d.depth < excluded.depth
         RETURNING subject_iss, subject_sub, first_at, (
             SELECT before.depth FROM usual_depth before
             WHERE before.subject_sub = d.subject_sub AND before.subject_iss = d.subject_iss) AS before",
    )
    .bind(depths.keys().map(|who| who.iss.as_str()).collect::<Vec<_>>())
    .bind(depths.keys().map(|who| who.sub.as_str()).collect::<Vec<_>>())
    .bind(depths.values().map(|(depth, _)| *depth).collect::<Vec<_>>())
    .bind(depths.values().map(|(_, at)| *at).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    let mut deeper = BTreeMap::new();
    for row in rows {
        let who = Principal { iss: row.try_get("subject_iss")?, sub: row.try_get("subject_sub")? };
        let first_at: OffsetDateTime = row.try_get("first_at")?;
        let is_known = depths.get(&who).is_some_and(|(_, at)| first_at <= *at - LEARNING);
        if let Some(before) = row.try_get("before")?
            && is_known
        {
            deeper.insert(who, before);
        }
    }
    Ok(deeper)
}

/// Forgets the depth of a user's chains.
pub async fn forget_person(connection: &mut PgConnection, who: &Principal) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM usual_depth WHERE subject_sub = $1 AND subject_iss = $2")
        .bind(&who.sub)
        .bind(&who.iss)
        .execute(connection)
        .await?;
    Ok(())
}
