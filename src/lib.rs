//! actchain: OAuth 2.0 token exchange (RFC 8693) for agents that act on behalf of users.
//!
//! Entry points call services, services use the domain, the domain uses the platform; no layer calls upward. All of
//! them follow the specifications in the crate `actchain-protocol`, which knows nothing of the server.
//!
//! Three rules, which `tests/architecture` checks:
//!
//! 1. Dependencies point down: `http`, `cli`, `jobs` → `services` → `app` → `domain` → `platform`. No
//!    new circles between files.
//! 2. Reads may call a store directly; every write is a service, and records an event.
//! 3. A refusal is a response; a fault is a failure of the server: two types, joined only in
//!    [`domain::refusal::Error`].

#![allow(
    missing_docs,
    reason = "no other package depends on the server; its modules explain what names do not"
)]

pub mod app;
pub mod cli;
pub mod domain;
pub mod http;
pub mod jobs;
pub mod platform;
pub mod services;
