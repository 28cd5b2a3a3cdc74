//! Tokens of forms: a MAC over session and target. Each page masks it with other bytes, so that compression does not reveal it.

use crate::app::App;
use crate::domain::console::ConsoleSession;
use crate::platform::fault::Fault;
use actchain_protocol::{base64url, random};

/// The hidden field with the form's token.
pub(super) const TOKEN_FIELD: &str = "form_token";
const LENGTH: usize = 32;

fn mac(app: &App, session: &ConsoleSession, target: &str) -> [u8; LENGTH] {
    app.fingerprint(&[b"console form\n", &session.secret_sha256, b"\n", target.as_bytes()])
}

/// A token for a form that is sent to `target`.
pub(super) fn make(app: &App, session: &ConsoleSession, target: &str) -> Result<String, Fault> {
    let mask = random::bytes::<LENGTH>()?;
    let masked = mac(app, session, target).into_iter().zip(mask).map(|(byte, mask)| byte ^ mask);
    Ok(base64url::encode(mask.into_iter().chain(masked).collect::<Vec<_>>()))
}

/// Whether a token was made for this session and target.
pub(super) fn fits(app: &App, session: &ConsoleSession, target: &str, token: &str) -> bool {
    let Some(bytes) = base64url::decode(token).filter(|bytes| bytes.len() == 2 * LENGTH) else {
        return false;
    };
    let (mask, masked) = bytes.split_at(LENGTH);
    let expected = mac(app, session, target);
    // Without an early end, so that time says nothing about the place of a difference.
    let difference =
        mask.iter().zip(masked).zip(expected).fold(0, |all, ((mask, byte), own)| all | (mask ^ byte ^ own));
    difference == 0
}
