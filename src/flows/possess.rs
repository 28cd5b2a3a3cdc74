//! Under which key somebody asks: the DPoP proof of a token request (RFC 9449 §5).

use time::{Duration, OffsetDateTime};

use super::mint::time_crypto;
use crate::app::App;
use crate::domain::authority;
use crate::domain::client::Client;
use crate::domain::ledger::Spend;
use crate::domain::refusal::Refusal;
use crate::protocol::dpop::{self, BadProof, Expected};

/// A key that was proved.
#[derive(Debug, Clone)]
pub struct Possessed {
    /// Its thumbprint.
    pub jkt: String,
    /// The proof, which may be used once.
    pub spend: Spend,
}

/// Checks the proof of a known client, where there is one, and whether one has to be.
pub fn possess(
    app: &App,
    client: &Client,
    proof: Option<&str>,
    now: OffsetDateTime,
) -> Result<Option<Possessed>, Refusal> {
    let Some(proof) = proof else {
        return if authority::needs_proof(client) { Err(Refusal::ProofMissing) } else { Ok(None) };
    };
    let possessed = verify(app, proof, now)?;
    if client.may_use_key(&possessed.jkt) { Ok(Some(possessed)) } else { Err(Refusal::ProofKeyUnknown) }
}

/// Checks a proof, whoever it is that presents it.
pub fn verify(app: &App, proof: &str, now: OffsetDateTime) -> Result<Possessed, Refusal> {
    let settings = &app.config.dpop;
    let expected = Expected {
        method: "POST",
        target: &app.token_target,
        window: Duration::seconds(settings.window.into()),
        skew: Duration::seconds(settings.skew.into()),
        access_token: None,
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
    let spend = Spend { id: verified.spend, forget_at: verified.forget_at, if_spent: Refusal::ProofReplayed };
    Ok(Possessed { jkt: verified.jkt, spend })
}

/// What a header that cannot be a proof is refused with.
pub fn malformed() -> Refusal {
    Refusal::ProofInvalid(BadProof::Malformed)
}
