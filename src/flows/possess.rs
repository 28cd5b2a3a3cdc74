//! Under which key somebody asks: the DPoP proof of a request (RFC 9449 §5, §7).

use std::borrow::Cow;

use time::{Duration, OffsetDateTime};

use super::mint::time_crypto;
use crate::app::App;
use crate::domain::authority;
use crate::domain::client::Client;
use crate::domain::ledger::Spend;
use crate::domain::refusal::Refusal;
use crate::platform::jose::PublicKey;
use crate::protocol::dpop::{self, BadProof, Expected};
use crate::protocol::{metadata, target_uri};

/// A key that was proved.
#[derive(Debug, Clone)]
pub struct Possessed {
    /// Its thumbprint.
    pub jkt: String,
    /// It.
    pub key: PublicKey,
    /// The proof, which may be used once.
    pub spend: Spend,
}

/// Checks the proof of a known client, where there is one, and whether one has to be.
pub fn possess(
    app: &App,
    (client, at): (&Client, Endpoint<'_>),
    proof: Option<&str>,
    now: OffsetDateTime,
) -> Result<Option<Possessed>, Refusal> {
    let Some(proof) = proof else {
        return if authority::needs_proof(client) { Err(Refusal::ProofMissing) } else { Ok(None) };
    };
    let possessed = verify(app, proof, at, now)?;
    if client.may_use_key(&possessed.jkt) { Ok(Some(possessed)) } else { Err(Refusal::ProofKeyUnknown) }
}

/// What a proof has to be made for (RFC 9449 §4.3).
#[derive(Debug, Clone, Copy)]
pub struct Endpoint<'a> {
    /// HTTP method.
    pub method: &'a str,
    /// The path below the issuer's own, such as `/oauth/token`.
    pub path: &'a str,
    /// The access token beside which it is presented, if there is one.
    pub access_token: Option<&'a str>,
}

impl<'a> Endpoint<'a> {
    /// An OAuth endpoint to which clients post under their own credentials.
    pub fn post(path: &'a str) -> Self {
        Self { method: "POST", path, access_token: None }
    }
}

/// Checks a proof, whoever it is that presents it.
pub fn verify(app: &App, proof: &str, at: Endpoint<'_>, now: OffsetDateTime) -> Result<Possessed, Refusal> {
    let settings = &app.config.dpop;
    let target = match at.path {
        "/oauth/token" => Cow::Borrowed(&app.token_target),
        path => {
            let target = target_uri::normalise(&metadata::endpoint(&app.issuer, path));
            Cow::Owned(target.ok_or(Refusal::ProofInvalid(BadProof::Target))?)
        }
    };
    let expected = Expected {
        method: at.method,
        target: &target,
        window: Duration::seconds(settings.window.into()),
        skew: Duration::seconds(settings.skew.into()),
        access_token: at.access_token,
    };
    let timer = time_crypto("proof");
    let verified = dpop::verify(proof, &expected, now).map_err(Refusal::ProofInvalid)?;
    drop(timer);
    if let Some(nonces) = &app.nonces {
        match &verified.nonce {
            Some(nonce) if nonces.accepts(nonce, now) => {}
            _ => return Err(Refusal::NonceRequired),
        }
    }
    let spend = Spend {
        id: verified.spend,
        forget_at: verified.forget_at,
        if_spent: Refusal::ProofReplayed,
        if_forgotten: Refusal::ClockWentBack,
    };
    Ok(Possessed { jkt: verified.jkt, key: verified.key, spend })
}

/// What a header that cannot be a proof is refused with.
pub fn malformed() -> Refusal {
    Refusal::ProofInvalid(BadProof::Malformed)
}
