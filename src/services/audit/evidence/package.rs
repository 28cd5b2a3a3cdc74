//! The files of evidence: the events with their proofs, the checkpoint, the keys of the log, and what follows from the events.

use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::domain::audit::evidence::derive;
use crate::domain::audit::evidence_header::{EvidenceHeader, SubjectName};
use crate::domain::audit::inclusion_batch::InclusionBatch;
use crate::domain::audit::search::EventRow;
use crate::domain::person::Person;
use crate::platform::fault::{Context, Fault};
use crate::services::audit::CheckpointLine;
use crate::services::audit::checkpoint::{log_keys, signer_of};
use crate::services::audit::cosignatures::with_witnesses;
use crate::services::audit::export::proven;
use actchain_protocol::base64url;
use actchain_protocol::signed_note;

pub(super) const EVENTS: &str = "events.jsonl";
/// The file with the signed checkpoint and cosignatures.
pub(super) const CHECKPOINT: &str = "checkpoint.note";
/// The file with the keys of the log that have signed the checkpoint, one a line.
pub(super) const KEYS: &str = "keys.txt";

/// The first line of the event file: the header of a selection, with the evidence header.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EvidenceHead {
    pub(super) extract: EvidenceExtract,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EvidenceExtract {
    pub(super) size: u64,
    pub(super) evidence: EvidenceHeader,
}

/// Events with what proves them. The rest of the files follows from it without a database.
pub(super) struct ProvenEvents {
    about: EvidenceHeader,
    found: Vec<EventRow>,
    /// Content of the event file.
    lines: String,
    /// The checkpoint with its cosignatures.
    checkpoint: String,
    keys: String,
}

impl ProvenEvents {
    /// Reads the proofs of events under a checkpoint whose size is that of the header.
    pub(super) async fn read(
        connection: &mut PgConnection,
        about: EvidenceHeader,
        found: Vec<EventRow>,
        note: String,
    ) -> Result<Self, Fault> {
        let name = note.lines().next().unwrap_or_default();
        let keys = log_keys(connection, name).await?;
        let signers = keys.iter().filter(|key| signed_note::names_signer(&note, std::slice::from_ref(key)));
        let keys = signers.map(|key| format!("{}\n", key.text())).collect();
        let key = signer_of(connection, &note).await?.text();
        let size = about.size;
        let checkpoint = with_witnesses(connection, size, note).await?;
        let head = EvidenceHead { extract: EvidenceExtract { size, evidence: about.clone() } };
        let mut lines = serde_json::to_string(&head).context("writing evidence")? + "\n";
        let mut inclusion_batch = InclusionBatch::of(size);
        for one in &found {
            lines.push_str(&proven(one, &inclusion_batch.prove(connection, one.seq).await?));
        }
        let last = CheckpointLine { checkpoint: checkpoint.clone(), key };
        lines += &(serde_json::to_string(&last).context("writing evidence")? + "\n");
        Ok(Self { about, found, lines, checkpoint, keys })
    }

    /// The files with their names. Derives the reports, which takes time that grows with the number of events.
    pub(super) fn files(self) -> Result<Vec<(&'static str, String)>, Fault> {
        let mut files: Vec<(&str, String)> = derive(&self.about, &self.found)?.into_iter().collect();
        files.extend([(EVENTS, self.lines), (CHECKPOINT, self.checkpoint), (KEYS, self.keys)]);
        Ok(files)
    }
}

/// How the log names a person.
pub(super) fn name_of(person: &Person) -> SubjectName {
    SubjectName { pseudonym: person.pseudonym.clone(), salt: base64url::encode(person.salt) }
}
