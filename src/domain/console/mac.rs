//! The content of sessions and links that their row MACs cover. The end of a session and its last use are not covered: a
//! writer to the database can reopen a session within its life, which opens it only to a browser that has its cookie.

use serde_json::{Value, json};

use super::{AuthTime, ConsoleLink, ConsoleSession, PendingSignIn};
use crate::domain::row_mac::MacRow;
use crate::platform::clock::rfc3339;
use actchain_protocol::base64url;

/// A row with its id as text, as its MAC covers it.
pub(super) struct Keyed<'a, T> {
    pub(super) id: String,
    pub(super) row: &'a T,
}

impl MacRow for Keyed<'_, ConsoleSession> {
    const TABLE: &'static str = "console_session";
    const KEY: &'static str = "id";

    fn row_id(&self) -> &str {
        &self.id
    }

    fn content(&self) -> Value {
        let ConsoleSession {
            id: _,
            secret_sha256,
            role,
            role_by,
            who,
            issuer_subject,
            issuer_session,
            label,
            signed_in_at,
            authenticated_at,
            auth_time,
            expires_at,
            last_seen_at: _,
            ended_at: _,
            ip,
            user_agent,
        } = self.row;
        json!({
            "secret_sha256": base64url::encode(secret_sha256), "role": role, "role_by": role_by, "who": who,
            "issuer_subject": issuer_subject, "issuer_session": issuer_session, "label": label,
            "signed_in_at": rfc3339(*signed_in_at), "authenticated_at": rfc3339(*authenticated_at),
            "auth_time_known": *auth_time == AuthTime::Known,
            "expires_at": rfc3339(*expires_at), "ip": ip, "user_agent": user_agent,
        })
    }
}

impl MacRow for Keyed<'_, ConsoleLink> {
    const TABLE: &'static str = "console_link";
    const KEY: &'static str = "id";

    fn row_id(&self) -> &str {
        &self.id
    }

    fn content(&self) -> Value {
        let ConsoleLink { id: _, secret_sha256, expires_at } = self.row;
        json!({"secret_sha256": base64url::encode(secret_sha256), "expires_at": rfc3339(*expires_at)})
    }
}

impl MacRow for Keyed<'_, PendingSignIn> {
    const TABLE: &'static str = "console_sign_in";
    const KEY: &'static str = "state_sha256";

    fn row_id(&self) -> &str {
        &self.id
    }

    fn content(&self) -> Value {
        let PendingSignIn {
            state_sha256: _,
            browser_sha256,
            iss,
            nonce,
            verifier,
            return_to,
            purpose,
            created_at,
            expires_at,
        } = self.row;
        json!({
            "browser_sha256": base64url::encode(browser_sha256), "iss": iss, "nonce": nonce, "verifier": verifier,
            "return_to": return_to, "purpose": purpose, "created_at": rfc3339(*created_at),
            "expires_at": rfc3339(*expires_at),
        })
    }
}
