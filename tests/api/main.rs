//! API tests: real servers on port 0, a real PostgreSQL, real cryptography. Files are named after RFCs and capabilities.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::disallowed_methods, unreachable_pub, reason = "tests read the environment")]

mod audit_archive;
mod audit_chains;
mod audit_export;
mod audit_log;
mod audit_search;
mod audit_sinks;
mod audit_stream;
mod audit_whole;
mod cascade;
mod client_authentication;
mod cross_origin;
mod delegation_lists;
mod delegations;
mod desk_callers;
mod ends_agree;
mod ephemeral_agents;
mod http_versions;
mod keys;
mod model;
mod openapi;
mod operating;
mod races;
mod races_of_ends;
mod removed_keys;
mod rfc6749_form;
mod rfc7009_revocation;
mod rfc7662_introspection;
mod rfc8693_token_exchange;
mod rfc9396_authorization_details;
mod rfc9449_dpop;
mod status_list_facts;
mod status_lists;
mod strange_texts;
mod subdelegation;
mod support;
mod transparency;
mod trusted_issuers;
mod vault_connecting;
mod vault_exchange;
mod vault_proxy;
mod vault_refresh;
mod vault_rekey;
mod vault_retrieval;
