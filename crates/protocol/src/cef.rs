//! Events in the Common Event Format, version 0: one line, with a header of seven fields separated by `|` and an
//! extension of `key=value`.

use std::fmt::Write as _;

use serde_json::Value;

use super::severity::{Severity, text};

/// The media type of CEF lines in a response body.
pub const MEDIA_TYPE: &str = "text/plain; charset=utf-8";

/// The line of an event, without a line break.
pub fn line(event: &Value, severity: Severity) -> String {
    let action = text(event, "/action").unwrap_or_default();
    let name = match text(event, "/reason") {
        Some(reason) => format!("{action} {reason}"),
        None => action.to_owned(),
    };
    let version = env!("CARGO_PKG_VERSION");
    let mut line = format!(
        "CEF:0|actchain|actchain|{version}|{}|{}|{}|",
        in_header(action),
        in_header(&name),
        severity.cef()
    );
    let mut first = true;
    let mut add = |key: &str, value: &str| {
        if !value.is_empty() {
            let space = if first { "" } else { " " };
            first = false;
            // Writing to a string does not fail.
            let _ = write!(line, "{space}{key}={}", in_extension(value));
        }
    };
    let of = |pointer| text(event, pointer).unwrap_or_default();
    add("rt", of("/at"));
    add("externalId", of("/id"));
    add("act", action);
    add("outcome", of("/outcome"));
    add("reason", of("/reason"));
    // CEF has separate fields for IPv6 addresses.
    match of("/ip") {
        ip if ip.contains(':') => {
            add("c6a2", ip);
            add("c6a2Label", "Source IPv6 Address");
        }
        ip => add("src", ip),
    }
    add("requestClientApplication", of("/user_agent"));
    add("suid", of("/subject/sub"));
    add("sntdom", of("/subject/iss"));
    if let Some(seq) = event.get("seq").and_then(Value::as_u64) {
        add("cn1", &seq.to_string());
        add("cn1Label", "seq");
    }
    let custom = ["/actor/client_id", "/actor/jkt", "/txn", "/delegation_id", "/target", "/request_id"];
    for (number, pointer) in (1..).zip(custom) {
        if !of(pointer).is_empty() {
            add(&format!("cs{number}"), of(pointer));
            add(&format!("cs{number}Label"), pointer.trim_start_matches('/').replace('/', "_").as_str());
        }
    }
    line
}

/// The header escapes `|` and `\`, and must not contain line breaks.
fn in_header(text: &str) -> String {
    text.replace('\\', "\\\\").replace('|', "\\|").replace(['\r', '\n'], " ")
}

/// The extension escapes `=` and `\`, and writes line breaks as `\n` or `\r`.
fn in_extension(text: &str) -> String {
    text.replace('\\', "\\\\").replace('=', "\\=").replace('\n', "\\n").replace('\r', "\\r")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_is_one_line_in_which_nothing_ends_a_field_early() {
        let event = json!({"seq": 4, "action": "a|b\\c", "outcome": "refused", "reason": "r", "ip": "::1",
            "actor": {"client_id": "x"}, "subject": {"iss": "i", "sub": "a=b\n|c\\"}, "user_agent": "u a"});
        let line = line(&event, Severity::High);
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(
            line,
            format!(
                "CEF:0|actchain|actchain|{version}|a\\|b\\\\c|a\\|b\\\\c r|8|act=a|b\\\\c outcome=refused reason=r c6a2=::1 \
                 c6a2Label=Source IPv6 Address requestClientApplication=u a suid=a\\=b\\n|c\\\\ sntdom=i cn1=4 \
                 cn1Label=seq cs1=x cs1Label=actor_client_id"
            )
        );
        assert_eq!(line.lines().count(), 1);
    }
}
