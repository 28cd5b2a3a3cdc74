//! Cosignatures of witnesses on checkpoints: requested from witnesses with a URL (c2sp.org/tlog-witness), or brought
//! by witnesses.

use futures_util::future::join_all;
use sqlx::PgConnection;
use time::OffsetDateTime;

use super::{log_keys, origin};
use crate::app::App;
use crate::domain::audit::witness::{ConfiguredWitness, Witnesses};
use crate::domain::audit::{Actor, Event, EventKind, RequestOrigin, store, tree};
use crate::domain::refusal::{Error, Refusal};
use crate::platform::fault::{Context, Fault};
use crate::platform::outbound::{PostRequest, PostResponse};
use crate::services::transaction::AuditedTransaction;
use actchain_protocol::merkle::{self, Hash};
use actchain_protocol::signed_note::{self, Checkpoint, VerifierKey};
use actchain_protocol::tlog_witness::{self, AddCheckpoint};

/// Most requests to one witness for one checkpoint: another server may request a cosignature at the same time.
const MOST_REQUESTS: usize = 3;

/// What came of the request to one witness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum RequestResult {
    /// The newest checkpoint is cosigned.
    Cosigned,
    /// No usable answer; the next run asks again.
    Failed,
    /// The witness says that it has cosigned another log under this name: this one was rewritten, truncated or restored.
    Contradicted,
}

/// Requests a cosignature of the newest checkpoint from every witness with a URL. Returns what came of each request; a
/// witness that has cosigned that checkpoint is not asked.
pub async fn request_cosignatures(app: &App, now: OffsetDateTime) -> Vec<(String, RequestResult)> {
    let results = app.witnesses.iter().map(async |witness| {
        Some((witness.key.name().to_owned(), request_cosignature(app, witness, now).await?))
    });
    join_all(results).await.into_iter().flatten().collect()
}

/// Requests a cosignature of the newest checkpoint. `None` for a witness that has cosigned it, or that has no URL.
pub async fn request_cosignature(
    app: &App,
    witness: &ConfiguredWitness,
    now: OffsetDateTime,
) -> Option<RequestResult> {
    let name = witness.key.name();
    let result = match request_from(app, witness, witness.url.as_ref()?.as_str(), now).await {
        Ok(None) => return None,
        Ok(Some(result)) => result,
        Err(fault) => {
            tracing::warn!(witness = name, error = %fault, "a witness did not cosign; it is asked again");
            RequestResult::Failed
        }
    };
    let label: &'static str = result.into();
    metrics::counter!("actchain_witness_requests_total", "witness" => name.to_owned(), "result" => label)
        .increment(1);
    Some(result)
}

/// Publishes the sizes of the newest checkpoints that each witness, and that a quorum of them, has cosigned.
pub async fn report_sizes(app: &App) -> Result<(), Fault> {
    if app.witnesses.is_empty() {
        return Ok(());
    }
    let mut connection = app.pool.acquire().await?;
    for witness in app.witnesses.iter() {
        let size = store::last_cosigned(&mut connection, &witness.key.text()).await?.unwrap_or(0);
        metrics::gauge!("actchain_witness_cosigned_events", "witness" => witness.key.name().to_owned())
            .set(size as f64);
    }
    let size = newest_cosigned(&mut connection, &app.witnesses, u64::MAX).await?;
    metrics::gauge!("actchain_witnessed_events").set(size.unwrap_or(0) as f64);
    Ok(())
}

/// Size of the newest checkpoint, up to a size, that a quorum of the witnesses has cosigned.
pub(super) async fn newest_cosigned(
    connection: &mut PgConnection,
    witnesses: &Witnesses,
    most: u64,
) -> Result<Option<u64>, Fault> {
    let keys: Vec<String> = witnesses.iter().map(|witness| witness.key.text()).collect();
    store::last_cosigned_by(connection, &keys, witnesses.quorum(), most).await
}

