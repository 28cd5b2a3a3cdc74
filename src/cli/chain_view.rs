//! Draws a token as a tree: on whose behalf, through which actors, under which keys.

use std::fmt::Write as _;

use serde_json::{Map, Value};

/// Draws the subject and its actors, root first, each with the thumbprint of its key.
pub(super) fn draw(claims: &Map<String, Value>) -> String {
    let text = |claims: &Map<String, Value>, name: &str| {
        claims.get(name).and_then(Value::as_str).unwrap_or("?").to_owned()
    };
    let mut actors = Vec::new();
    let mut act = claims.get("act").and_then(Value::as_object);
    while let Some(one) = act {
        let jkt = one.get("cnf").and_then(|cnf| cnf.get("jkt")).and_then(Value::as_str);
        let key = jkt.map_or("bound to no key".to_owned(), |jkt| format!("key {jkt}"));
        // An actor of another issuer can have the name of a client.
        let issuer = one.get("iss").filter(|iss| claims.get("iss") != Some(iss)).and_then(Value::as_str);
        let issuer = issuer.map_or_else(String::new, |iss| format!(" ({iss})"));
        actors.push((format!("{}{issuer}", text(one, "sub")), key));
        act = one.get("act").and_then(Value::as_object);
    }
    let mut out = text(claims, "sub");
    // The issuer of the subject; absent if the token names none.
    if let Some(issuer) = claims.get("idp").or_else(|| claims.get("iss")).and_then(Value::as_str) {
        // Writing to a string cannot fail.
        let _ = write!(out, " ({issuer})");
    }
    for (depth, (actor, jkt)) in actors.iter().rev().enumerate() {
        let indent = "   ".repeat(depth);
        // Writing to a string cannot fail.
        let _ = write!(out, "\n{indent}└─ {actor}  {jkt}");
    }
    out
}
