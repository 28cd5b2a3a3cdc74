//! TOOLS: what the rest is built with. Knows nothing of tokens, delegations or HTTP routes.
pub mod fault;