/// The newest checkpoint that a quorum of the witnesses has cosigned, with all its signature lines.
///
/// # Errors
/// A fault if there is none.
pub async fn newest_cosigned_checkpoint(
    connection: &mut PgConnection,
    witnesses: &Witnesses,
) -> Result<String, Fault> {
    let size = newest_cosigned(connection, witnesses, u64::MAX).await?;
    let size = size.ok_or_else(|| {
        Fault::new(format!(
            "no checkpoint has cosignatures of {} of the configured witnesses",
            witnesses.quorum()
        ))
    })?;
    let note = store::find_checkpoint(connection, size).await?;
    let note =
        note.ok_or_else(|| Fault::new("a cosigned checkpoint is missing: run actchain audit verify"))?;
    with_witnesses(connection, size, note).await
}

/// `None` if there is no checkpoint that this witness has not cosigned.
async fn request_from(
    app: &App,
    witness: &ConfiguredWitness,
    url: &str,
    now: OffsetDateTime,
) -> Result<Option<RequestResult>, Fault> {
    let key = witness.key.text();
    let last = app.read(async |connection| store::last_cosigned(connection, &key).await).await?;
    let mut old_size = last.unwrap_or(0);
    for _ in 0..MOST_REQUESTS {
        // Read again for each request: a witness can have cosigned a newer checkpoint for another server.
        let newest = app.read(async |connection| store::newest_checkpoint(connection).await).await?;
        let Some((size, note)) = newest else { return Ok(None) };
        if last == Some(size) {
            return Ok(None);
        }
        if old_size > size {
            return Ok(Some(contradiction(witness, old_size, size)));
        }
        let proof = app.read(async |connection| proof(connection, old_size, size).await).await?;
        let request = AddCheckpoint { old_size, proof, note: note.clone() };
        let response = post(app, url, &request).await?;
        let body = String::from_utf8_lossy(&response.body);
        match (response.status, tlog_witness::parse_size(&body)) {
            (200, _) => {
                let cosigned = format!("{note}{}", &*body);
                if !is_cosigned_by(&witness.key, &cosigned) {
                    return Err(Fault::new("the answer has no valid cosignature of this witness"));
                }
                return match cosign(app, &cosigned, RequestOrigin::default(), now).await {
                    Ok(_) => Ok(Some(RequestResult::Cosigned)),
                    Err(Error::Failed(fault)) => Err(fault),
                    Err(Error::Refused(_)) => Err(Fault::new("the answer has another, invalid cosignature")),
                };
            }
            (409, Some(known)) if known != old_size => {
                if last.is_some_and(|last| known < last) {
                    tracing::error!(
                        witness = witness.key.name(),
                        known,
                        ?last,
                        "a witness has forgotten what it cosigned: it was restored from a backup, or runs twice"
                    );
                }
                old_size = known;
            }
            // Of the same size, only the roots can differ. The answer has no size then.
            (409, None) if old_size == size && response.incomplete.is_none() => {
                return Ok(Some(contradiction(witness, old_size, size)));
            }
            (422, _) => return Ok(Some(contradiction(witness, old_size, size))),
            (status, _) => return Err(Fault::new(format!("the witness answers with status {status}"))),
        }
    }
    Err(Fault::new("the witness cosigned other checkpoints meanwhile"))
}

async fn post(app: &App, url: &str, request: &AddCheckpoint) -> Result<PostResponse, Fault> {
    let url = format!("{}{}", url.trim_end_matches('/'), tlog_witness::PATH);
    let body = request.text();
    let post = PostRequest {
        content_type: "text/plain; charset=utf-8",
        accept: "application/json",
        authorization: None,
        body: &body,
    };
    app.vault.outbound.post(&url, post).await.context("requesting a cosignature")
}

