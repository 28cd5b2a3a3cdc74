//! Selects the delegation of an exchange: the requested one, or the narrowest one that grants the request.

use std::sync::Arc;

use time::{Duration, OffsetDateTime};

use super::context::ExchangeContext;
use crate::app::App;
use crate::domain::authority::{self, DecisionInput, ExchangeDecision, Tried};
use crate::domain::client::Client;
use crate::domain::delegation::DelegationPath;
use crate::domain::delegation::candidates::{
    self, Between, CandidatePaths, Candidates, ComparedLimits, DelegationSearch, DelegatorSide, Extent,
    Memory,
};
use crate::domain::ledger::{Choice, Freshness};
use crate::domain::refusal::{Error, Refusal};
use crate::domain::subject::VerifiedSubject;
use crate::platform::fault::Fault;
use actchain_protocol::access_token::Act;
use actchain_protocol::token_exchange::RequestedAccess;

/// An exchange with verified tokens.
#[derive(Clone, Copy)]
pub(super) struct Exchange<'a> {
    pub(super) wanted: &'a RequestedAccess,
    /// The only delegation that may give the authority, if the request names one.
    pub(super) named: Option<&'a str>,
    pub(super) subject: &'a VerifiedSubject,
    pub(super) actor_expires_at: Option<OffsetDateTime>,
}

/// Decides an exchange, and records in the context whether cached or fresh data was used.
///
/// # Errors
/// The refusal of the narrowest delegation that does not exclude the request; otherwise an explanatory refusal of one
/// delegation.
pub(super) async fn choose(
    app: &App,
    context: &mut ExchangeContext,
    exchange: Exchange<'_>,
) -> Result<ExchangeDecision, Error> {
    let search = search(app, exchange, &context.client);
    let usable = search.as_ref().filter(|_| context.memory == Memory::Usable);
    let remembered = usable.and_then(|search| app.caches.paths.get(search));
    context.search.clone_from(&search);
    // Cached paths are enough to grant, because the ledger checks again. A refusal may be outdated and needs a read.
    if let Some(found) = &remembered
        && let Some(decision) = granted(&input(app, context, exchange, found), found.extent)
    {
        context.freshness = ends_at(found, &decision).map_or(Freshness::Fresh, Freshness::Cached);
        context.choice = choice(search.as_ref(), found);
        return Ok(decision);
    }
    let mut tried = Tried::default();
    let mut seen = Vec::new();
    loop {
        let found = read(app, search.as_ref(), &seen, context.now).await?;
        let input = input(app, context, exchange, &found);
        if let Some(decision) = tried.page(&input)? {
            return Ok(decision);
        }
        if found.extent == Extent::Page {
            seen.extend(found.iter().filter_map(|path| Some(path.leaf()?.id.clone())));
            continue;
        }
        let refusal = match tried.conclude(&input) {
            Ok(decision) => return Ok(decision),
            Err(refusal) => refusal,
        };
        let explained = explain(app, context, exchange, &found, refusal).await?;
        return Err(explained.into());
    }
}

fn input<'a>(
    app: &'a App,
    context: &'a ExchangeContext,
    exchange: Exchange<'a>,
    paths: &'a [DelegationPath],
) -> DecisionInput<'a> {
    DecisionInput {
        now: context.now,
        issuer: &app.issuer,
        client: &context.client,
        jkt: context.jkt.as_deref(),
        subject: exchange.subject,
        actor_expires_at: exchange.actor_expires_at,
        paths,
        named: exchange.named,
        registry: &context.registry,
        wanted: exchange.wanted,
        capability_levels: &app.capability_levels,
        max_ttl: Duration::seconds(app.config.tokens.max_ttl.into()),
        max_delegation_ttl: Duration::seconds(app.config.delegations.max_ttl.into()),
        max_depth: app.config.tokens.max_depth,
    }
}

/// The decision by cached paths; `None` if a later page could grant more.
fn granted(input: &DecisionInput<'_>, extent: Extent) -> Option<ExchangeDecision> {
    let mut tried = Tried::default();
    match (tried.page(input).ok()?, extent) {
        (Some(decision), _) => Some(decision),
        (None, Extent::Whole) => tried.conclude(input).ok(),
        (None, Extent::Page) => None,
    }
}

/// When the path that a decision rests on ends.
fn ends_at(paths: &[DelegationPath], decision: &ExchangeDecision) -> Option<OffsetDateTime> {
    let path = paths.iter().find(|path| path.leaf().map(|leaf| &leaf.id) == decision.path.last())?;
    path.0.iter().map(|one| one.facts.expires_at).min()
}

