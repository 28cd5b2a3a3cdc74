//! The shapes of events as `openapi.yaml` describes them. Every event that a test reads from a real log is checked.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::{Value, json};

use super::contract::Contract;

struct Shapes {
    contract: Contract,
    /// The schema of each action, by its name.
    kinds: HashMap<String, Value>,
}

static SHAPES: LazyLock<Shapes> = LazyLock::new(|| {
    let contract = Contract::read();
    let kinds = contract.document["components"]["schemas"]["EventKind"]["oneOf"].as_array().unwrap();
    let kind = |(place, kind): (usize, &Value)| {
        let action = kind["properties"]["action"]["const"].as_str().unwrap().to_owned();
        (action, json!({"$ref": format!("#/components/schemas/EventKind/oneOf/{place}")}))
    };
    let kinds = kinds.iter().enumerate().map(kind).collect();
    Shapes { contract, kinds }
});

/// Checks that an event has a described action, and exactly the described members.
#[track_caller]
pub fn assert_described(event: &Value) {
    let action = event["action"].as_str().unwrap_or_else(|| panic!("no action: {event}"));
    let kind = SHAPES.kinds.get(action).unwrap_or_else(|| panic!("{action} is not described: {event}"));
    for schema in [&SHAPES.contract.schema("AuditEvent"), kind] {
        let problems = SHAPES.contract.problems(schema, event);
        assert!(problems.is_empty(), "{action}: {problems:#?} in {event:#}");
    }
}
