//! `Actchain-Receipt`: the position of a response's event in the log, as a dictionary of RFC 9651 (`seq=123,
//! leaf=:base64:`).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::merkle::Hash;
use super::tlog_proof::decimal;

/// The name of the header field.
pub const FIELD: &str = "actchain-receipt";

/// An event's number and leaf hash. With a receipt, a client can request a proof that the event is in the log,
/// unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// Position in the log, which is the index of the leaf.
    pub seq: u64,
    /// SHA-256(0x00 ‖ document).
    pub leaf: Hash,
}

impl Receipt {
    /// The value of the header, as a dictionary of structured fields (RFC 9651 §3.2).
    pub fn text(&self) -> String {
        format!("seq={}, leaf=:{}:", self.seq, STANDARD.encode(self.leaf))
    }

    /// Parses the field's value, with members in either order. Other members are ignored. If a name is repeated, the
    /// last value is used (RFC 9651 §4.2.2).
    pub fn parse(text: &str) -> Option<Self> {
        let (mut seq, mut leaf) = (None, None);
        for member in text.trim_matches([' ', '\t']).split(',') {
            let (name, value) = member.trim_matches([' ', '\t']).split_once('=')?;
            match name {
                "seq" => seq = Some(decimal(value)?),
                "leaf" => {
                    let bytes = value.strip_prefix(':')?.strip_suffix(':')?;
                    leaf = Some(STANDARD.decode(bytes).ok()?.try_into().ok()?);
                }
                _ => {}
            }
        }
        Some(Self { seq: seq?, leaf: leaf? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_is_read_as_it_is_written() {
        let receipt = Receipt { seq: 123, leaf: [7; 32] };
        assert_eq!(receipt.text(), "seq=123, leaf=:BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=:");
        assert_eq!(Receipt::parse(&receipt.text()), Some(receipt));
        let other = "leaf=:BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=: ,\tmore=1,seq=123";
        assert_eq!(Receipt::parse(other), Some(receipt));
    }

    #[test]
    fn anything_else_is_no_receipt() {
        for text in [
            "",
            "seq=1",
            "seq=01, leaf=:BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=:",
            "seq=-1, leaf=:BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=:",
            "seq=1, leaf=BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=",
            "seq=1, leaf=:BwcH:",
            "seq=1, leaf=:BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=:,",
        ] {
            assert_eq!(Receipt::parse(text), None, "{text}");
        }
    }
}
