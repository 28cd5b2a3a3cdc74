//! actchain: OAuth 2.0 token exchange (RFC 8693) for agents that act on somebody's behalf.
//!
//! Entry points call services, services use the domain, the domain follows the protocol, the protocol uses the platform;
//! nothing calls upward.
//!
//! Three rules, which `tests/architecture.rs` holds:
//!
//! 1. Arrows point down: `http`, `cli`, `jobs` → `services` → `app` → `domain` → `protocol` → `platform`.
//! 2. Reads may go straight to a store; every write is a service, and ends in an event.
//! 3. A refusal is an answer; a fault is our failure: two types, joined only in [`domain::refusal::Error`].

pub mod app;
pub mod cli;
pub mod domain;
pub mod http;
pub mod jobs;
pub mod platform;
pub mod protocol;
pub mod services;
