//! Checkpoints of the log as C2SP signed notes (c2sp.org/signed-note, c2sp.org/tlog-checkpoint) with Ed25519.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::merkle::Hash;
use crate::platform::digest::sha256;
use crate::platform::jose::verify_ed25519;

/// Signature type of Ed25519.
const ED25519: u8 = 0x01;
/// EM DASH and a space begin every signature line.
const SIGNATURE_PREFIX: &str = "\u{2014} ";

/// A size and root that somebody vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which log.
    pub origin: String,
    /// How many events.
    pub size: u64,
    /// Root over them.
    pub root: Hash,
}

impl Checkpoint {
    /// The text that is signed: three lines.
    pub fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, STANDARD.encode(self.root))
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.strip_suffix('\n')?.split('\n');
        let (origin, size, root) = (lines.next()?, lines.next()?, lines.next()?);
        // Extension lines may follow, none of them empty.
        if origin.is_empty() || lines.any(str::is_empty) {
            return None;
        }
        let canonical = size == "0" || !size.starts_with('0');
        if !canonical || !size.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let root = STANDARD.decode(root).ok()?.try_into().ok()?;
        Some(Self { origin: origin.to_owned(), size: size.parse().ok()?, root })
    }
}

/// A key that vouches for a log, as verifiers know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    public: [u8; 32],
}

impl VerifierKey {
    /// A key by name; `None` if the name is empty or has spaces or a `+`.
    pub fn new(name: &str, public: [u8; 32]) -> Option<Self> {
        let usable = !name.is_empty() && !name.contains('+') && !name.chars().any(char::is_whitespace);
        usable.then(|| Self { name: name.to_owned(), public })
    }

    /// Reads `name+id+key`.
    pub fn parse(text: &str) -> Option<Self> {
        let (name, rest) = text.split_once('+')?;
        let (id, key) = rest.split_once('+')?;
        let key = STANDARD.decode(key).ok()?;
        let (kind, public) = key.split_first()?;
        let key = Self::new(name, public.try_into().ok()?)?;
        (*kind == ED25519 && hex(&key.id()) == id).then_some(key)
    }

    /// Writes `name+id+key`.
    pub fn text(&self) -> String {
        let key: Vec<u8> = std::iter::once(ED25519).chain(self.public).collect();
        format!("{}+{}+{}", self.name, hex(&self.id()), STANDARD.encode(key))
    }

    /// The first four bytes of SHA-256(name ‖ LF ‖ type ‖ key).
    fn id(&self) -> [u8; 4] {
        let digest = sha256(&[self.name.as_bytes(), b"\n", &[ED25519], &self.public]);
        let [a, b, c, d, ..] = digest;
        [a, b, c, d]
    }

    /// The signature line for a signature over a note's text.
    pub fn signature_line(&self, signature: &[u8]) -> String {
        let blob: Vec<u8> = self.id().into_iter().chain(signature.iter().copied()).collect();
        format!("{SIGNATURE_PREFIX}{} {}\n", self.name, STANDARD.encode(blob))
    }
}

/// Puts a note together.
pub fn note(text: &str, signature_line: &str) -> String {
    format!("{text}\n{signature_line}")
}

/// Opens a note that at least one of the keys has signed. Unknown signers are passed over; a bad signature under a
/// known key spoils the note.
pub fn open(note: &str, keys: &[VerifierKey]) -> Option<Checkpoint> {
    let (text, signatures) = note.rsplit_once("\n\n")?;
    let text = format!("{text}\n");
    if text.chars().any(|c| c.is_control() && c != '\n') || !signatures.ends_with('\n') {
        return None;
    }
    let mut vouched = false;
    for line in signatures.lines() {
        let (name, blob) = line.strip_prefix(SIGNATURE_PREFIX)?.split_once(' ')?;
        let blob = STANDARD.decode(blob).ok()?;
        let (id, signature) = blob.split_at_checked(4)?;
        let Some(key) = keys.iter().find(|key| key.name == name && key.id() == id) else { continue };
        if !verify_ed25519(&key.public, text.as_bytes(), signature) {
            return None;
        }
        vouched = true;
    }
    vouched.then(|| Checkpoint::parse(&text)).flatten()
}

/// Whether a note has a signature, good or bad, under the name and id of one of the keys.
pub fn names_signer(note: &str, keys: &[VerifierKey]) -> bool {
    let signer = |line: &str| {
        let (name, blob) = line.strip_prefix(SIGNATURE_PREFIX)?.split_once(' ')?;
        let blob = STANDARD.decode(blob).ok()?;
        let id = blob.get(..4)?;
        keys.iter().find(|key| key.name == name && key.id() == id).map(drop)
    };
    note.lines().any(|line| signer(line).is_some())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const VKEY: &str = "as.example.com/audit+07ab2b30+AddamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea";
    const KAT_51: &str = "as.example.com/audit\n7\n3bib5AOAnjJXUNPSY814kpwpQreUKjS3fhIslZSnTIw=\n\n— as.example.com/audit B6srMMIc74Eh+dQh6Lcj0CFEtdm/U36GdgjPEz3kKJYBqOf7Zv/6KXMYVR5yL/FTkdkSQRkyEiyKvL7m5FsbgZGaXQU=\n";

    #[test]
    fn kat_50_key_ids() {
        let key = VerifierKey::parse("example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k");
        assert_eq!(hex(&key.unwrap().id()), "530d903a");
        assert!(
            VerifierKey::parse("example.com/foo+530d903b+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k")
                .is_none()
        );
        assert!(VerifierKey::new("a b", [0; 32]).is_none() && VerifierKey::new("a+b", [0; 32]).is_none());
    }

    #[test]
    fn kat_51_a_checkpoint_opens_and_a_changed_one_does_not() {
        let key = VerifierKey::parse(VKEY).unwrap();
        assert_eq!(key.text(), VKEY);
        let checkpoint = open(KAT_51, std::slice::from_ref(&key)).unwrap();
        assert_eq!((checkpoint.size, checkpoint.origin.as_str()), (7, "as.example.com/audit"));
        assert!(KAT_51.starts_with(&checkpoint.text()));
        assert!(open(&KAT_51.replace("\n7\n", "\n8\n"), std::slice::from_ref(&key)).is_none());
        assert!(open(KAT_51.trim_end(), std::slice::from_ref(&key)).is_none(), "no final newline");
        let stranger = VerifierKey::new("as.example.com/audit", [7; 32]).unwrap();
        assert!(open(KAT_51, &[stranger]).is_none(), "nobody known vouches");
    }
}
