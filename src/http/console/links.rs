//! URLs of the console.

use serde_json::Value;

use actchain_protocol::metadata::issuer_path;

/// The URL of a path below the issuer, for links on the same host.
pub(super) fn url(issuer: &str, path: &str) -> String {
    format!("{}{path}", issuer_path(issuer))
}

/// A text as one segment of a path.
pub(super) fn path_segment(text: &str) -> String {
    form_encoded(text).replace('+', "%20")
}

/// A value as it is written in a query or a path.
pub(super) fn form_encoded(value: &str) -> String {
    url::form_urlencoded::byte_serialize(value.as_bytes()).collect()
}

/// The path of the page of an event: its `seq` never changes.
pub(super) fn event_path(event: &Value) -> String {
    seq_path(event.get("seq").and_then(Value::as_u64).unwrap_or_default())
}

/// The path of the page of the event at this place of the log.
pub(super) fn seq_path(seq: u64) -> String {
    format!("/console/events/{seq}")
}
