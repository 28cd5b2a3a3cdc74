//! The content of a refresh token that its row MAC covers. Its last use and its end are not covered: statements change them
//! without the whole row, and an end never widens anything.

use serde_json::{Value, json};

use super::RefreshToken;
use crate::domain::row_mac::MacRow;
use crate::platform::clock::rfc3339;
use actchain_protocol::digest::hex;

impl MacRow for RefreshToken {
    const TABLE: &'static str = "refresh_token";
    const KEY: &'static str = "id";

    fn row_id(&self) -> &str {
        &self.id
    }

    fn content(&self) -> Value {
        let Self {
            id: _,
            digest,
            delegation_id,
            client_id,
            jkt,
            subject,
            granted,
            login,
            txn,
            session_id,
            issued_at,
        } = self;
        json!({
            "digest": hex(digest), "delegation_id": delegation_id, "client_id": client_id, "jkt": jkt,
            "subject": subject, "granted": granted, "login": login, "txn": txn, "session_id": session_id,
            "issued_at": rfc3339(*issued_at),
        })
    }
}
