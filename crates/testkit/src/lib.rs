//! What the tests and measurements of actchain share. Requests are built by hand, so that a test can spoil every part of
//! them; a well-behaved agent is `actchain_client`.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "it is part of tests"
)]

pub mod agent;
pub mod answer;
pub mod api;
pub mod authority;
pub mod endpoint;
pub mod program;
pub mod provider;
pub mod request;
