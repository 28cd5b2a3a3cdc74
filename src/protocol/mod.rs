//! SPECS: what the RFCs say, pure. No SQL, no HTTP server, no clock; one file for each concern, in the RFC's order.
pub mod access_token;
pub mod authorization_details;
pub mod canonical_json;
pub mod client_assertion;
pub mod client_auth;
pub mod dpop;
pub mod dpop_nonce;
pub mod identity_token;
pub mod jwt_time;
pub mod merkle;
pub mod metadata;
pub mod resource;
pub mod scope;
pub mod signed_note;
pub mod target_uri;
pub mod token_exchange;
