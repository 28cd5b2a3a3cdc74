//! Checkpoints of the log as C2SP signed notes (c2sp.org/signed-note, c2sp.org/tlog-checkpoint) with Ed25519, and
//! cosignatures of witnesses (c2sp.org/tlog-cosignature).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::merkle::Hash;
use super::tlog_proof::decimal;
use crate::digest::{hex, sha256};
use crate::jose::verify_ed25519;

const ED25519: u8 = 0x01;
/// Signature type of a witness's Ed25519 cosignature.
const ED25519_COSIGNATURE: u8 = 0x04;
/// Most signatures of a note. The specification requires at least 16; no real note has as many as this.
const MOST_SIGNATURES: usize = 100;
/// EM DASH and a space begin every signature line.
const SIGNATURE_PREFIX: &str = "\u{2014} ";

/// Size and root of a log, as stated in a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The name of the log: the first line of its checkpoints.
    pub origin: String,
    /// Number of events in the log.
    pub size: u64,
    /// Root over these events.
    pub root: Hash,
}

impl Checkpoint {
    /// The text that is signed: three lines.
    pub fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, STANDARD.encode(self.root))
    }

    /// Parses the text of a note. Signatures are not verified here.
    pub fn parse(text: &str) -> Option<Self> {
        let mut lines = text.strip_suffix('\n')?.split('\n');
        let (origin, size, root) = (lines.next()?, lines.next()?, lines.next()?);
        // Extension lines may follow; none of them may be empty.
        if origin.is_empty() || lines.any(str::is_empty) {
            return None;
        }
        let size = decimal(size)?;
        let root = STANDARD.decode(root).ok()?.try_into().ok()?;
        Some(Self { origin: origin.to_owned(), size, root })
    }
}

/// Determines what a key signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignerKind {
    /// A log signs the note's text.
    Log,
    /// A witness signs the time of the cosignature and the note's text (c2sp.org/tlog-cosignature).
    Witness,
}

impl SignerKind {
    fn byte(self) -> u8 {
        match self {
            Self::Log => ED25519,
            Self::Witness => ED25519_COSIGNATURE,
        }
    }
}

/// The public key of a log or witness.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    kind: SignerKind,
    public: [u8; 32],
}

impl VerifierKey {
    /// A log's key by name; `None` if the name is empty or has spaces, control characters or a `+`.
    pub fn new(name: &str, public: [u8; 32]) -> Option<Self> {
        Self::of_kind(SignerKind::Log, name, public)
    }

    /// A key of either kind, with the same rules for the name.
    pub fn of_kind(kind: SignerKind, name: &str, public: [u8; 32]) -> Option<Self> {
        let unusable = |c: char| c == '+' || c.is_whitespace() || c.is_control();
        (!name.is_empty() && !name.contains(unusable)).then(|| Self { name: name.to_owned(), kind, public })
    }

    /// Parses `name+id+key` (c2sp.org/signed-note). `None` also if the id does not belong to the key.
    pub fn parse(text: &str) -> Option<Self> {
        let (name, rest) = text.split_once('+')?;
        let (id, key) = rest.split_once('+')?;
        let key = STANDARD.decode(key).ok()?;
        let (kind, public) = key.split_first()?;
        let kind = [SignerKind::Log, SignerKind::Witness].into_iter().find(|one| one.byte() == *kind)?;
        let key = Self::of_kind(kind, name, public.try_into().ok()?)?;
        (hex(&key.id()) == id).then_some(key)
    }

    /// The key as `name+id+key`, as verifiers expect it in their configuration.
    pub fn text(&self) -> String {
        let key: Vec<u8> = std::iter::once(self.kind.byte()).chain(self.public).collect();
        format!("{}+{}+{}", self.name, hex(&self.id()), STANDARD.encode(key))
    }

    /// The name in the signature lines of this key.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The 32 bytes of the Ed25519 key.
    pub fn public(&self) -> &[u8; 32] {
        &self.public
    }

    /// What this key's signatures mean.
    pub fn kind(&self) -> SignerKind {
        self.kind
    }

