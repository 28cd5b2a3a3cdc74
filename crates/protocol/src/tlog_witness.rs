//! The request of a log for a cosignature, and the rules by which a witness answers (c2sp.org/tlog-witness).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::merkle::{self, Hash};
use super::signed_note::{self, Checkpoint, VerifierKey};
use super::tlog_proof::decimal;

/// Path of the request below the witness's URL.
pub const PATH: &str = "/add-checkpoint";
/// Media type of an answer that consists of a size.
pub const SIZE_MEDIA_TYPE: &str = "text/x.tlog.size";
/// Most hashes of a consistency proof.
const MOST_HASHES: usize = 63;

/// A checkpoint with the proof that its log is a continuation of what the witness cosigned last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddCheckpoint {
    /// Size of the last checkpoint that the witness cosigned; 0 before the first one.
    pub old_size: u64,
    /// The consistency proof from that size to the size of the checkpoint.
    pub proof: Vec<Hash>,
    /// The signed checkpoint.
    pub note: String,
}

impl AddCheckpoint {
    /// The body of the request.
    pub fn text(&self) -> String {
        let proof: String = self.proof.iter().map(|hash| format!("{}\n", STANDARD.encode(hash))).collect();
        format!("old {}\n{proof}\n{}", self.old_size, self.note)
    }

    /// Parses the body of a request. Verifies neither the proof nor the checkpoint.
    pub fn parse(text: &str) -> Option<Self> {
        // The checkpoint contains an empty line too; the first one ends the proof.
        let (head, note) = text.split_once("\n\n")?;
        let mut lines = head.split('\n');
        let old_size = decimal(lines.next()?.strip_prefix("old ")?)?;
        let proof: Vec<Hash> =
            lines.map(|line| STANDARD.decode(line).ok()?.try_into().ok()).collect::<Option<_>>()?;
        (proof.len() <= MOST_HASHES).then(|| Self { old_size, proof, note: note.to_owned() })
    }
}

/// Why a witness does not cosign a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WitnessRefusal {
    /// The body is not such a request, or its old size is larger than the checkpoint.
    Malformed,
    /// The witness does not watch this log.
    UnknownLog,
    /// No trusted key of the log has signed the checkpoint.
    SignatureInvalid,
    /// The last cosigned checkpoint has this size.
    OldSize(u64),
    /// The proof does not lead from the last cosigned checkpoint to this one: the log was rewritten.
    ProofInvalid,
    /// A checkpoint of this size with another root was cosigned: the log shows two histories.
    RootDiffers,
}

impl WitnessRefusal {
    /// The status of the answer.
    pub fn status(self) -> u16 {
        match self {
            Self::Malformed => 400,
            Self::UnknownLog => 404,
            Self::SignatureInvalid => 403,
            Self::OldSize(_) | Self::RootDiffers => 409,
            Self::ProofInvalid => 422,
        }
    }
}

/// A checkpoint that a trusted key of its log has signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedCheckpoint {
    /// What the log has signed, and what a witness cosigns.
    pub text: String,
    /// The content of the text.
    pub checkpoint: Checkpoint,
}

/// The checkpoint of a request, after its signature is verified. `keys_of` returns the trusted keys of a log by its name.
///
/// # Errors
/// The first rule of the specification that the request does not meet.
pub fn verify<'a>(
    request: &AddCheckpoint,
    keys_of: impl FnOnce(&str) -> &'a [VerifierKey],
) -> Result<SignedCheckpoint, WitnessRefusal> {
    let (text, _) = signed_note::parts(&request.note).ok_or(WitnessRefusal::Malformed)?;
    let checkpoint = Checkpoint::parse(&text).ok_or(WitnessRefusal::Malformed)?;
    let keys = keys_of(&checkpoint.origin);
    if keys.is_empty() {
        return Err(WitnessRefusal::UnknownLog);
    }
    if signed_note::open_text(&request.note, keys).is_none() {
        return Err(WitnessRefusal::SignatureInvalid);
    }
    if request.old_size > checkpoint.size {
        return Err(WitnessRefusal::Malformed);
    }
    Ok(SignedCheckpoint { text, checkpoint })
}

