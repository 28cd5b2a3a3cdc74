//! Client credentials in a request (RFC 6749 §2.3, RFC 7521 §4.2), parsed but not verified.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::SecretString;

use super::token_exchange::percent_decode;

/// `client_assertion_type` of RFC 7523 §2.2.
pub const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// The credentials of `client_secret_basic`.
#[derive(Debug)]
pub struct Basic {
    /// After percent-decoding (RFC 6749 §2.3.1).
    pub client_id: String,
    /// After percent-decoding; not yet compared with anything.
    pub secret: SecretString,
}

/// Parses an `Authorization: Basic` value: base64, split at the first colon, each half form-decoded (RFC 6749 §2.3.1
/// and Appendix B). The undecoded spelling is not accepted as well, since a client would then have two valid secrets.
pub fn parse_basic(header: &str) -> Option<Basic> {
    let (scheme, credentials) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(credentials.trim_start_matches(' ')).ok()?).ok()?;
    let (client_id, secret) = decoded.split_once(':')?;
    Some(Basic { client_id: percent_decode(client_id)?, secret: SecretString::from(percent_decode(secret)?) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors;
    use secrecy::ExposeSecret as _;

    #[test]
    fn client_id_and_secret_are_form_decoded() {
        for case in vectors::cases(include_str!("../vectors/client-secret-basic.json")) {
            let basic = parse_basic(vectors::text(&case, "header"));
            let read = basic.as_ref().map(|basic| (basic.client_id.as_str(), basic.secret.expose_secret()));
            assert_eq!(read, case["client_id"].as_str().zip(case["secret"].as_str()), "{case}");
        }
    }

    #[test]
    fn an_authorization_header_that_is_not_basic_is_refused() {
        for header in ["", "Basic", "Basic !!!", "Bearer YTpi", "Basic YWI=", "Basic /////w==", "Basic JTp4"]
        {
            assert!(parse_basic(header).is_none(), "{header}");
        }
    }
}
