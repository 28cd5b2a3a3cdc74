//! NOUNS: what there is. Each folder has types and pure rules in `mod.rs`, SQL in `store.rs`.
pub mod audit;
pub mod authority;
pub mod client;
pub mod delegation;
pub mod issuer;
pub mod key;
pub mod ledger;
pub mod limit;
pub mod principal;
pub mod refusal;
pub mod registry;
pub mod remembered_secrets;
pub mod remote_keys;
pub mod resource;
pub mod subject;
pub mod throttle;
pub mod token;
