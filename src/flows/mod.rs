//! VERBS: one file per verb family. Every write is a flow and ends in an event.
pub mod apply;
pub mod audit;
pub mod clients;
pub mod declaration;
mod declared_delegation;
pub mod delegations;
pub mod keys;
pub mod mint;
pub mod possess;
pub mod prove;
pub mod token;
pub mod verify_token;
pub mod work;