/// A proof that was verified here first, so that a fault of this log is not taken for a contradiction by a witness.
async fn proof(connection: &mut PgConnection, old_size: u64, size: u64) -> Result<Vec<Hash>, Fault> {
    let proof = tree::consistency(connection, old_size, size).await?;
    let (old, new) = (tree::frontier(connection, old_size).await?, tree::frontier(connection, size).await?);
    if merkle::verify_consistency(old_size, size, &proof, &old.root(), &new.root()) {
        return Ok(proof);
    }
    Err(Fault::new(format!("the log of {old_size} events is not the beginning of that of {size}")))
}

pub(super) fn is_cosigned_by(witness: &VerifierKey, note: &str) -> bool {
    let Some((text, signatures)) = signed_note::parts(note) else { return false };
    signatures.iter().any(|signature| signature.is_by(witness, &text))
}

fn contradiction(witness: &ConfiguredWitness, known: u64, size: u64) -> RequestResult {
    tracing::error!(
        witness = witness.key.name(),
        known,
        size,
        "a witness says that it has cosigned a log that this one is no continuation of: if so, this log was \
         rewritten, truncated or restored from a backup"
    );
    RequestResult::Contradicted
}

/// Stores cosignatures of witnesses on a checkpoint of this log. Returns the number of new cosignatures.
///
/// # Errors
/// A refusal unless the note equals a stored checkpoint and has a valid signature of a configured witness. An invalid
/// signature by a witness or in the name of the log is refused too.
pub async fn cosign(
    app: &App,
    note: &str,
    origin_of: RequestOrigin,
    now: OffsetDateTime,
) -> Result<usize, Error> {
    let malformed = |sentence| Error::Refused(Refusal::Malformed(sentence));
    let (text, signatures) =
        signed_note::parts(note).ok_or_else(|| malformed("The body is no signed note"))?;
    let checkpoint = Checkpoint::parse(&text).ok_or_else(|| malformed("The body is no signed checkpoint"))?;
    let mut valid = Vec::new();
    for signature in &signatures {
        let Some(witness) = app.witnesses.named_by(signature) else { continue };
        if !signature.is_by(witness, &text) {
            return Err(malformed("A signature of a witness is bad"));
        }
        valid.push((witness, signature));
    }
    if valid.is_empty() {
        return Err(malformed("No witness that is known here has signed this"));
    }
    let mut work = AuditedTransaction::begin(&app.pool).await?;
    let ours = store::find_checkpoint(work.connection(), checkpoint.size).await?;
    let keys = log_keys(work.connection(), &checkpoint.origin).await?;
    let is_ours = ours.is_some_and(|kept| {
        kept.starts_with(&format!("{text}\n")) && signed_note::open(&kept, &keys).is_some()
    });
    if !is_ours || checkpoint.origin != origin(&app.issuer) {
        return Err(malformed("This is no checkpoint that this log has signed"));
    }
    let own = signatures.iter().filter(|signature| signature.name() == checkpoint.origin);
    if own.clone().any(|line| !keys.iter().any(|key| line.is_by(key, &text))) {
        return Err(malformed("A signature line in the name of this log is not one that it has made"));
    }
    let mut events = Vec::new();
    for (witness, signature) in valid {
        let key = witness.text();
        if store::insert_cosignature(work.connection(), checkpoint.size, &key, &signature.line, now).await? {
            let kind = EventKind::WitnessCosigned { size: checkpoint.size };
            let actor = Actor::Witness { name: witness.name().to_owned() };
            events.push(Event { origin: origin_of.clone(), ..Event::new(now, kind, actor) });
        }
    }
    if !events.is_empty() {
        work.commit(&events).await?;
    }
    Ok(events.len())
}

/// A stored checkpoint with the signature lines of its witnesses.
pub(super) async fn with_witnesses(
    connection: &mut PgConnection,
    size: u64,
    mut note: String,
) -> Result<String, Fault> {
    for (_, _, line) in store::cosignatures(connection, size..=size).await? {
        note.push_str(&line);
    }
    Ok(note)
}
