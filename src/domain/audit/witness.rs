//! The witnesses of the log, and how many of them must vouch for a checkpoint.

use std::collections::HashSet;

use url::Url;

use crate::platform::fault::{Context, Fault};
use actchain_protocol::signed_note::{self, Checkpoint, Signature, SignerKind, VerifierKey};

/// A witness whose cosignatures are accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfiguredWitness {
    pub key: VerifierKey,
    /// Where the log requests cosignatures; a witness without a URL brings its cosignatures itself.
    pub url: Option<Url>,
}

impl ConfiguredWitness {
    /// Parses `name+id+key`, or `name+id+key URL`.
    fn parse(text: &str) -> Result<Self, Fault> {
        let (key, url) = match text.split_once(' ') {
            Some((key, url)) => (key, Some(url.trim())),
            None => (text, None),
        };
        let key = VerifierKey::parse(key).filter(|key| key.kind() == SignerKind::Witness);
        let key = key.ok_or_else(|| Fault::new(format!("{text:?} is no key of a witness")))?;
        let url = url.map(|url| Url::parse(url).context(&format!("reading the URL of {}", key.name())));
        let url = url.transpose()?;
        if let Some(url) = &url
            && (!matches!(url.scheme(), "http" | "https")
                || url.query().is_some()
                || url.fragment().is_some())
        {
            return Err(Fault::new(format!("{url} is no http or https URL without a query")));
        }
        Ok(Self { key, url })
    }
}

/// The configured witnesses with their quorum.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Witnesses {
    list: Vec<ConfiguredWitness>,
    quorum: usize,
}

impl Witnesses {
    /// Parses the configured witnesses. Without a quorum, more than half of them must vouch.
    ///
    /// # Errors
    /// A fault for a text that is no witness, for a key or a name that occurs twice, and for a quorum that these
    /// witnesses cannot reach.
    pub fn new(texts: &[String], quorum: Option<u32>) -> Result<Self, Fault> {
        let list: Vec<ConfiguredWitness> =
            texts.iter().map(|text| ConfiguredWitness::parse(text)).collect::<Result<_, _>>()?;
        let mut names = HashSet::new();
        if let Some(twice) = list.iter().find(|witness| !names.insert(witness.key.name())) {
            return Err(Fault::new(format!("the witness {} is named twice", twice.key.name())));
        }
        let mut keys = HashSet::new();
        if let Some(twice) = list.iter().find(|witness| !keys.insert(witness.key.public())) {
            return Err(Fault::new(format!("the key of {} is named twice", twice.key.name())));
        }
        let quorum = match quorum {
            None => list.len() / 2 + usize::from(!list.is_empty()),
            Some(wanted) => usize::try_from(wanted).unwrap_or(usize::MAX),
        };
        let reachable = if list.is_empty() { quorum == 0 } else { (1..=list.len()).contains(&quorum) };
        if !reachable {
            return Err(Fault::new(format!("a quorum of {quorum} out of {} witnesses", list.len())));
        }
        Ok(Self { list, quorum })
    }

    pub fn iter(&self) -> impl Iterator<Item = &ConfiguredWitness> {
        self.list.iter()
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many witnesses must have cosigned a checkpoint.
    pub fn quorum(&self) -> usize {
        self.quorum
    }

    /// The witness whose name and key id a signature has; the signature is not verified.
    pub fn named_by(&self, signature: &Signature) -> Option<&VerifierKey> {
        self.list.iter().map(|witness| &witness.key).find(|key| signature.names(key))
    }

    /// The size of a checkpoint if at least the quorum has cosigned it. `None` without witnesses.
    pub fn cosigned_size(&self, note: &str) -> Option<u64> {
        let (text, _) = signed_note::parts(note)?;
        let vouched = self.quorum > 0 && self.cosigners(note).len() >= self.quorum;
        vouched.then(|| Checkpoint::parse(&text)).flatten().map(|checkpoint| checkpoint.size)
    }

    /// The names of the witnesses whose valid cosignature a checkpoint has.
    pub fn cosigners(&self, note: &str) -> Vec<&str> {
        let Some((text, signatures)) = signed_note::parts(note) else { return Vec::new() };
        let valid =
            |witness: &&ConfiguredWitness| signatures.iter().any(|one| one.is_by(&witness.key, &text));
        self.list.iter().filter(valid).map(|witness| witness.key.name()).collect()
    }
}

/// The times in the valid cosignatures of a checkpoint by these witnesses, in seconds of Unix time.
pub fn cosigned_at(witnesses: &Witnesses, note: &str) -> Vec<u64> {
    let Some((text, signatures)) = signed_note::parts(note) else { return Vec::new() };
    let valid = signatures.iter().filter(|one| witnesses.iter().any(|known| one.is_by(&known.key, &text)));
    valid.filter_map(Signature::cosigned_at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str, byte: u8) -> String {
        VerifierKey::of_kind(SignerKind::Witness, name, [byte; 32]).unwrap().text()
    }

    #[test]
    fn a_witness_is_a_key_with_or_without_a_url() {
        let texts = [key("a.example", 1), format!("{} https://b.example/witness", key("b.example", 2))];
        let witnesses = Witnesses::new(&texts, None).unwrap();
        let urls: Vec<_> = witnesses.iter().map(|one| one.url.as_ref().map(Url::as_str)).collect();
        assert_eq!(urls, [None, Some("https://b.example/witness")]);
        for text in [
            String::new(),
            "a.example".to_owned(),
            VerifierKey::new("log.example/audit", [1; 32]).unwrap().text(),
            format!("{} b.example", key("b.example", 2)),
            format!("{} ftp://b.example", key("b.example", 2)),
            format!("{} https://b.example/?a=b", key("b.example", 2)),
        ] {
            assert!(Witnesses::new(std::slice::from_ref(&text), None).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_quorum_is_more_than_half_unless_it_is_named() {
        let texts: Vec<String> = (0..4).map(|n| key(&format!("w{n}.example"), n)).collect();
        let quorum = |count: usize, wanted| Witnesses::new(&texts[..count], wanted).map(|all| all.quorum());
        for (count, expected) in [(0, 0), (1, 1), (2, 2), (3, 2), (4, 3)] {
            assert_eq!(quorum(count, None).unwrap(), expected, "of {count}");
        }
        assert_eq!((quorum(4, Some(1)).unwrap(), quorum(4, Some(4)).unwrap()), (1, 4));
        assert!(quorum(4, Some(0)).is_err() && quorum(4, Some(5)).is_err() && quorum(0, Some(1)).is_err());
        let twice = [key("a.example", 1), key("a.example", 2)];
        assert!(Witnesses::new(&twice, None).is_err(), "a name that occurs twice");
        let twice = [key("a.example", 1), key("b.example", 1)];
        assert!(
            Witnesses::new(&twice, None).is_err(),
            "one key under two names would count as two witnesses"
        );
    }
}
