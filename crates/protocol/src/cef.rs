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
    // The user on whose behalf the client acts, or else the user who acts.
    let (sub, iss) = match of("/subject/sub") {
        "" => (of("/actor/sub"), of("/actor/iss")),
        sub => (sub, of("/subject/iss")),
    };
    add("suid", sub);
    add("sntdom", iss);
    let actor =
        ["/actor/client_id", "/actor/name", "/actor/type"].into_iter().find_map(|name| text(event, name));
    add("sproc", actor.unwrap_or_default());
    add("destinationServiceName", &list(event, "audience", |one| one.as_str()));
    add("msg", of("/texts/reason"));
    if let Some(seq) = event.get("seq").and_then(Value::as_u64) {
        add("cn1", &seq.to_string());
        add("cn1Label", "seq");
    }
    let chain = list(event, "act_chain", |link| text(link, "/sub"));
    let custom = [
        ("actor_jkt", of("/actor/jkt")),
        ("txn", of("/txn")),
        ("delegation_id", of("/delegation_id")),
        ("target", of("/target")),
        ("request_id", of("/request_id")),
        ("act_chain", chain.as_str()),
    ];
    for (number, (label, value)) in (1..).zip(custom) {
        if !value.is_empty() {
            add(&format!("cs{number}"), value);
            add(&format!("cs{number}Label"), label);
        }
    }
    line
}

/// The names in a list, with a space between them.
fn list<'a>(event: &'a Value, member: &str, name: impl Fn(&'a Value) -> Option<&'a str>) -> String {
    let all = event.get(member).and_then(Value::as_array).into_iter().flatten();
    all.filter_map(name).collect::<Vec<_>>().join(" ")
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
    use crate::siem_mapping::MAPPINGS;
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
                 c6a2Label=Source IPv6 Address requestClientApplication=u a suid=a\\=b\\n|c\\\\ sntdom=i sproc=x \
                 cn1=4 cn1Label=seq"
            )
        );
        assert_eq!(line.lines().count(), 1);
    }

    #[test]
    fn every_member_is_under_the_key_of_the_table() {
        let event = json!({"seq": 4, "id": "i", "at": "t0", "action": "a", "outcome": "success", "reason": "r",
            "actor": {"type": "client", "client_id": "b", "jkt": "k"}, "subject": {"iss": "https://i", "sub": "s"},
            "txn": "t", "delegation_id": "D", "target": "c", "request_id": "q", "ip": "192.0.2.1", "user_agent": "u",
            "audience": ["m"], "act_chain": [{"sub": "b"}], "texts": {"reason": "because"}});
        let line = format!("{} ", line(&event, Severity::Low));
        for mapping in MAPPINGS.iter().filter(|one| !one.cef.is_empty()) {
            let value = match event.pointer(mapping.event) {
                None => continue,
                Some(Value::Array(list)) => {
                    list[0].as_str().or_else(|| list[0]["sub"].as_str()).unwrap().to_owned()
                }
                Some(Value::String(text)) => text.clone(),
                Some(other) => other.to_string(),
            };
            assert!(line.contains(&format!("{}={value} ", mapping.cef)), "{} in {line}", mapping.cef);
        }
        let keys = line.split_once("|3|").unwrap().1.split(' ').filter_map(|pair| pair.split_once('='));
        for (key, _) in keys.filter(|(key, _)| !key.ends_with("Label")) {
            assert!(MAPPINGS.iter().any(|one| one.cef == key), "{key} has no row");
        }
    }
}
