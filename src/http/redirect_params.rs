//! Parameters of redirects from other authorization servers (RFC 6749 §4.1.2). Other parameters are ignored, however they
//! are encoded: an authorization code can be redeemed only once, so an unknown parameter must not lose it.

use crate::domain::refusal::Refusal;
use actchain_protocol::token_exchange::percent_decode;

/// The value of a parameter: `Err` if it occurs twice (RFC 6749 §3.1), an inner `Err` if it is not form-encoded UTF-8.
pub(super) fn single(query: &str, name: &str) -> Result<Option<Result<String, Refusal>>, Refusal> {
    let malformed = Refusal::Malformed("A parameter is not form-encoded UTF-8");
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let mut named = pairs.filter(|(own, _)| percent_decode(own).as_deref() == Some(name));
    let value = named.next().map(|(_, value)| value);
    if named.next().is_some() {
        return Err(Refusal::Malformed("A parameter is repeated"));
    }
    let value = value.filter(|value| !value.is_empty());
    Ok(value.map(|value| percent_decode(value).ok_or(malformed)))
}
