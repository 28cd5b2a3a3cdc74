//! actchain: OAuth 2.0 token exchange (RFC 8693) for agents that act on behalf of users.
//!
//! Entry points call services, services use the domain, the domain follows the protocol, the protocol uses the
//! platform; no layer calls upward.
//!
//! Three rules, which `tests/architecture` checks:
//!
//! 1. Dependencies point down: `http`, `cli`, `jobs` → `services` → `app` → `domain` → `protocol` → `platform`. No
//!    new circles between files.
//! 2. Reads may call a store directly; every write is a service, and records an event.
//! 3. A refusal is a response; a fault is a failure of the server: two types, joined only in
//!    [`domain::refusal::Error`].

pub mod app;
pub mod cli;
pub mod domain;
pub mod http;
pub mod jobs;
pub mod platform;
pub mod protocol;
pub mod services;
