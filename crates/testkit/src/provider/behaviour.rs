//! What the provider does, and the faults that a test injects.

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::Semaphore;

pub const CLIENT: &str = "actchain at the provider";
pub const SECRET: &str = "s3cret:of+us/at the provider";

/// The kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asked {
    Authorize,
    /// A code at the token endpoint.
    Code,
    /// A refresh token at the token endpoint.
    Refresh,
    /// A token of another issuer at the token endpoint (RFC 8693, RFC 7523).
    Exchange,
    Revoke,
}

/// How the server authenticates as a client of the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    Basic,
    Post,
    None,
}

/// The behaviour of the provider.
#[derive(Debug, Clone)]
pub struct Behaviour {
    pub auth: ClientAuth,
    /// A refresh token can be used once; its reuse revokes the grant (RFC 9700 §4.14.2).
    pub rotates: bool,
    /// Whether authorization responses carry `iss` (RFC 9207).
    pub sends_issuer: bool,
    pub expires_in: Option<u32>,
    /// Whether it issues refresh tokens.
    pub refreshes: bool,
    /// The granted scope, regardless of the request; `None` grants the requested scope and leaves `scope` out of the
    /// response.
    pub grants: Option<String>,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            auth: ClientAuth::Basic,
            rotates: true,
            sends_issuer: false,
            expires_in: Some(3600),
            refreshes: true,
            grants: None,
        }
    }
}

/// Delays responses until the test opens the gate, which stays open.
#[derive(Debug, Clone)]
pub struct Gate(Arc<Semaphore>);

impl Gate {
    fn closed() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    pub fn open(&self) {
        self.0.close();
    }

    pub(super) async fn passed(&self) {
        // No permit is ever issued: closing the semaphore ends the wait.
        let _ = self.0.acquire().await;
    }
}

/// A fault to inject instead of the normal behaviour.
#[derive(Debug, Clone)]
pub struct Wrong {
    /// The gate that the response waits for.
    pub gate: Option<Gate>,
    /// Status, media type and body; `None` sends the normal response.
    pub answer: Option<(u16, String, String)>,
    /// An additional header field.
    pub field: Option<(&'static str, String)>,
    /// Changes the form of the normal response after the work is done.
    pub rework: Option<Rework>,
    /// Whether the provider does its work before it sends the faulty response.
    pub after: After,
}

/// Converts the normal response, a JSON object.
#[derive(Clone)]
pub struct Rework(pub(super) Arc<dyn Fn(Value) -> Said + Send + Sync>);

/// A response as it is sent.
pub struct Said {
    pub status: u16,
    pub kind: &'static str,
    pub coding: Option<&'static str>,
    pub body: Vec<u8>,
}

impl Said {
    pub fn json(body: impl Into<Vec<u8>>) -> Self {
        Self { status: 200, kind: "application/json", coding: None, body: body.into() }
    }
}

impl std::fmt::Debug for Rework {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Rework")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    Nothing,
    ItsWork,
}

impl Wrong {
    pub fn json(status: u16, body: Value) -> Self {
        Self::says(status, "application/json", &body.to_string())
    }

    pub fn says(status: u16, kind: &str, body: &str) -> Self {
        let answer = Some((status, kind.to_owned(), body.to_owned()));
        Self { gate: None, answer, field: None, rework: None, after: After::Nothing }
    }

    /// The normal response in another form.
    pub fn reworked(rework: impl Fn(Value) -> Said + Send + Sync + 'static) -> Self {
        let rework = Some(Rework(Arc::new(rework)));
        Self { gate: None, answer: None, field: None, rework, after: After::ItsWork }
    }

    /// Adds a header field.
    pub fn with(self, name: &'static str, value: &str) -> Self {
        Self { field: Some((name, value.to_owned())), ..self }
    }

    /// The normal response, but delayed until the gate is open. The work is done at once.
    pub fn held() -> (Self, Gate) {
        let gate = Gate::closed();
        let held =
            Self { gate: Some(gate.clone()), answer: None, field: None, rework: None, after: After::ItsWork };
        (held, gate)
    }
}
