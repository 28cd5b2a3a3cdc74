//! actchain: OAuth 2.0 token exchange (RFC 8693) for agents that act on somebody's behalf.
pub mod app;
pub mod domain;
pub mod flows;
pub mod platform;
pub mod protocol;
