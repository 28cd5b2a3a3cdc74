//! TOOLS: what the rest is built with. Knows nothing of tokens, delegations or HTTP routes.
pub mod base64url;
pub mod clock;
pub mod config;
pub mod db;
pub mod digest;
pub mod fault;
pub mod jose;
pub mod json;
pub mod local_postgres;
pub mod outbound;
pub mod password;
pub mod postgres_errors;
pub mod private_file;
pub mod process;
pub mod random;
pub mod secret;
pub mod telemetry;
