//! Refusals because of the form of a request.

use super::code;
use super::entry::{CatalogueEntry, everywhere, resource};
use actchain_protocol::severity::Severity;

pub(super) const MALFORMED_REQUEST: CatalogueEntry = CatalogueEntry {
    reason: "malformed_request",
    answers: everywhere(code::INVALID_REQUEST).without_reason(),
    severity: Severity::Low,
    sentence: "The form of the request is wrong",
    meaning: "The body, the query or a header does not have the form that the endpoint reads. `title` and \
              `detail` say where.",
    advice: "Correct the request.",
};

pub(super) const REQUEST_TOO_LARGE: CatalogueEntry = CatalogueEntry {
    reason: "request_too_large",
    answers: everywhere(code::INVALID_REQUEST.with_status(413)).without_reason(),
    severity: Severity::Low,
    sentence: "The request is too large",
    meaning: "The body is longer than `limits.max_body_bytes`, a manifest than 16 MiB, or at the proxy than \
              `vault.proxy_max_request_bytes`.",
    advice: "Send fewer or shorter values.",
};

pub(super) const UNSUPPORTED_MEDIA_TYPE: CatalogueEntry = CatalogueEntry {
    reason: "unsupported_media_type",
    answers: resource(code::INVALID_REQUEST.with_status(415)),
    severity: Severity::Low,
    sentence: "The media type of the body is not supported",
    meaning: "The body is not `application/json`. A manifest can be `application/yaml`, too.",
    advice: "Set `Content-Type: application/json`.",
};

pub(super) const IDEMPOTENCY_KEY_REUSED: CatalogueEntry = CatalogueEntry {
    reason: "idempotency_key_reused",
    answers: resource(code::INVALID_REQUEST.with_status(422)),
    severity: Severity::Low,
    sentence: "The idempotency key was used for another request",
    meaning: "The caller used the `Idempotency-Key` for another request within 24 hours.",
    advice: "Use a new key for each request. Use the same key only to repeat a request.",
};

pub(super) const MANIFEST_CHANGED: CatalogueEntry = CatalogueEntry {
    reason: "manifest_changed",
    answers: resource(code::INVALID_REQUEST.with_status(412)),
    severity: Severity::Low,
    sentence: "The registered entries changed since the version in If-Match",
    meaning: "`If-Match` does not have the version of the registered issuers, resources, clients, providers and sinks.",
    advice: "Get `/api/v1/manifest` again, and compare.",
};

pub(super) const NOT_SUPPORTED: CatalogueEntry = CatalogueEntry {
    reason: "not_supported",
    answers: resource(code::NOT_IMPLEMENTED),
    severity: Severity::Low,
    sentence: "This server does not support the requested feature",
    meaning: "Status lists of an earlier time (`?time=`) are not stored.",
    advice: "Request the list without `time`.",
};

pub(super) const SCOPE_MALFORMED: CatalogueEntry = CatalogueEntry {
    reason: "scope_malformed",
    answers: everywhere(code::INVALID_SCOPE),
    severity: Severity::Low,
    sentence: "The scope is malformed",
    meaning: "The value is not a list of scopes by the grammar of RFC 6749 §3.3.",
    advice: "Separate scopes by single spaces. Quotes and backslashes are not allowed.",
};

pub(super) const RESOURCE_MALFORMED: CatalogueEntry = CatalogueEntry {
    reason: "resource_malformed",
    answers: everywhere(code::INVALID_TARGET),
    severity: Severity::Low,
    sentence: "The target is malformed",
    meaning: "An `audience` is not printable ASCII, or a `resource` is not an absolute URI without a \
              fragment.",
    advice: "Correct the name.",
};

pub(super) const AUTHORIZATION_DETAILS_MALFORMED: CatalogueEntry = CatalogueEntry {
    reason: "authorization_details_malformed",
    answers: everywhere(code::INVALID_DETAILS),
    severity: Severity::Low,
    sentence: "The authorization details are malformed or have an unknown type",
    meaning: "The value is not a list of objects with a `type` and the common members of RFC 9396 §2.2, or \
              no resource declares the type. Also refused: a `vault_connection` that neither a retrieval nor \
              the proxy can use, such as `retrieve` with `locations`.",
    advice: "Correct the details.",
};

pub(super) const CAPABILITY_UNKNOWN: CatalogueEntry = CatalogueEntry {
    reason: "capability_unknown",
    answers: everywhere(code::INVALID_REQUEST),
    severity: Severity::Low,
    sentence: "The capability does not exist",
    meaning: "The capability is not in `delegations.capabilities`.",
    advice: "Use a capability of this list.",
};
