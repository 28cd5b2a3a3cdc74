//! Verifies a client secret (RFC 6749 §2.3.1). An attempt is counted before the verification, and the count is
//! reverted on success, so no burst exceeds the limit. A client id without a secret takes as long as a wrong secret.

use std::net::IpAddr;
use std::time::Duration;

use secrecy::SecretString;
use time::OffsetDateTime;
use tokio::sync::Semaphore;

use crate::app::App;
use crate::domain::client::{Client, StoredSecret};
use crate::domain::rate_limit::network;
use crate::domain::refusal::{ClientProblem, CredentialProblem, Error, Refusal};
use crate::domain::secret_cache::PresentedSecret;
use crate::platform::fault::{Context, Fault};
use crate::platform::password;

/// How long a request waits for a permit to verify its secret.
const PATIENCE: Duration = Duration::from_secs(2);
/// No client has this version, so a client id without a secret has no cached secrets either.
const NO_VERSION: i64 = -1;

/// A presented secret with its peer and time.
#[derive(Debug, Clone, Copy)]
pub(super) struct SecretTry<'a> {
    pub(super) client_id: &'a str,
    pub(super) secret: &'a SecretString,
    pub(super) peer: Option<IpAddr>,
    pub(super) now: OffsetDateTime,
}

/// Why a secret was not accepted.
#[derive(Debug)]
enum Failed {
    Wrong,
    /// The limit of the client id and peer is reached; the secret was not verified.
    RateLimited,
    /// All permits are in use; the secret was not verified.
    Busy,
    Fault(Fault),
}

pub(super) async fn verify(app: &App, client: &Client, tried: SecretTry<'_>) -> Result<(), Error> {
    let accepted = client.live_secrets(tried.now).cloned().collect();
    check(app, tried, client.version, accepted, &app.limits.argon2_permits).await
}

/// Takes the time of a wrong secret, for a client that has no secret or does not exist.
///
/// # Errors
/// A reached limit, or a fault. A wrong secret is not an error here.
pub(super) async fn dummy_verify(app: &App, tried: SecretTry<'_>) -> Result<(), Error> {
    let wrong = Refusal::InvalidClient(ClientProblem::InvalidCredentials(CredentialProblem::Secret));
    match check(app, tried, NO_VERSION, Vec::new(), &app.limits.dummy_argon2_permits).await {
        Err(Error::Refused(refusal)) if refusal == wrong => Ok(()),
        other => other,
    }
}

async fn check(
    app: &App,
    SecretTry { client_id, secret, peer, now }: SecretTry<'_>,
    version: i64,
    accepted: Vec<StoredSecret>,
    permits: &Semaphore,
) -> Result<(), Error> {
    let guesser = rate_limit_key(client_id, peer);
    if !app.limits.guesses.may_compare(&guesser) {
        return Err(Refusal::TooManyFailedAttempts.into());
    }
    let slowly = async {
        let attempt = app.limits.guesses.begin(&guesser).ok_or(Failed::RateLimited)?;
        let Ok(permit) = tokio::time::timeout(PATIENCE, permits.acquire()).await else {
            attempt.undo();
            return Err(Failed::Busy);
        };
        let _permit = permit.context("waiting to verify a secret").map_err(Failed::Fault)?;
        match matching(secret, accepted).await.map_err(Failed::Fault)? {
            None => Err(Failed::Wrong),
            Some(found) => {
                attempt.undo();
                Ok(found.expires_at)
            }
        }
    };
    let presented = PresentedSecret { client_id, version, secret };
    let Err(failed) = app.caches.secrets.verify(presented, now, slowly).await else { return Ok(()) };
    Err(match failed.as_ref() {
        Failed::Wrong => {
            Refusal::InvalidClient(ClientProblem::InvalidCredentials(CredentialProblem::Secret)).into()
        }
        Failed::RateLimited => Refusal::TooManyFailedAttempts.into(),
        Failed::Busy => Refusal::RateLimited.into(),
        Failed::Fault(fault) => Fault::new(fault.to_string()).into(),
    })
}

/// The stored secret that matches. The hash is computed even if there is no stored secret.
async fn matching(
    secret: &SecretString,
    mut accepted: Vec<StoredSecret>,
) -> Result<Option<StoredSecret>, Fault> {
    let hashes = accepted.iter().map(|one| one.hash.clone()).collect();
    let found = password::matching_blocking(secret.clone(), hashes).await?;
    Ok(found.filter(|place| *place < accepted.len()).map(|place| accepted.swap_remove(place)))
}

/// Key of the limit: client id and peer network, so that an attacker elsewhere does not lock out the client.
fn rate_limit_key(client_id: &str, peer: Option<IpAddr>) -> String {
    let client_id: String = client_id.chars().take(128).collect();
    peer.map(network).map_or_else(|| client_id.clone(), |peer| format!("{peer} {client_id}"))
}
