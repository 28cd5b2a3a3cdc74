//! The token endpoint's verb: prove, verify, decide, record, mint. The reason this server exists.

mod case;
mod ceremony;
mod choose;
mod explain;

use std::sync::Arc;

use time::{Duration, OffsetDateTime};
use uuid::Uuid;

pub(super) use self::case::chain;
use self::case::{Answering, Case, Plan, plan};
use self::choose::{Exchange, choose};
pub use self::explain::{Explanation, Question, explain};
use super::client_request::{ClientRequest, prove};
use super::mint::Issued;
use super::possess::{self, Endpoint, Possessed};
use super::verify_token;
use crate::app::App;
use crate::domain::audit::Action;
use crate::domain::authority;
use crate::domain::ceremony::Asking;
use crate::domain::client::Grant;
use crate::domain::delegation::candidates::Memory;
use crate::domain::ledger::{Entry, Recorded, Spend};
use crate::domain::refusal::{Refusal, Stop};
use crate::domain::subject::Source;
use crate::platform::fault::Fault;
use crate::platform::random;
use crate::protocol::token_exchange::{Request, Wanted};
use crate::protocol::token_problem::TokenProblem;

/// What a grant asks for.
#[derive(Debug)]
pub enum Asked {
    /// A token for the client itself.
    ForItself(Wanted),
    /// A token made from another.
    Exchange(Box<Request>),
}

impl Asked {
    fn wanted(&self) -> &Wanted {
        match self {
            Self::ForItself(wanted) => wanted,
            Self::Exchange(request) => &request.wanted,
        }
    }
}

/// A token request as far as its form goes. What is wrong with a part is said once the client is known, so that it can
/// be recorded.
#[derive(Debug)]
pub struct TokenRequest {
    /// Who asks, under which key, from where.
    pub from: ClientRequest,
    /// What for.
    pub asked: Result<Asked, Refusal>,
}

const PATH: &str = "/oauth/token";

/// How often a request is decided again because what it was decided on has changed meanwhile.
const ATTEMPTS: u32 = 4;

/// Answers a token request. Whatever the answer, it has been recorded if the client is known.
pub async fn token(app: &App, request: &TokenRequest, now: OffsetDateTime) -> Result<Issued, Stop> {
    let mut earlier = Earlier::default();
    for _ in 0..ATTEMPTS {
        match attempt(app, request, &mut earlier, now).await? {
            Some(answer) => return answer.map_err(Stop::Refused),
            None => continue,
        }
    }
    Err(Fault::new("the grounds of a decision changed faster than it could be made").into())
}

/// What earlier attempts of a request have done.
#[derive(Default)]
struct Earlier {
    /// Ids that they have used up.
    spent: Vec<Spend>,
    /// Whether the request was counted against the client's limit.
    counted: bool,
    memory: Memory,
}

