//! Where events are that are not in the database any more: in which file of `actchain audit archive`.

use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::domain::audit::partitions::{self, Partition};
use crate::domain::refusal::{Error, Refusal};
use crate::platform::fault::Fault;
use crate::services::caller::Caller;
use crate::services::request_context::RequestContext;
use actchain_protocol::archive_statement::ArchiveStatement;
use actchain_protocol::signed_note;

/// The file that has, or would have, an archived event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchivedPlace {
    /// Name of the file, without its folder.
    pub file: String,
    /// `seq` of the first event of the file, and the `seq` after the last.
    pub seqs: std::ops::Range<u64>,
}

/// The file of an archived event, by id or `seq`. By an id, the time in it decides: the file may have no such event.
/// `None` for users, who see no archived events, and for what is not archived.
///
/// # Errors
/// A fault if the database cannot be read.
pub async fn find(ctx: &RequestContext<'_>, name: &str) -> Result<Option<ArchivedPlace>, Error> {
    Ok(place_of(&ctx.caller, &mut *ctx.pool.acquire().await?, name).await?)
}

/// Why an event was not found in the database.
pub(super) async fn why_absent(
    caller: &Caller,
    connection: &mut PgConnection,
    name: &str,
) -> Result<Refusal, Fault> {
    match place_of(caller, connection, name).await? {
        Some(_) => Ok(Refusal::EventsArchived),
        None => Ok(Refusal::NotFound),
    }
}

/// Why a chain has no event in the database. Its id has the time of its first token; no `seq` is an id of a chain.
pub(super) async fn why_chain_absent(
    caller: &Caller,
    connection: &mut PgConnection,
    txn: &str,
) -> Result<Refusal, Fault> {
    match Uuid::parse_str(txn) {
        Ok(_) => why_absent(caller, connection, txn).await,
        Err(_) => Ok(Refusal::NotFound),
    }
}

async fn place_of(
    caller: &Caller,
    connection: &mut PgConnection,
    name: &str,
) -> Result<Option<ArchivedPlace>, Fault> {
    if matches!(caller, Caller::User(_) | Caller::Agent(_)) {
        return Ok(None);
    }
    let all = partitions::list(connection).await?;
    let wanted = match name.parse::<u64>() {
        Ok(seq) => all.iter().filter_map(place).find(|place| place.seqs.contains(&seq)),
        Err(_) => made_at(name).and_then(|at| of_time(&all, at)),
    };
    Ok(wanted)
}

/// The time in an id of an event (RFC 9562 §5.7).
fn made_at(id: &str) -> Option<OffsetDateTime> {
    let (seconds, nanos) = Uuid::parse_str(id).ok()?.get_timestamp()?.to_unix();
    let at = OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).ok()?).ok()?;
    Some(at + time::Duration::nanoseconds(nanos.into()))
}

/// The archived partition that was written to at this time.
fn of_time(all: &[Partition], at: OffsetDateTime) -> Option<ArchivedPlace> {
    let (written, _) = all.iter().zip(all.iter().skip(1)).find(|(_, next)| at < next.opened_at)?;
    place(written)
}

fn place(partition: &Partition) -> Option<ArchivedPlace> {
    let (text, _) = signed_note::parts(partition.statement.as_deref()?)?;
    let ArchiveStatement { file, from, to, .. } = ArchiveStatement::parse(&text)?;
    Some(ArchivedPlace { file, seqs: from..to })
}
