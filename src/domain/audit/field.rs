//! Terms of the search index: a field of an event with a value.

use actchain_protocol::digest::sha256;

/// The field of a term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    Id,
    Action,
    Outcome,
    Reason,
    /// The client that made the request.
    Client,
    Subject,
    /// The client that made the request, or any actor in the chain.
    Actor,
    /// A delegation on the delegation path.
    Delegation,
    Chain,
    /// Set on every event that has a chain.
    Chained,
    /// The issued token or the subject token.
    Token,
    Target,
    Session,
    Request,
    Ip,
    /// What kind of actor caused the event.
    ActorType,
}

/// Hashes (field, value) to a 64-bit index term. Terms can collide: callers must check the document.
pub fn term(field: Field, value: &str) -> i64 {
    let [a, b, c, d, e, f, g, h, ..] = sha256(&[&[field as u8], value.as_bytes()]);
    i64::from_be_bytes([a, b, c, d, e, f, g, h])
}
