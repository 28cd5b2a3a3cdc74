//! actchain: OAuth 2.0 token exchange (RFC 8693) for agents that act on somebody's behalf.
//!
//! Doors call verbs, verbs use nouns, nouns follow specs, specs use tools; nothing calls upward.
//!
//! Three rules, which `tests/architecture.rs` holds:
//!
//! 1. Arrows point down: `http`, `cli`, `jobs` → `flows` → `app` → `domain` → `protocol` → `platform`.
//! 2. Reads may go straight to a store; every write is a flow, and ends in an event.
//! 3. A refusal is an answer; a fault is our failure: two types, joined only in [`domain::refusal::Stop`].

pub mod app;
pub mod cli;
pub mod domain;
pub mod flows;
pub mod http;
pub mod jobs;
pub mod platform;
pub mod protocol;
