//! The token endpoint's verb: prove, verify, decide, record, mint. The reason this server exists.

mod case;

use std::sync::Arc;

use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use self::case::{Case, Plan, chain, plan};
use super::mint::Issued;
use super::possess::{self, Possessed};
use super::prove::{self, Circumstances, Credentials};
use super::verify_token;
use crate::app::App;
use crate::domain::audit::{Action, Actor, Event, Origin};
use crate::domain::authority::{self, Grounds};
use crate::domain::client::{Client, Grant};
use crate::domain::delegation::Path;
use crate::domain::delegation::store::{Search, paths};
use crate::domain::ledger::{Entry, Guards, Knowledge, Recorded, Spend};
use crate::domain::refusal::{Refusal, Stop};
use crate::domain::subject::{Source, VerifiedSubject};
use crate::platform::fault::Fault;
use crate::platform::random;
use crate::protocol::token_exchange::{Request, Wanted};

/// What a grant asks for.
#[derive(Debug)]
pub enum Asked {
    /// A token for the client itself.
    ForItself(Wanted),
    /// A token made from another.
    Exchange(Box<Request>),
}

/// A token request as far as its form goes. What is wrong with a part is said once the client is known, so that it can
/// be recorded.
#[derive(Debug)]
pub struct TokenRequest {
    /// Who asks.
    pub credentials: Credentials,
    /// Under which key.
    pub proof: Result<Option<String>, Refusal>,
    /// What for.
    pub asked: Result<Asked, Refusal>,
    /// From where.
    pub origin: Origin,
}

/// How often a request is decided again because what it was decided on has changed meanwhile.
const ATTEMPTS: u32 = 4;

/// Answers a token request. Whatever the answer, it has been recorded if the client is known.
pub async fn token(app: &App, request: &TokenRequest, now: OffsetDateTime) -> Result<Issued, Stop> {
    let (mut spent, mut counted) = (Vec::new(), false);
    for _ in 0..ATTEMPTS {
        match attempt(app, request, (&mut spent, &mut counted), now).await? {
            Some(answer) => return answer.map_err(Stop::Refused),
            None => continue,
        }
    }
    Err(Fault::new("the grounds of a decision changed faster than it could be made").into())
}

/// One attempt; `None` if it has to be made again. `spent` lists the ids that an attempt before has used up,
/// `counted` says whether it was counted against the client's limit.
async fn attempt(
    app: &App,
    request: &TokenRequest,
    (spent, counted): (&mut Vec<Spend>, &mut bool),
    now: OffsetDateTime,
) -> Result<Option<Result<Issued, Refusal>>, Stop> {
    // A client that has nothing but a key is nobody before the key is proved.
    let jkt = match &request.credentials {
        Credentials::Key { .. } => {
            let proof = request.proof.as_ref().map_err(|refusal| *refusal)?.as_deref();
            Some(possess::verify(app, proof.ok_or(Refusal::ProofMissing)?, now)?.jkt)
        }
        _ => None,
    };
    let circumstances = Circumstances { jkt: jkt.as_deref(), peer: request.origin.ip, now };
    let authenticated = match prove::authenticate(app, &request.credentials, circumstances).await {
        Ok(authenticated) => authenticated,
        Err(failed) => return turn_away(app, request, failed, now).await.map(Some),
    };
    // Counted in the metrics only: a limit that writes to the log for every request beyond it would protect nothing.
    if !*counted && app.requests.count(&authenticated.client.client_id).is_err() {
        return Ok(Some(Err(Refusal::Throttled)));
    }
    *counted = true;
    let mut case = Case::new(app, request, authenticated, now);
    let decided = decide(app, request, &mut case).await;
    let (entry, plan) = match decided {
        Ok(plan) => (case.entry(Some(&plan), None)?, Ok(plan)),
        Err(Stop::Refused(refusal)) => (case.entry(None, Some(refusal))?, Err(refusal)),
        Err(stop @ Stop::Failed(_)) => return Err(stop),
    };
    let fresh = |spend: &Spend| !spent.contains(spend);
    let entry = Entry { spends: entry.spends.into_iter().filter(fresh).collect(), ..entry };
    let spends = entry.spends.clone();
    match app.ledger.record(entry).await {
        Ok(Recorded::Done { .. }) => match plan {
            Ok(plan) => Ok(Some(Ok(plan.answer()?))),
            Err(refusal) => Ok(Some(Err(refusal))),
        },
        Ok(Recorded::Refused(refusal)) => Ok(Some(Err(refusal))),
        Ok(Recorded::Stale) => {
            spent.extend(spends);
            app.clients.invalidate(&case.client.client_id);
            if let Some(search) = &case.search {
                app.paths.invalidate(search);
            }
            app.refresh_registry().await?;
            Ok(None)
        }
        Err(unrecorded) => Err(Fault::new(format!("the ledger is not available: {unrecorded:?}")).into()),
    }
}

