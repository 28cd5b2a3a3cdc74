//! The README of evidence: what each file is, how to verify it with actchain and without, and what it proves.

use super::evidence_header::{EvidenceHeader, EvidenceQuestion, one_line};

/// What the evidence answers, in one or two lines.
pub(super) fn question(about: &EvidenceHeader) -> String {
    let who = about.subject_text();
    match &about.question {
        EvidenceQuestion::Period { from, to, .. } => {
            format!("Who acted for {who}\nfrom {from} until before {to}")
        }
        EvidenceQuestion::Chain { txn } => format!("Who acted in the chain {}\nfor {who}", one_line(txn)),
        EvidenceQuestion::Event { seq } => format!("What event {seq} of the log says\nabout {who}"),
    }
}

pub(super) fn readme(about: &EvidenceHeader) -> String {
    format!(
        "Evidence from the audit log of an actchain server
=================================================

{question}, and with what right.

summary.txt       The answer in words. [event N] names the event that proves a line.
chains.json       Each chain with its hops: who acted, under which key, with which scope, by which delegation.
delegations.json  Each delegation: what was granted, by which event, and what happened to it.
events.jsonl      The events as they were recorded, each with its inclusion proof (RFC 9162 section 2.1.3).
checkpoint.note   The checkpoint that the proofs lead to, signed by the key of the log (c2sp.org/tlog-checkpoint).
                  Further signatures are those of witnesses.
keys.txt          The keys that have signed the checkpoint, as name+id+key. Compare them with a key that was kept elsewhere.

Verify it in this folder, without a server and without a network. The key must be one that you have from elsewhere:

    actchain audit verify --key \"NAME+ID+KEY\" .

Without --key, the command trusts the keys in keys.txt, and says so. The command checks the signature, the proof of
every event, and that summary.txt, chains.json, delegations.json and this file follow from the events. It exits 0 if
all of it is valid, 1 if something was changed, 2 if it could not be checked. With --witness and the key of a witness
it also checks the signature of that witness.

Without actchain, verify with Node.js 20 and verify-log.mjs, 60 lines without packages:

    node verify-log.mjs . \"NAME+ID+KEY\"

Take the script from the examples of the actchain repository. It is not in this folder, because a script from the same
place as the evidence could say anything. It checks events.jsonl and checkpoint.note, with the same exit codes.

What this proves: each of these events is in the log of {size} events that the checkpoint covers, as it was recorded.
What this does not prove: that there are no other events. For that, take a whole export (actchain audit export).
",
        question = question(about),
        size = about.size,
    )
}