/// One attempt; `None` if it has to be made again.
async fn attempt(
    app: &App,
    request: &TokenRequest,
    earlier: &mut Earlier,
    now: OffsetDateTime,
) -> Result<Option<Result<Issued, Refusal>>, Stop> {
    let authenticated = match prove(app, &request.from, now, earlier.memory).await? {
        Ok(authenticated) => authenticated,
        Err(refusal) => return Ok(Some(Err(refusal))),
    };
    // Counted in the metrics only: a limit that writes to the log for every request beyond it would protect nothing.
    if !earlier.counted && app.requests.count(&authenticated.client.client_id).is_err() {
        return Ok(Some(Err(Refusal::Throttled)));
    }
    earlier.counted = true;
    let mut case = Case::new(app, &request.from.origin, authenticated, now);
    case.memory = earlier.memory;
    let decided = decide(app, request, &mut case).await;
    let (entry, plan) = match decided {
        Ok(Decided::Plan(plan)) => (case.entry(Some(&plan), None)?, Ok(plan)),
        Ok(Decided::Ceremony(asking, path)) => {
            let refusal = Refusal::CeremonyRequired(asking.ceremony.id);
            (case.entry_asking(asking, path)?, Err(refusal))
        }
        Err(Stop::Refused(refusal)) => {
            if let (Refusal::TargetRefused, Ok(asked)) = (refusal, &request.asked) {
                case.name_near_target(asked.wanted());
            }
            (case.entry(None, Some(refusal))?, Err(refusal))
        }
        Err(stop @ Stop::Failed(_)) => return Err(stop),
    };
    let fresh = |spend: &Spend| !earlier.spent.contains(spend);
    let entry = Entry { spends: entry.spends.into_iter().filter(fresh).collect(), ..entry };
    let spends = entry.spends.clone();
    match app.ledger.record(entry).await {
        Ok(Recorded::Done(place)) => match plan {
            Ok(plan) => Ok(Some(Ok(Issued { place, ..plan.answer()? }))),
            Err(refusal) => Ok(Some(Err(refusal))),
        },
        Ok(Recorded::Refused(refusal)) => Ok(Some(Err(refusal))),
        Ok(Recorded::Stale) => {
            earlier.spent.extend(spends);
            earlier.memory = Memory::Outdated;
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

/// What became of a request before it was recorded.
enum Decided {
    Plan(Box<Plan>),
    /// Nothing before a delegator on the path has confirmed it; that is asked for.
    Ceremony(Box<Asking>, Vec<String>),
}

async fn decide(app: &App, request: &TokenRequest, case: &mut Case) -> Result<Decided, Stop> {
    let proof = request.from.proof.as_ref().map_err(|refusal| *refusal)?;
    if let Some(Possessed { jkt, spend, .. }) =
        possess::possess(app, (&case.client, Endpoint::post(PATH)), proof.as_deref(), case.now)?
    {
        case.event.actor.jkt = Some(jkt.clone());
        case.jkt = Some(jkt);
        case.spends.push(spend);
    }
    match request.asked.as_ref().map_err(|refusal| *refusal)? {
        Asked::ForItself(wanted) => for_itself(app, wanted, case).await.map(Box::new).map(Decided::Plan),
        Asked::Exchange(request) => exchange(app, request, case).await,
    }
}

async fn for_itself(app: &App, wanted: &Wanted, case: &mut Case) -> Result<Plan, Stop> {
    if !case.client.grant_types.contains(&Grant::ClientCredentials) {
        return Err(Refusal::UnauthorizedClient.into());
    }
    let subject = authority::principal_of(&case.client, &app.issuer);
    case.event.subject = Some(subject);
    let most = Duration::seconds(app.config.tokens.max_ttl.into());
    let bound = case.jkt.is_some();
    let known = (case.registry.as_ref(), &app.ladder);
    let decision =
        authority::decide_for_itself(&case.client, known, (wanted, &app.issuer), bound, (case.now, most))?;
    let txn = random::id(case.now)?;
    plan(app, case, decision, (txn, Answering::Client)).await
}

async fn exchange(app: &App, request: &Request, case: &mut Case) -> Result<Decided, Stop> {
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
    case.rely_on(&subject)?;
    let txn = match &subject.source {
        Source::Own { txn, .. } => {
            Uuid::parse_str(txn).map_err(|_| Refusal::SubjectTokenInvalid(TokenProblem::Claims))?
        }
        Source::Foreign { .. } => random::id(case.now)?,
    };
    case.event.txn = Some(txn.to_string());
    let actor_expires_at = match &request.actor {
        None => None,
        Some(actor) => {
            let who = (case.client.as_ref(), case.registry.as_ref(), case.jkt.as_deref());
            let actor = verify_token::actor(app, actor, who, case.now).await?;
            case.rely_on(&actor)?;
            case.actor = Some(Arc::clone(&actor));
            Some(actor.validity.expires_at)
        }
    };
    let decision = choose(app, case, Exchange { request, subject: &subject, actor_expires_at }).await?;
    case.path.clone_from(&decision.path);
    if let Some(asked) = ceremony::see_to(app, case, &decision).await? {
        let settings = &app.config.delegations;
        let bound = |most: u32| usize::try_from(most).unwrap_or(usize::MAX);
        let asking = Asking {
            ceremony: asked,
            most: bound(settings.max_pending_confirmations),
            most_of_client: bound(settings.max_pending_confirmations_per_client),
        };
        return Ok(Decided::Ceremony(Box::new(asking), decision.path));
    }
    let plan = plan(app, case, decision, (txn, Answering::Exchange)).await?;
    Ok(Decided::Plan(Box::new(plan)))
}
