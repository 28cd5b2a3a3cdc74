//! Raw answers for `--verbose`: decoded tokens, and no credentials.

use std::fmt::Arguments;

use serde_json::{Value, json};

use actchain_protocol::base64url;
use actchain_protocol::jose::Jws;

/// How much the demo prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Detail {
    Story,
    /// The story with every check, command and answer.
    Verbose,
}

impl Detail {
    /// Prints an answer or the output of a command, if the demo is verbose.
    pub(super) fn raw(self, text: Arguments<'_>) {
        if self == Self::Verbose {
            for line in text.to_string().lines() {
                println!("      | {line}");
            }
        }
    }
}

/// A body for output: a token that is a JWT becomes its header and claims, any other credential `…`.
pub(super) fn presentable(body: &Value) -> String {
    let mut shown = body.clone();
    if let Value::Object(members) = &mut shown {
        for (name, value) in members {
            if ["access_token", "refresh_token"].contains(&name.as_str()) {
                *value = decoded(value.as_str().unwrap_or_default()).unwrap_or_else(|| json!("…"));
            }
        }
    }
    shown.to_string()
}

/// Header and claims of a JWT.
pub(super) fn decoded(token: &str) -> Option<Value> {
    let header: Value = serde_json::from_slice(&base64url::decode(token.split('.').next()?)?).ok()?;
    Some(json!({"header": header, "claims": Jws::parse(token)?.claims}))
}
