//! Parts of the JSON Schema of the manifest that do not follow from its types.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::Value;

/// A JWK Set (RFC 7517 §5).
pub(super) fn jwks(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": ["object", "null"],
        "required": ["keys"],
        "properties": {"keys": {"type": "array", "items": {"type": "object", "required": ["kty"]}}},
        "examples": [{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}],
    })
}

/// `authorization_details` (RFC 9396 §2).
pub(super) fn details(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": ["array", "null"],
        "items": {"type": "object", "required": ["type"], "properties": {"type": {"type": "string"}}},
        "examples": [[{"type": "mailbox", "actions": ["read"]}]],
    })
}

/// Makes `id` a required member of the schema.
pub(in crate::services) fn with_id(schema: &mut Schema) {
    let mut required = schema.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
    required.push("id".into());
    schema.insert("required".to_owned(), required.into());
    if let Some(id) = schema.pointer_mut("/properties/id").and_then(Value::as_object_mut) {
        id.remove("default");
    }
}
