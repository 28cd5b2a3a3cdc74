//! How commands print results and refusals: for people, or as JSON for programs.

use std::process::ExitCode;

use clap::builder::{BoolValueParser, MapValueParser, TypedValueParser as _, ValueParserFactory};
use serde::Serialize;
use serde_json::Value;

use crate::domain::refusal::{Error, Refusal};
use crate::platform::fault::Fault;

/// The value of the flag `--json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OutputFormat {
    Text,
    Json,
}

impl ValueParserFactory for OutputFormat {
    type Parser = MapValueParser<BoolValueParser, fn(bool) -> Self>;

    fn value_parser() -> Self::Parser {
        BoolValueParser::new().map(|is_set| if is_set { Self::Json } else { Self::Text })
    }
}

/// Prints one line of JSON.
pub(super) fn print_json<T: Serialize>(value: &T) -> Result<(), Fault> {
    let text = serde_json::to_string(value).map_err(|error| Fault::caused("writing JSON", error))?;
    println!("{text}");
    Ok(())
}

pub(super) fn to_value<T: Serialize>(value: &T) -> Result<Value, Fault> {
    serde_json::to_value(value).map_err(|error| Fault::caused("writing JSON", error))
}

/// Prints an object, as text with one member a line.
pub(super) fn print_members<T: Serialize>(value: &T, format: OutputFormat) -> Result<ExitCode, Fault> {
    if format == OutputFormat::Json {
        print_json(value)?;
    } else if let Value::Object(members) = to_value(value)? {
        for (name, value) in members.iter().filter(|(_, value)| !value.is_null()) {
            println!("{name:<28} {value}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The string in a document, empty if absent.
pub(super) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Says that there is no object of this kind and id.
pub(super) fn not_found(kind: &str, id: &str) -> ExitCode {
    eprintln!("actchain: there is no {kind} {id}");
    ExitCode::FAILURE
}

/// Prints a refusal, with the state and the member that it is about; faults are returned.
pub(super) fn print_refusal(error: Error) -> Result<ExitCode, Fault> {
    match error {
        Error::Failed(fault) => Err(fault),
        Error::Refused(refusal) => {
            let state = refusal.state().map(|state| format!(" (it is {state})")).unwrap_or_default();
            let pointer = refusal.pointer().map(|pointer| format!(" (at {pointer})")).unwrap_or_default();
            eprintln!("actchain: {}: {}{state}{pointer}", refusal.reason(), sentence(refusal));
            Ok(ExitCode::FAILURE)
        }
    }
}

/// The message of a refusal for an operator, who sees everything: "not found" means that the thing does not exist.
fn sentence(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::NotFound => "The object does not exist",
        other => other.sentence(),
    }
}
