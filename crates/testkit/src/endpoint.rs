//! A server as its clients see it.

use std::sync::LazyLock;

/// Where a request goes, and what its proofs have to say.
pub trait Endpoint: Sync {
    /// The URL at which the server listens.
    fn base(&self) -> &str;
    /// The issuer identifier, which can differ from the URL.
    fn issuer(&self) -> &str;
    /// The time of the server's clock, in seconds since 1970.
    fn now(&self) -> i64;
}

/// The HTTP client. Connections are not reused: each test has its own runtime.
pub fn http() -> &'static reqwest::Client {
    static CLIENT: LazyLock<reqwest::Client> =
        LazyLock::new(|| reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap());
    &CLIENT
}