/// A failed authentication. It is recorded if it names a client of ours, up to a number a minute: strangers must not be
/// able to fill the log. Nothing that they present is stored.
async fn turn_away(
    app: &App,
    request: &TokenRequest,
    failed: prove::NotAuthenticated,
    now: OffsetDateTime,
) -> Result<Result<Issued, Refusal>, Stop> {
    let (Some(client), Stop::Refused(refusal)) = (failed.client, &failed.stop) else {
        return Err(failed.stop);
    };
    if app.failures.count(&client.client_id) {
        let actor = Actor { client_id: client.client_id.clone(), jkt: None };
        let mut event = Event::new(now, Action::TokenRefused, actor).refused(*refusal);
        event.origin = request.origin.clone();
        let entry = Entry { now, spends: Vec::new(), guards: Guards::default(), effect: None, event };
        app.ledger
            .record(entry)
            .await
            .map_err(|unrecorded| Fault::new(format!("the ledger is not available: {unrecorded:?}")))?;
    }
    Err(failed.stop)
}

async fn decide(app: &App, request: &TokenRequest, case: &mut Case) -> Result<Plan, Stop> {
    let proof = request.proof.as_ref().map_err(|refusal| *refusal)?;
    if let Some(Possessed { jkt, spend }) = possess::possess(app, &case.client, proof.as_deref(), case.now)? {
        case.event.actor.jkt = Some(jkt.clone());
        case.jkt = Some(jkt);
        case.spends.push(spend);
    }
    match request.asked.as_ref().map_err(|refusal| *refusal)? {
        Asked::ForItself(wanted) => for_itself(app, wanted, case),
        Asked::Exchange(request) => exchange(app, request, case).await,
    }
}

fn for_itself(app: &App, wanted: &Wanted, case: &mut Case) -> Result<Plan, Stop> {
    if !case.client.grant_types.contains(&Grant::ClientCredentials) {
        return Err(Refusal::UnauthorizedClient.into());
    }
    let subject = authority::principal_of(&case.client, &app.issuer);
    case.event.subject = Some(subject);
    let most = Duration::seconds(app.config.tokens.max_ttl.into());
    let bound = case.jkt.is_some();
    let decision =
        authority::decide_for_itself(&case.client, &case.registry, wanted, bound, (case.now, most))?;
    let txn = random::id(case.now)?;
    plan(app, case, decision, txn, false)
}

async fn exchange(app: &App, request: &Request, case: &mut Case) -> Result<Plan, Stop> {
    case.event.action = Action::TokenExchanged;
    if !case.client.grant_types.contains(&Grant::TokenExchange) {
        return Err(Refusal::UnauthorizedClient.into());
    }
    let subject =
        verify_token::subject(app, &request.subject, (&case.client, &case.registry), case.now).await?;
    case.subject = Some(Arc::clone(&subject));
    case.event.subject = Some(subject.subject.clone());
    case.event.parent_jti = subject.jti().map(str::to_owned);
    case.event.session_id.clone_from(&subject.sid);
    case.event.act_chain = chain(subject.act.as_ref(), None);
    let txn = match &subject.source {
        Source::Own { txn, .. } => Uuid::parse_str(txn).map_err(|_| Refusal::SubjectTokenInvalid)?,
        Source::Foreign { .. } => random::id(case.now)?,
    };
    case.event.txn = Some(txn.to_string());
    let actor_expires_at = match &request.actor {
        None => None,
        Some(actor) => {
            let who = (case.client.as_ref(), case.registry.as_ref(), case.jkt.as_deref());
            Some(verify_token::actor(app, actor, who, case.now).await?)
        }
    };
    let search = search(app, &subject, &case.client);
    let remembered = search.as_ref().and_then(|search| app.paths.get(search));
    let grounds = |paths| Grounds {
        now: case.now,
        issuer: &app.issuer,
        client: &case.client,
        jkt: case.jkt.as_deref(),
        subject: &subject,
        actor_expires_at,
        paths,
        registry: &case.registry,
        wanted: &request.wanted,
        max_ttl: Duration::seconds(app.config.tokens.max_ttl.into()),
        max_depth: app.config.tokens.max_depth,
    };
    // What is remembered may say yes, for the ledger looks again; a no may be outdated, and is made sure of.
    let quick = remembered.as_ref().and_then(|paths| authority::decide(&grounds(paths)).ok());
    let (decision, knowledge) = match quick {
        Some(decision) => (decision, Knowledge::Remembered),
        None => {
            let paths = read_paths(app, search.as_ref()).await?;
            (authority::decide(&grounds(&paths))?, Knowledge::Fresh)
        }
    };
    case.knowledge = knowledge;
    case.search = search;
    plan(app, case, decision, txn, true)
}

async fn read_paths(app: &App, search: Option<&Search>) -> Result<Arc<Vec<Path>>, Fault> {
    let Some(search) = search else { return Ok(Arc::default()) };
    let found = Arc::new(app.read(async |connection| paths(connection, search).await).await?);
    if found.is_empty() {
        app.paths.invalidate(search);
    } else {
        app.paths.insert(search.clone(), Arc::clone(&found));
    }
    Ok(found)
}

/// Which delegations may matter: none for a token of the client itself that comes from none.
fn search(app: &App, subject: &VerifiedSubject, client: &Client) -> Option<Search> {
    let own = subject.is_held_by(&client.client_id, &app.issuer);
    match (own, subject.dlg()) {
        (true, None) => None,
        (true, Some(dlg)) => Some(Search::Exactly(dlg.to_owned())),
        (false, Some(dlg)) => {
            Some(Search::Below { parent: dlg.to_owned(), delegate: client.client_id.clone() })
        }
        (false, None) => Some(Search::Roots {
            delegator: subject.subject.clone(),
            delegate: client.client_id.clone(),
            also: authority::may_act_id(subject, &client.client_id),
        }),
    }
}
