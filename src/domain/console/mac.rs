//! The content of sessions and links that their row MACs cover. The end of a session and its last use are not covered: a
//! writer to the database can reopen a session within its life, which opens it only to a browser that has its cookie.

use serde_json::{Value, json};

use super::{ConsoleLink, ConsoleSession};
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
            who,
            issuer_session,
            signed_in_at,
            authenticated_at,
            expires_at,
            last_seen_at: _,
            ended_at: _,
            ip,
            user_agent,
        } = self.row;
        json!({
            "secret_sha256": base64url::encode(secret_sha256), "role": role, "who": who, "issuer_session": issuer_session,
            "signed_in_at": rfc3339(*signed_in_at), "authenticated_at": rfc3339(*authenticated_at),
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
