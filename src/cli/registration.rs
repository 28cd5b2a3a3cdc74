//! Output of `actchain issuer` and `actchain resource`: views, and the results of removals.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::{print_json, print_members};
use crate::platform::fault::Fault;
use crate::services::registrations::Removal;

pub(super) fn text<'a>(one: &'a Value, member: &str) -> &'a str {
    one.get(member).and_then(Value::as_str).unwrap_or_default()
}

pub(super) fn not_found(kind: &str, id: &str) -> ExitCode {
    eprintln!("actchain: there is no {kind} {id}");
    ExitCode::FAILURE
}

/// Exit code 0 if removed, 1 if not registered or still in use.
pub(super) fn show(
    removal: &Removal<impl serde::Serialize>,
    (kind, id): (&str, &str),
    json: bool,
) -> Result<ExitCode, Fault> {
    match removal {
        Removal::Removed(removed) => print_members(removed, json),
        Removal::NotFound => Ok(not_found(kind, id)),
        Removal::InUse(why) => {
            if json {
                print_json(&json!({"removed": false, "in_use": why}))?;
            }
            for one in why {
                eprintln!("actchain: {kind} {id} is not removed: {one}");
            }
            Ok(ExitCode::FAILURE)
        }
    }
}