    /// The first four bytes of SHA-256(name ‖ LF ‖ type ‖ key).
    fn id(&self) -> [u8; 4] {
        let digest = sha256(&[self.name.as_bytes(), b"\n", &[self.kind.byte()], &self.public]);
        let [a, b, c, d, ..] = digest;
        [a, b, c, d]
    }

    /// The signature line for a signature over a note's text. For a witness, `signature` is the result of
    /// [`cosignature`].
    pub fn signature_line(&self, signature: &[u8]) -> String {
        let blob: Vec<u8> = self.id().into_iter().chain(signature.iter().copied()).collect();
        format!("{SIGNATURE_PREFIX}{} {}\n", self.name, STANDARD.encode(blob))
    }

    fn verifies(&self, text: &str, signature: &[u8]) -> bool {
        match self.kind {
            SignerKind::Log => verify_ed25519(&self.public, text.as_bytes(), signature),
            SignerKind::Witness => {
                let Some((time, signature)) = signature.split_first_chunk::<8>() else { return false };
                let message = cosigned(text, u64::from_be_bytes(*time));
                verify_ed25519(&self.public, message.as_bytes(), signature)
            }
        }
    }
}

/// The text that a witness signs: the time in Unix seconds, and the note's text.
pub fn cosigned(text: &str, time: u64) -> String {
    format!("cosignature/v1\ntime {time}\n{text}")
}

/// The signature bytes of a witness: the time, then its signature over [`cosigned`].
pub fn cosignature(time: u64, signature: &[u8]) -> Vec<u8> {
    [&time.to_be_bytes(), signature].concat()
}

/// Joins the text and the signature lines to a note.
pub fn note(text: &str, signature_lines: &str) -> String {
    format!("{text}\n{signature_lines}")
}

/// A signature line of a note, not yet verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// The line, with its line break.
    pub line: String,
    name: String,
    id: [u8; 4],
    signature: Vec<u8>,
}

impl Signature {
    fn parse(line: &str) -> Option<Self> {
        let (name, blob) = line.strip_prefix(SIGNATURE_PREFIX)?.split_once(' ')?;
        let blob = STANDARD.decode(blob).ok()?;
        let (id, signature) = blob.split_first_chunk::<4>()?;
        Some(Self {
            line: format!("{line}\n"),
            name: name.to_owned(),
            id: *id,
            signature: signature.to_vec(),
        })
    }

    /// The key name in the line; not verified.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the line has the name and id of this key. Does not verify the signature.
    pub fn names(&self, key: &VerifierKey) -> bool {
        key.name == self.name && key.id() == self.id
    }

    /// The time in a cosignature of a witness, in seconds of Unix time; not verified.
    pub fn cosigned_at(&self) -> Option<u64> {
        self.signature.first_chunk::<8>().map(|time| u64::from_be_bytes(*time))
    }

    /// Whether the signature is valid for this key and text.
    pub fn is_by(&self, key: &VerifierKey, text: &str) -> bool {
        self.names(key) && key.verifies(text, &self.signature)
    }
}

/// Splits a note into its text and its unverified signatures.
pub fn parts(note: &str) -> Option<(String, Vec<Signature>)> {
    let (text, signatures) = note.rsplit_once("\n\n")?;
    if note.chars().any(|c| c.is_control() && c != '\n') {
        return None;
    }
    let signatures: Vec<Signature> =
        signatures.strip_suffix('\n')?.split('\n').map(Signature::parse).collect::<Option<_>>()?;
    (signatures.len() <= MOST_SIGNATURES).then(|| (format!("{text}\n"), signatures))
}

/// Opens a checkpoint that at least one of the keys has signed. Unknown signers are ignored. An invalid signature
/// under a known key makes the note invalid.
pub fn open(note: &str, keys: &[VerifierKey]) -> Option<Checkpoint> {
    open_text(note, keys).and_then(|text| Checkpoint::parse(&text))
}

