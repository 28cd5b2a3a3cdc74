//! The specifications that actchain implements, as pure functions: no SQL, no HTTP, no clock. One module for each concern.
//!
//! `now` is a parameter wherever time matters. Input of other parties is parsed strictly, by [`json`] and [`jose`], and
//! what is invalid has no value. What a server decides about valid input is not here.
//!
//! Feature `jwe` adds encryption, and with it a dependency on OpenSSL.

pub mod access_token;
pub mod archive_statement;
pub mod authorization_details;
pub mod base64url;
pub mod canonical_json;
pub mod cef;
pub mod client_assertion;
pub mod client_auth;
pub mod client_registration;
pub mod csv_export;
pub mod digest;
pub mod discovery;
pub mod dpop;
pub mod dpop_nonce;
pub mod failure;
pub mod forwarded;
pub mod hop_by_hop;
pub mod id_token;
pub mod introspection;
pub mod introspection_answer;
pub mod jose;
pub mod json;
pub mod jwt_assertion;
pub mod jwt_key;
pub mod jwt_time;
pub mod logout_token;
pub mod merkle;
pub mod metadata;
pub mod oauth_client;
pub mod ocsf;
pub mod pseudonym;
pub mod random;
pub mod receipt;
pub mod resource;
pub mod sarif;
pub mod scope;
pub mod severity;
pub mod siem_mapping;
pub mod signed_note;
pub mod standard_webhooks;
pub mod status_list;
pub mod target_uri;
pub mod tlog_proof;
pub mod tlog_tiles;
pub mod tlog_witness;
pub mod token_answer;
pub mod token_exchange;
pub mod token_problem;
pub mod trace_context;
pub mod trusted_issuer_jwt;

#[cfg(test)]
mod vectors;