fn choice(search: Option<&DelegationSearch>, found: &CandidatePaths) -> Option<Choice> {
    match search? {
        DelegationSearch::Exactly(_) => None,
        DelegationSearch::Candidates(wanted) => {
            Some(Choice { between: wanted.between.clone(), version: found.version })
        }
    }
}

async fn read(
    app: &App,
    search: Option<&DelegationSearch>,
    seen: &[String],
    now: OffsetDateTime,
) -> Result<Arc<CandidatePaths>, Fault> {
    let Some(search) = search else { return Ok(Arc::default()) };
    let found =
        app.read(async |connection| candidates::find(&app.rows, connection, search, seen, now).await).await?;
    let found = Arc::new(found);
    // A later page in the cache without the first page would hide the first page.
    if found.is_empty() {
        app.caches.paths.invalidate(search);
    } else if seen.is_empty() {
        app.caches.paths.insert(search.clone(), Arc::clone(&found));
    }
    Ok(found)
}

/// The query for candidates; `None` for a client's own token without a delegation.
fn search(app: &App, exchange: Exchange<'_>, client: &Client) -> Option<DelegationSearch> {
    let subject = exchange.subject;
    let dlg = subject.dlg();
    if subject.is_held_by(&client.client_id, &app.issuer) {
        return dlg.map(|dlg| DelegationSearch::Exactly(dlg.to_owned()));
    }
    if let Some(named) = exchange.named {
        return Some(DelegationSearch::Exactly(named.to_owned()));
    }
    let giver = dlg.map_or_else(
        || DelegatorSide::Root(subject.subject.clone()),
        |dlg| DelegatorSide::Parent(dlg.to_owned()),
    );
    let wanted = exchange.wanted;
    let names = app.capability_levels.names();
    let asked = ComparedLimits {
        scopes: wanted.scopes.clone(),
        audiences: wanted.audiences.clone(),
        capabilities: wanted.capability.as_ref().map(|capability| {
            let enough = names.iter().skip_while(|name| *name != capability);
            enough.cloned().collect()
        }),
        capability_levels: names.to_vec(),
        depth: subject.act.as_ref().map_or(0, Act::depth) + 1,
    };
    Some(DelegationSearch::Candidates(Box::new(Candidates {
        between: Between { giver, delegate: client.client_id.clone() },
        asked,
        claimed: authority::may_act_id(subject, &client.client_id),
    })))
}

/// The refusal, and the delegation it is about if there is only one. If every delegation excludes the request, one of
/// them determines the reason.
async fn explain(
    app: &App,
    context: &mut ExchangeContext,
    exchange: Exchange<'_>,
    found: &CandidatePaths,
    refusal: Refusal,
) -> Result<Refusal, Fault> {
    let mut others = Vec::new();
    if let (Refusal::DelegationRequired, Some(DelegationSearch::Candidates(wanted))) =
        (refusal, &context.search)
    {
        let between = &wanted.between;
        others =
            app.read(async |connection| candidates::explaining(&app.rows, connection, between).await).await?;
    }
    let mut refusal = refusal;
    if !others.is_empty() {
        let input = input(app, context, exchange, &others);
        if let Err(better) = authority::decide(&input) {
            refusal = better;
        }
    }
    let all = if others.is_empty() { &found.paths } else { &others };
    let is_held = exchange.subject.is_held_by(&context.client.client_id, &app.issuer);
    let only = match all.as_slice() {
        [only] if is_held || authority::gives_authority(&input(app, context, exchange, all), only) => {
            only.leaf().map(|leaf| (leaf.id.clone(), only))
        }
        _ => None,
    };
    if let Some((id, path)) = only {
        context.is_about(&id, &path.ids());
    }
    context.event.standing_grant_id = grant_of(all, |path| {
        is_held || authority::gives_authority(&input(app, context, exchange, all), path)
    });
    Ok(refusal)
}

/// The standing grant of all these delegations; `None` if they have several, or one of them has none.
fn grant_of(paths: &[DelegationPath], counts: impl Fn(&DelegationPath) -> bool) -> Option<String> {
    let mut grants = paths.iter().filter(|path| counts(path)).map(DelegationPath::standing_grant_id);
    let first = grants.next()??;
    grants.all(|other| other.as_ref() == Some(&first)).then_some(first)
}
