//! PLATFORM: general building blocks. Independent of tokens, delegations and HTTP routes.
pub mod address_ranges;
pub mod clock;
pub mod config;
pub mod db;
pub mod fault;
pub mod locks;
pub mod outbound;
pub mod password;
pub mod postgres_errors;
pub mod private_file;
pub mod process;
pub mod prometheus_text;
pub mod seal;
pub mod secret;
pub mod tar_gz;
pub mod telemetry;
pub mod yaml;
