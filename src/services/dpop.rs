//! DPoP proofs of requests (RFC 9449 §5, §7).

use std::borrow::Cow;

use time::{Duration, OffsetDateTime};

use super::issue::time_crypto;
use crate::app::App;
use crate::domain::authority;
use crate::domain::client::Client;
use crate::domain::ledger::SingleUseId;
use crate::domain::refusal::Refusal;
use actchain_protocol::dpop::{self, BadProof, Expected};
use actchain_protocol::jose::PublicKey;
use actchain_protocol::{metadata, target_uri};

/// A key proven by a DPoP proof.
#[derive(Debug, Clone)]
pub struct VerifiedDpopKey {
    pub jkt: String,
    pub key: PublicKey,
    /// Replay-cache entry of the proof's `jti`.
    pub single_use_id: SingleUseId,
}

/// Verifies the proof of a known client by any key. Requires a proof where the client's policy does.
pub fn prove(
    app: &App,
    client: &Client,
    proof: Option<&str>,
    target: DpopTarget<'_>,
    now: OffsetDateTime,
) -> Result<Option<VerifiedDpopKey>, Refusal> {
    let Some(proof) = proof else {
        return if authority::needs_proof(client) { Err(Refusal::DpopProofMissing) } else { Ok(None) };
    };
    verify(app, proof, target, now).map(Some)
}

/// Target of a proof: method, path and access token (RFC 9449 §4.3).
#[derive(Debug, Clone, Copy)]
pub struct DpopTarget<'a> {
    pub method: &'a str,
    /// Path relative to the issuer, such as `/oauth/token`.
    pub path: &'a str,
    /// The access token presented with the proof, if any.
    pub access_token: Option<&'a str>,
}

impl<'a> DpopTarget<'a> {
    /// An OAuth endpoint with client authentication.
    pub fn post(path: &'a str) -> Self {
        Self { method: "POST", path, access_token: None }
    }
}

/// Verifies a proof of any client.
pub fn verify(
    app: &App,
    proof: &str,
    at: DpopTarget<'_>,
    now: OffsetDateTime,
) -> Result<VerifiedDpopKey, Refusal> {
    let settings = &app.config.dpop;
    let target = match at.path {
        "/oauth/token" => Cow::Borrowed(&app.token_target),
        path => {
            let target = target_uri::normalise(&metadata::endpoint(&app.issuer, path));
            Cow::Owned(target.ok_or(Refusal::DpopProofInvalid(BadProof::Target))?)
        }
    };
    let expected = Expected {
        method: at.method,
        target: &target,
        window: Duration::seconds(settings.proof_max_age.into()),
        skew: Duration::seconds(settings.skew.into()),
        access_token: at.access_token,
    };
    let timer = time_crypto("proof");
    let verified = dpop::verify(proof, &expected, now).map_err(Refusal::DpopProofInvalid)?;
    drop(timer);
    if let Some(nonces) = &app.nonces {
        match &verified.nonce {
            Some(nonce) if nonces.accepts(nonce, now) => {}
            _ => return Err(Refusal::NonceRequired),
        }
    }
    let single_use_id = SingleUseId {
        id: verified.replay_id,
        expires_at: verified.expires_at,
        on_replay: Refusal::DpopProofReplayed,
        if_forgotten: Refusal::ProofTooOld,
    };
    Ok(VerifiedDpopKey { jkt: verified.jkt, key: verified.key, single_use_id })
}

/// The refusal of a malformed `DPoP` header.
pub fn malformed() -> Refusal {
    Refusal::DpopProofInvalid(BadProof::Malformed)
}
