//! The metadata of issuers that are declared with `discover: true`: read when they are declared, and watched afterwards.

use std::collections::BTreeSet;

use time::OffsetDateTime;

use super::discovery::{DiscoveryFailure, MetadataSource, discover};
use super::transaction::AuditedTransaction;
use crate::app::App;
use crate::domain::audit::{Actor, Event, EventKind};
use crate::domain::issuer::checks::{self, MetadataCheck};
use crate::domain::issuer::{Discovered, Issuer, MetadataDifference, MetadataMember};
use crate::domain::sign_in::SignInEndpoints;
use crate::platform::fault::Fault;
use crate::platform::outbound::Outbound;
use actchain_protocol::discovery::MetadataProblem;
use actchain_protocol::jose::Alg;

/// Reads the metadata of an issuer.
///
/// # Errors
/// No document is the issuer's own with a `jwks_uri` that this server may fetch.
pub async fn find(outbound: &Outbound, source: &MetadataSource) -> Result<Discovered, DiscoveryFailure> {
    discover(outbound, source, |metadata| {
        let discovered = Discovered::of(metadata)?;
        match outbound.may_fetch(&discovered.jwks_uri) {
            true => Ok(discovered),
            false => Err(MetadataProblem::Forbidden("jwks_uri")),
        }
    })
    .await
}

/// Reads the endpoints for sign-ins from the metadata of an issuer.
///
/// # Errors
/// No document is the issuer's own with endpoints that this server may send requests to.
pub async fn find_endpoints(
    outbound: &Outbound,
    source: &MetadataSource,
) -> Result<SignInEndpoints, DiscoveryFailure> {
    discover(outbound, source, |metadata| {
        let found = SignInEndpoints::of(metadata)?;
        let forbidden = found.urls().find(|(_, url)| !outbound.may_fetch(url)).map(|(name, _)| name);
        forbidden.map_or(Ok(found.clone()), |name| Err(MetadataProblem::Forbidden(name)))
    })
    .await
}

/// Whether the published endpoints for sign-ins are those in force. `None` for an issuer without sign-ins.
///
/// # Errors
/// The metadata is unavailable, or names other endpoints.
pub async fn check_endpoints(outbound: &Outbound, issuer: &Issuer) -> Option<Result<(), Fault>> {
    let known = &issuer.sign_in.as_ref()?.endpoints;
    Some(match find_endpoints(outbound, &source(issuer)).await {
        Ok(now) if now == *known => Ok(()),
        Ok(_) => Err(Fault::new("its metadata names other endpoints: apply the issuer again")),
        Err(failure) => Err(failure.into()),
    })
}

fn source(issuer: &Issuer) -> MetadataSource {
    match &issuer.discovery_tenant {
        None => MetadataSource::at(&issuer.iss),
        Some(tenant) => MetadataSource::of_tenant(&issuer.iss, tenant),
    }
}

/// How the published metadata of an issuer differs from the metadata in force. Empty for an issuer without discovery.
///
/// # Errors
/// The metadata is unavailable.
pub async fn differences(
    outbound: &Outbound,
    issuer: &Issuer,
) -> Result<Vec<MetadataDifference>, DiscoveryFailure> {
    let Some(known) = &issuer.discovered else { return Ok(Vec::new()) };
    match find(outbound, &source(issuer)).await {
        Ok(now) => Ok(known.differences(&now, &issuer.accepted_algorithms())),
        Err(failure) if failure.is_of_another => Ok(vec![MetadataDifference::OtherIssuer]),
        Err(failure) => Err(failure),
    }
}

/// Checks the metadata of each issuer that is due; returns their number. A difference is an event, and changes nothing.
pub async fn watch(app: &App, now: OffsetDateTime) -> Result<usize, Fault> {
    let mut checked = 0;
    loop {
        let mut connection = app.pool.acquire().await?;
        let Some(check) = checks::mark_begun(&mut connection, now).await? else { return Ok(checked) };
        drop(connection);
        checked += 1;
        let registry = app.current_registry().await?;
        let Some(issuer) = registry.issuers.get(&check.iss) else { continue };
        match differences(&app.vault.outbound, issuer).await {
            Err(failure) => {
                tracing::warn!(issuer = check.iss, error = %failure, "the metadata of an issuer could not be read");
                mark_checked(app, &check.failed(), now).await?;
            }
            Ok(differing) => report(app, check.succeeded(), differing, now).await?,
        }
    }
}

async fn report(
    app: &App,
    check: MetadataCheck,
    differing: Vec<MetadataDifference>,
    now: OffsetDateTime,
) -> Result<(), Fault> {
    let changed: BTreeSet<MetadataMember> = differing.iter().map(MetadataDifference::member).collect();
    if !check.is_news(&changed, now) {
        return mark_checked(app, &check, now).await;
    }
    for one in &differing {
        tracing::warn!(issuer = check.iss, "{one}");
    }
    let missing = differing.iter().flat_map(|one| match one {
        MetadataDifference::Algorithms(missing) => missing.as_slice(),
        MetadataDifference::OtherIssuer | MetadataDifference::JwksUri(_) => &[],
    });
    let algorithms = missing.copied().map(Alg::name).map(str::to_owned).collect();
    let kind = EventKind::IssuerMetadataChanged { changed: changed.iter().copied().collect(), algorithms };
    let event = Event { target: Some(check.iss.clone()), ..Event::new(now, kind, Actor::Server) };
    let mut work = AuditedTransaction::begin(&app.pool).await?;
    checks::mark_checked(work.connection(), &check.reporting(changed, now), now).await?;
    work.commit(&[event]).await
}

async fn mark_checked(app: &App, check: &MetadataCheck, now: OffsetDateTime) -> Result<(), Fault> {
    let mut connection = app.pool.acquire().await?;
    checks::mark_checked(&mut connection, check, now).await
}