/// Returns the text of a note that at least one of the keys has signed, whatever its subject.
pub fn open_text(note: &str, keys: &[VerifierKey]) -> Option<String> {
    let (text, signatures) = parts(note)?;
    let mut vouched = false;
    for signature in &signatures {
        let Some(key) = keys.iter().find(|key| signature.names(key)) else { continue };
        if !signature.is_by(key, &text) {
            return None;
        }
        vouched = true;
    }
    vouched.then_some(text)
}

/// Whether a note has a signature, valid or not, under the name and id of one of the keys.
pub fn names_signer(note: &str, keys: &[VerifierKey]) -> bool {
    let signer = |line: &str| Signature::parse(line).filter(|one| keys.iter().any(|key| one.names(key)));
    note.lines().any(|line| signer(line).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jose::{SigningAlg, SigningKey};
    use crate::{base64url, vectors};
    use serde_json::Value;
    use std::sync::LazyLock;

    const VKEY: &str = "as.example.com/audit+07ab2b30+AddamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea";
    static CHECKPOINT: LazyLock<String> =
        LazyLock::new(|| vectors::text(&checkpoints()[0], "note").to_owned());

    fn checkpoints() -> Vec<Value> {
        vectors::cases(include_str!("../vectors/checkpoints.json"))
    }

    #[test]
    fn a_key_id_follows_from_name_and_key() {
        let key = VerifierKey::parse("example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k");
        assert_eq!(hex(&key.unwrap().id()), "530d903a");
        assert!(
            VerifierKey::parse("example.com/foo+530d903b+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k")
                .is_none()
        );
        assert!(VerifierKey::new("a b", [0; 32]).is_none() && VerifierKey::new("a+b", [0; 32]).is_none());
    }

    #[test]
    fn a_checkpoint_verifies_and_a_changed_one_does_not() {
        let key = VerifierKey::parse(VKEY).unwrap();
        assert_eq!(key.text(), VKEY);
        for case in checkpoints() {
            let key = VerifierKey::parse(vectors::text(&case, "verifier_key")).unwrap();
            let opened = open(vectors::text(&case, "note"), &[key]);
            let (size, root) = (case["size"].as_u64(), case["root"].as_str().map(str::to_owned));
            let opened = opened.map(|checkpoint| (checkpoint.size, STANDARD.encode(checkpoint.root)));
            assert_eq!(opened, size.zip(root), "{}", case["name"]);
        }
        let checkpoint = open(&CHECKPOINT, std::slice::from_ref(&key)).unwrap();
        assert_eq!((checkpoint.size, checkpoint.origin.as_str()), (7, "as.example.com/audit"));
        assert!(CHECKPOINT.starts_with(&checkpoint.text()));
    }

    /// The key of RFC 8037 appendix A.1.
    fn tk1() -> SigningKey {
        let seed = base64url::decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A").unwrap();
        // PKCS#8 of an Ed25519 key (RFC 8410 §7): a fixed prefix before the seed.
        let head = [48, 46, 2, 1, 0, 48, 5, 6, 3, 43, 101, 112, 4, 34, 4, 32];
        SigningKey::from_private(SigningAlg::Ed25519, &[&head[..], &seed].concat()).unwrap()
    }

    fn text() -> String {
        CHECKPOINT.split_once("\n\n").unwrap().0.to_owned() + "\n"
    }

    fn witness(name: &str) -> VerifierKey {
        let public = base64url::decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo").unwrap();
        VerifierKey::of_kind(SignerKind::Witness, name, public.try_into().unwrap()).unwrap()
    }

    fn cosign(name: &str, time: u64) -> String {
        let signature = tk1().sign_raw(cosigned(&text(), time).as_bytes()).unwrap();
        witness(name).signature_line(&cosignature(time, &signature))
    }

    #[test]
    fn the_published_note_verifies() {
        for case in vectors::cases(include_str!("../vectors/signed-notes.json")) {
            let key = VerifierKey::parse(vectors::text(&case, "verifier_key")).unwrap();
            assert_eq!(hex(&key.id()), case["key_id"]);
            let (text, signatures) = parts(vectors::text(&case, "note")).unwrap();
            let verified = signatures[0].is_by(&key, &text).then_some(text);
            assert_eq!(verified.as_deref(), case["text"].as_str(), "{}", case["name"]);
        }
    }

    #[test]
    fn a_cosignature_covers_the_checkpoint_and_the_time() {
        let key = witness("w.example.com");
        assert_eq!(VerifierKey::parse(&key.text()), Some(key.clone()));
        let note = format!("{}{}", *CHECKPOINT, cosign("w.example.com", 1_700_000_000));
        let (text, signatures) = parts(&note).unwrap();
        assert!(signatures[1].is_by(&key, &text) && !signatures[0].is_by(&key, &text));
        assert!(!signatures[1].is_by(&key, &text.replace('7', "8")), "another text");
        assert!(open(&note, std::slice::from_ref(&key)).is_some(), "for a reader who trusts the witness");
        let mut later = signatures[1].clone();
        later.signature[7] ^= 1;
        assert!(!later.is_by(&key, &text), "another time");
        let as_log = VerifierKey::new("w.example.com", key.public).unwrap();
        assert!(!signatures[1].names(&as_log), "the type is part of the id");
        assert!(!signatures[1].is_by(&witness("v.example.com"), &text), "another name");
    }

    #[test]
    fn unknown_signatures_are_ignored_and_an_invalid_signature_of_a_known_key_refuses_the_note() {
        let log = VerifierKey::parse(VKEY).unwrap();
        let lines: String = (0..20).map(|n| cosign(&format!("w{n}.example.com"), 1_700_000_000)).collect();
        let note = format!("{}{lines}", *CHECKPOINT);
        assert_eq!(parts(&note).unwrap().1.len(), 21);
        assert_eq!(open(&note, std::slice::from_ref(&log)).unwrap().size, 7);
        let other = note.replace("\n7\n", "\n8\n");
        assert!(open(&other, std::slice::from_ref(&log)).is_none());
        let stranger = SigningKey::generate(SigningAlg::Ed25519).unwrap().0;
        let forged = stranger.sign_raw(cosigned(&self::text(), 7).as_bytes()).unwrap();
        let forged = witness("w3.example.com").signature_line(&cosignature(7, &forged));
        let spoiled = format!("{}{forged}", *CHECKPOINT);
        assert!(open(&spoiled, std::slice::from_ref(&log)).is_some(), "the key of the witness is unknown");
        assert!(open(&spoiled, &[log, witness("w3.example.com")]).is_none());
        let endless: String = (0..100).map(|n| cosign(&format!("w{n}"), 1)).collect();
        assert!(parts(&format!("{}{endless}", *CHECKPOINT)).is_none());
    }

    #[test]
    fn key_names_and_note_texts_have_no_control_characters() {
        for name in ["", "a b", "a+b", "a\tb", "a\u{a0}b", "a\u{2003}b", "a\u{7}b"] {
            assert!(VerifierKey::new(name, [0; 32]).is_none(), "{name:?}");
        }
        let keys = [VerifierKey::parse(VKEY).unwrap()];
        for (from, to) in
            [("audit\n7", "audit\n\t7"), ("=\n\n", "=\r\n\n"), ("=\n\n", "=\n\n\u{7}"), ("\u{2014} ", "- ")]
        {
            assert!(open(&CHECKPOINT.replacen(from, to, 1), &keys).is_none(), "{to:?}");
        }
        assert!(parts("text\n\n").is_none() && parts("text\n\n\n").is_none(), "no signatures");
    }

    #[test]
    fn an_empty_log_has_a_checkpoint() {
        let root = crate::merkle::Frontier::default().root();
        let text = Checkpoint { origin: "as.example.com/audit".into(), size: 0, root }.text();
        let key = VerifierKey::parse(VKEY).unwrap();
        let whole = note(&text, &key.signature_line(&tk1().sign_raw(text.as_bytes()).unwrap()));
        assert_eq!(
            hex(&sha256(&[whole.as_bytes()])),
            "e645279cb905bf9f8cddd3778c048323d157beaf148efe4d814c801490e1b6d1"
        );
        assert_eq!(open(&whole, &[key]).unwrap().size, 0);
    }
}
