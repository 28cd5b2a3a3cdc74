//! Verifies a client secret (RFC 6749 §2.3.1). A try is counted before it is made and given back if the secret is right,
//! so that no burst is tried beyond the limit. A client id that has no secret costs what a wrong secret costs.

use std::net::IpAddr;
use std::time::Duration;

use secrecy::SecretString;
use time::OffsetDateTime;
use tokio::sync::Semaphore;

use crate::app::App;
use crate::domain::client::{Client, StoredSecret};
use crate::domain::refusal::{ClientProblem, CredentialProblem, Error, Refusal};
use crate::domain::secret_cache::PresentedSecret;
use crate::platform::fault::{Context, Fault};
use crate::platform::password;

/// How long a request waits for its turn at the slow verification of its secret.
const PATIENCE: Duration = Duration::from_secs(2);
/// No client has this version: a client id without a secret has no remembered secrets either.
const NO_VERSION: i64 = -1;

/// A secret, and where it came from when.
#[derive(Debug, Clone, Copy)]
pub(super) struct SecretTry<'a> {
    pub(super) client_id: &'a str,
    pub(super) secret: &'a SecretString,
    pub(super) peer: Option<IpAddr>,
    pub(super) now: OffsetDateTime,
}

/// Why a secret was not found right.
#[derive(Debug)]
enum Failed {
    Wrong,
    /// The limit of the client id and peer is used up; this secret was not tried.
    TooMany,
    /// Others wait already; this secret was not tried.
    Busy,
    Fault(Fault),
}

/// Verifies the secret of a client.
pub(super) async fn verify(app: &App, client: &Client, tried: SecretTry<'_>) -> Result<(), Error> {
    let accepted = client.live_secrets(tried.now).cloned().collect();
    check(app, tried, client.version, (accepted, &app.argon2_permits)).await
}

/// Does the work that a wrong secret takes, for a client that has none or does not exist.
///
/// # Errors
/// A limit that is used up, or a fault; that the secret is wrong is none.
pub(super) async fn dummy_verify(app: &App, tried: SecretTry<'_>) -> Result<(), Error> {
    let wrong = Refusal::InvalidClient(ClientProblem::InvalidCredentials(CredentialProblem::Secret));
    match check(app, tried, NO_VERSION, (Vec::new(), &app.dummy_argon2_permits)).await {
        Err(Error::Refused(refusal)) if refusal == wrong => Ok(()),
        other => other,
    }
}

async fn check(
    app: &App,
    SecretTry { client_id, secret, peer, now }: SecretTry<'_>,
    version: i64,
    (accepted, turns): (Vec<StoredSecret>, &Semaphore),
) -> Result<(), Error> {
    let guesser = rate_limit_key(client_id, peer);
    if !app.guesses.may_compare(&guesser) {
        return Err(Refusal::TooManyFailedAttempts.into());
    }
    let slowly = async {
        let attempt = app.guesses.begin(&guesser).ok_or(Failed::TooMany)?;
        let Ok(turn) = tokio::time::timeout(PATIENCE, turns.acquire()).await else {
            attempt.give_back();
            return Err(Failed::Busy);
        };
        let _turn = turn.context("waiting to verify a secret").map_err(Failed::Fault)?;
        match matching(secret, accepted).await.map_err(Failed::Fault)? {
            None => Err(Failed::Wrong),
            Some(found) => {
                attempt.give_back();
                Ok(found.expires_at)
            }
        }
    };
    let presented = PresentedSecret { client_id, version, secret };
    let Err(failed) = app.secrets.verify(presented, now, slowly).await else { return Ok(()) };
    Err(match failed.as_ref() {
        Failed::Wrong => {
            Refusal::InvalidClient(ClientProblem::InvalidCredentials(CredentialProblem::Secret)).into()
        }
        Failed::TooMany => Refusal::TooManyFailedAttempts.into(),
        Failed::Busy => Refusal::RateLimited.into(),
        Failed::Fault(fault) => Fault::new(fault.to_string()).into(),
    })
}

/// The accepted secret that was presented. The work is done also where none is accepted.
async fn matching(
    secret: &SecretString,
    mut accepted: Vec<StoredSecret>,
) -> Result<Option<StoredSecret>, Fault> {
    let hashes = accepted.iter().map(|one| one.hash.clone()).collect();
    let found = password::matching_blocking(secret.clone(), hashes).await?;
    Ok(found.filter(|place| *place < accepted.len()).map(|place| accepted.swap_remove(place)))
}

/// Who guesses: a client id from one address. A guesser elsewhere does not use up the tries of the client.
fn rate_limit_key(client_id: &str, peer: Option<IpAddr>) -> String {
    let client_id: String = client_id.chars().take(128).collect();
    peer.map(network).map_or_else(|| client_id.clone(), |peer| format!("{peer} {client_id}"))
}

/// One site has a whole /64 of IPv6 addresses.
fn network(peer: IpAddr) -> IpAddr {
    match peer {
        IpAddr::V4(_) => peer,
        IpAddr::V6(address) => {
            IpAddr::V6(std::net::Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)))
        }
    }
}