/// Whether a verified checkpoint continues the one of the same log that was cosigned last. Nothing may cosign for this
/// log between this check and the moment at which the checkpoint is stored.
///
/// # Errors
/// The first rule of the specification that the request does not meet.
pub fn check_continuation(
    request: &AddCheckpoint,
    checkpoint: &Checkpoint,
    last: Option<&Checkpoint>,
) -> Result<(), WitnessRefusal> {
    let (last_size, last_root) = match last {
        Some(last) => (last.size, last.root),
        None => (0, merkle::Frontier::default().root()),
    };
    if request.old_size != last_size {
        return Err(WitnessRefusal::OldSize(last_size));
    }
    if last_size == checkpoint.size && last_root != checkpoint.root {
        return Err(WitnessRefusal::RootDiffers);
    }
    let proof = &request.proof;
    match merkle::verify_consistency(last_size, checkpoint.size, proof, &last_root, &checkpoint.root) {
        true => Ok(()),
        false => Err(WitnessRefusal::ProofInvalid),
    }
}

/// The answer that has the size of the last cosigned checkpoint.
pub fn size_text(size: u64) -> String {
    format!("{size}\n")
}

/// Parses the answer that has the size of the last cosigned checkpoint.
pub fn parse_size(text: &str) -> Option<u64> {
    decimal(text.strip_suffix('\n')?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jose::{PublicKey, SigningAlg, SigningKey};
    use crate::merkle::{Frontier, consistency_spans, leaf};
    use crate::{base64url, signed_note::note};

    const LOG: &str = "as.example.com/audit";

    struct Log {
        key: SigningKey,
        leaves: Vec<Hash>,
    }

    impl Log {
        fn new(events: u8) -> Self {
            let key = SigningKey::generate(SigningAlg::Ed25519).unwrap().0;
            Self { key, leaves: (0..events).map(|event| leaf(&[event])).collect() }
        }

        fn verifier(&self) -> VerifierKey {
            verifier(self.key.public())
        }

        fn root(&self, from: usize, to: usize) -> Hash {
            let mut tree = Frontier::default();
            self.leaves[from..to].iter().for_each(|leaf| tree.push(*leaf));
            tree.root()
        }

        fn checkpoint(&self, size: usize) -> Checkpoint {
            Checkpoint { origin: LOG.to_owned(), size: size as u64, root: self.root(0, size) }
        }

        fn request(&self, old: usize, size: usize) -> AddCheckpoint {
            let text = self.checkpoint(size).text();
            let line = self.verifier().signature_line(&self.key.sign_raw(text.as_bytes()).unwrap());
            let spans = consistency_spans(old as u64, size as u64).unwrap_or_default();
            let proof = spans.iter().map(|span| self.root(span.from as usize, span.to as usize)).collect();
            AddCheckpoint { old_size: old as u64, proof, note: note(&text, &line) }
        }

        fn answer(
            &self,
            request: &AddCheckpoint,
            last: Option<Checkpoint>,
        ) -> Result<Checkpoint, WitnessRefusal> {
            let keys = [self.verifier()];
            let signed = verify(request, |name| if name == LOG { &keys } else { &[] })?;
            check_continuation(request, &signed.checkpoint, last.as_ref())?;
            Ok(signed.checkpoint)
        }
    }

    fn verifier(public: &PublicKey) -> VerifierKey {
        let jwk = public.to_jwk(SigningAlg::Ed25519.alg(), "");
        let public = base64url::decode(jwk["x"].as_str().unwrap()).unwrap();
        VerifierKey::new(LOG, public.try_into().unwrap()).unwrap()
    }

    #[test]
    fn a_request_is_read_as_it_was_written_and_other_texts_are_no_requests() {
        let log = Log::new(9);
        for request in [log.request(0, 9), log.request(5, 9), log.request(9, 9)] {
            assert_eq!(AddCheckpoint::parse(&request.text()), Some(request));
        }
        let text = log.request(5, 9).text();
        for (from, to) in [
            ("old 5", "old 05"),
            ("old 5", "old -5"),
            ("old 5", "old"),
            ("old 5", "new 5"),
            ("old 5\n", "old 5\r\n"),
            ("old 5\n", "old 5\nAAAA\n"),
            ("\n\n", "\n"),
        ] {
            assert_eq!(AddCheckpoint::parse(&text.replacen(from, to, 1)), None, "{to:?}");
        }
        let long = AddCheckpoint { proof: vec![[0; 32]; 64], ..log.request(0, 9) };
        assert_eq!(AddCheckpoint::parse(&long.text()), None, "at most 63 lines");
        assert_eq!(parse_size(&size_text(50)), Some(50));
        for text in ["50", "", "\n", "050\n", "50\n\n", "root differs\n"] {
            assert_eq!(parse_size(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_continuation_of_what_was_cosigned_last_is_cosigned() {
        let log = Log::new(20);
        for size in 0..=20 {
            let first = log.answer(&log.request(0, size), None);
            assert_eq!(first, Ok(log.checkpoint(size)), "the first checkpoint needs no proof");
            for old in 0..=size {
                let last = Some(log.checkpoint(old));
                assert_eq!(log.answer(&log.request(old, size), last), Ok(log.checkpoint(size)));
            }
        }
    }

    #[test]
    fn every_rule_of_a_witness_has_its_answer() {
        let log = Log::new(20);
        let last = || Some(log.checkpoint(8));
        let refused = |request: &AddCheckpoint| log.answer(request, last()).unwrap_err();

        let mut unsigned = log.request(8, 12);
        unsigned.note = unsigned.note.replacen("\n12\n", "\n13\n", 1);
        assert_eq!(refused(&unsigned), WitnessRefusal::SignatureInvalid);
        let stranger = Log { key: SigningKey::generate(SigningAlg::Ed25519).unwrap().0, ..Log::new(20) };
        assert_eq!(refused(&stranger.request(8, 12)), WitnessRefusal::SignatureInvalid);
        let mut other = log.request(8, 12);
        other.note = other.note.replace(LOG, "other.example.com/audit");
        assert_eq!(refused(&other), WitnessRefusal::UnknownLog);
        let broken = AddCheckpoint { note: "no note".to_owned(), ..log.request(8, 12) };
        assert_eq!(refused(&broken), WitnessRefusal::Malformed);
        let larger = AddCheckpoint { old_size: 13, ..log.request(8, 12) };
        assert_eq!(refused(&larger), WitnessRefusal::Malformed);

        assert_eq!(refused(&log.request(0, 12)), WitnessRefusal::OldSize(8));
        assert_eq!(refused(&log.request(7, 12)), WitnessRefusal::OldSize(8));
        assert_eq!(refused(&log.request(9, 12)), WitnessRefusal::OldSize(8));
        assert_eq!(log.answer(&log.request(8, 12), None).unwrap_err(), WitnessRefusal::OldSize(0));
        assert_eq!(refused(&log.request(4, 4)), WitnessRefusal::OldSize(8), "a log does not shrink");

        let mut rewritten = Log { key: log.key.clone(), leaves: log.leaves.clone() };
        rewritten.leaves[3] = leaf(b"another event");
        assert_eq!(refused(&rewritten.request(8, 12)), WitnessRefusal::ProofInvalid);
        assert_eq!(refused(&rewritten.request(8, 8)), WitnessRefusal::RootDiffers);
        let bare = AddCheckpoint { proof: Vec::new(), ..log.request(8, 12) };
        assert_eq!(refused(&bare), WitnessRefusal::ProofInvalid);
        let surplus = AddCheckpoint { proof: vec![[0; 32]], ..log.request(0, 12) };
        assert_eq!(log.answer(&surplus, None).unwrap_err(), WitnessRefusal::ProofInvalid);
        let statuses: Vec<u16> = [
            WitnessRefusal::Malformed,
            WitnessRefusal::SignatureInvalid,
            WitnessRefusal::UnknownLog,
            WitnessRefusal::OldSize(8),
            WitnessRefusal::RootDiffers,
            WitnessRefusal::ProofInvalid,
        ]
        .map(WitnessRefusal::status)
        .into();
        assert_eq!(statuses, [400, 403, 404, 409, 409, 422], "c2sp.org/tlog-witness");
    }
}
