//! Terms of the search index: a field of an event with a value.

use actchain_protocol::digest::sha256;

/// The field of a term. Its number is part of stored terms: it never changes, and none is used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Field {
    Id = 0,
    Action = 1,
    Outcome = 2,
    Reason = 3,
    /// The client that made the request.
    Client = 4,
    Subject = 5,
    /// The client or user that made the request, or any actor in the chain.
    Actor = 6,
    /// A delegation on the delegation path.
    Delegation = 7,
    Chain = 8,
    /// Set on every event that has a chain.
    Chained = 9,
    /// The issued token or the subject token.
    Token = 10,
    Target = 11,
    Session = 12,
    Request = 13,
    /// What kind of actor caused the event.
    ActorType = 14,
    /// Set on every event that has a session.
    InSession = 15,
    /// The id of a rule that matched.
    Rule = 16,
    /// `true` on every event that has a finding.
    Flagged = 17,
    StandingGrant = 18,
}

/// Hashes (field, value) to a 64-bit index term. Terms can collide: callers must check the document.
pub fn term(field: Field, value: &str) -> i64 {
    let [a, b, c, d, e, f, g, h, ..] = sha256(&[&[field as u8], value.as_bytes()]);
    i64::from_be_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Terms in databases: SHA-256 of the number and the value, first eight bytes.
    #[test]
    fn terms_never_change() {
        let terms = [
            (Field::Id, 8_320_260_777_609_600_635),
            (Field::Action, 8_515_536_178_591_411_956),
            (Field::Outcome, 8_349_015_620_311_878_310),
            (Field::Reason, -1_035_170_327_712_962_091),
            (Field::Client, -1_452_851_660_866_932_720),
            (Field::Subject, -8_832_678_241_783_190_305),
            (Field::Actor, -8_398_395_012_677_893_821),
            (Field::Delegation, 1_698_527_379_604_330_044),
            (Field::Chain, -2_650_963_788_049_326_399),
            (Field::Chained, -4_145_236_659_584_678_659),
            (Field::Token, 421_241_880_293_978_529),
            (Field::Target, 3_716_287_053_139_506_808),
            (Field::Session, -8_048_993_062_270_011_082),
            (Field::Request, 2_925_166_831_066_409_780),
            (Field::ActorType, -1_320_387_602_716_248_618),
            (Field::InSession, -354_456_523_616_461_607),
            (Field::Rule, -4_021_447_243_365_390_246),
            (Field::Flagged, -4_521_299_216_816_773_359),
            (Field::StandingGrant, 1_207_362_092_586_401_981),
        ];
        for (number, (field, expected)) in terms.into_iter().enumerate() {
            assert_eq!((field as usize, term(field, "value")), (number, expected), "{field:?}");
        }
    }
}
