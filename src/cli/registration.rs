//! Output of `actchain issuer remove` and `actchain resource remove`.

use std::process::ExitCode;

use serde_json::json;

use super::output::{OutputFormat, not_found, print_json, print_members};
use crate::platform::fault::Fault;
use crate::services::registrations::Removal;

/// Exit code 0 if removed, 1 if not registered or still in use.
pub(super) fn show(
    removal: &Removal<impl serde::Serialize>,
    kind: &str,
    id: &str,
    format: OutputFormat,
) -> Result<ExitCode, Fault> {
    match removal {
        Removal::Removed(removed) => print_members(removed, format),
        Removal::NotFound => Ok(not_found(kind, id)),
        Removal::InUse(why) => {
            if format == OutputFormat::Json {
                print_json(&json!({"removed": false, "in_use": why}))?;
            }
            for one in why {
                eprintln!("actchain: {kind} {id} is not removed: {one}");
            }
            Ok(ExitCode::FAILURE)
        }
    }
}
