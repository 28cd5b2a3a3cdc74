//! The token endpoint's verb: prove, verify, decide, record, mint. The reason this server exists.

use std::sync::Arc;

use serde_json::json;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::mint::{self, Issued, seconds};
use super::possess::{self, Possessed};
use super::prove::{self, Authenticated, Circumstances, Credentials};
use super::verify_token;
use crate::app::App;
use crate::domain::audit::{Action, Actor, ChainLink, Event, Origin};
use crate::domain::authority::{self, Decision, Grounds};
use crate::domain::client::{Client, Grant};
use crate::domain::delegation::store::{Search, paths};
use crate::domain::key::Keyring;
use crate::domain::ledger::{Effect, Entry, Guards, Recorded, Spend};
use crate::domain::refusal::{Refusal, Stop};
use crate::domain::registry::Registry;
use crate::domain::subject::{Source, VerifiedSubject};
use crate::domain::token::IssuedToken;
use crate::platform::fault::Fault;
use crate::platform::random;
use crate::protocol::access_token::{Act, Audience, Claims, Confirmation, Login};
use crate::protocol::scope;
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
    let circumstances = Circumstances { jkt: jkt.as_deref(), now };
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

/// What is known of a request so far, for its entry.
struct Case {
    now: OffsetDateTime,
    client: Arc<Client>,
    registry: Arc<Registry>,
    keyring: Arc<Keyring>,
    spends: Vec<Spend>,
    event: Event,
    jkt: Option<String>,
    subject: Option<Arc<VerifiedSubject>>,
}

/// A decision with the token that will say it.
struct Plan {
    decision: Decision,
    claims: Claims,
    jti: Uuid,
    txn: Uuid,
    keyring: Arc<Keyring>,
    exchanged: bool,
}

impl Case {
    fn new(app: &App, request: &TokenRequest, authenticated: Authenticated, now: OffsetDateTime) -> Self {
        let Authenticated { client, spend } = authenticated;
        let actor = Actor { client_id: client.client_id.clone(), jkt: None };
        let mut event = Event::new(now, Action::TokenIssued, actor);
        event.origin = request.origin.clone();
        Self {
            now,
            client,
            registry: app.registry(),
            keyring: app.keyring(),
            spends: spend.into_iter().collect(),
            event,
            jkt: None,
            subject: None,
        }
    }

    fn entry(&mut self, plan: Option<&Plan>, refusal: Option<Refusal>) -> Result<Entry, Fault> {
        let mut event = self.event.clone();
        let mut guards = Guards {
            client: Some((self.client.client_id.clone(), self.client.version)),
            registry: Some(self.registry.version),
            ..Guards::default()
        };
        if let Some(plan) = plan {
            guards.path.clone_from(&plan.decision.path);
            guards.chain = earlier_actors(plan, &self.client.client_id);
            describe(&mut event, plan, &self.client);
        }
        if let Some(refusal) = refusal {
            event = event.refused(refusal);
        }
        Ok(Entry {
            now: self.now,
            spends: std::mem::take(&mut self.spends),
            guards,
            effect: plan
                .map(|plan| Effect { token: self.issued(plan), create: plan.decision.create.clone() }),
            event,
        })
    }

    fn issued(&self, plan: &Plan) -> IssuedToken {
        let subject = self.event.subject.clone();
        let parent = self.subject.as_ref().and_then(|subject| match &subject.source {
            Source::Own { jti, .. } => Uuid::parse_str(jti).ok(),
            Source::Foreign { .. } => None,
        });
        IssuedToken {
            jti: plan.jti,
            parent,
            txn: plan.txn,
            client_id: self.client.client_id.clone(),
            subject: subject.unwrap_or_else(|| authority::principal_of(&self.client, &plan.claims.iss)),
            delegation_id: plan.claims.dlg.clone(),
            jkt: self.jkt.clone(),
            kid: plan.keyring.active.kid().to_owned(),
            scope: plan.claims.scope.clone(),
            audience: plan.claims.aud.values().to_vec(),
            issued_at: self.now,
            expires_at: plan.decision.expires_at,
        }
    }
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
    let subject = verify_token::subject(app, &request.subject, &case.client, case.now).await?;
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
            let who = (case.client.as_ref(), case.jkt.as_deref());
            Some(verify_token::actor(app, actor, who, case.now).await?)
        }
    };
    let paths = match search(app, &subject, &case.client) {
        None => Vec::new(),
        Some(search) => {
            let mut connection = app.pool.acquire().await?;
            paths(&mut connection, &search).await?
        }
    };
    let decision = authority::decide(&Grounds {
        now: case.now,
        issuer: &app.issuer,
        client: &case.client,
        jkt: case.jkt.as_deref(),
        subject: &subject,
        actor_expires_at,
        paths: &paths,
        registry: &case.registry,
        wanted: &request.wanted,
        max_ttl: Duration::seconds(app.config.tokens.max_ttl.into()),
        max_depth: app.config.tokens.max_depth,
    })?;
    plan(app, case, decision, txn, true)
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

fn plan(app: &App, case: &Case, decision: Decision, txn: Uuid, exchanged: bool) -> Result<Plan, Stop> {
    let subject = case.event.subject.clone();
    let subject = subject.unwrap_or_else(|| authority::principal_of(&case.client, &app.issuer));
    let jti = random::id(case.now)?;
    let login = case.subject.as_ref().map_or_else(Login::default, |subject| subject.login.clone());
    let claims = Claims {
        iss: app.issuer.clone(),
        idp: (subject.iss != app.issuer).then_some(subject.iss),
        sub: subject.sub,
        aud: Audience::from_list(decision.audiences.iter().cloned().collect()),
        client_id: case.client.client_id.clone(),
        scope: scope::join(&decision.scopes),
        iat: seconds(case.now),
        exp: seconds(decision.expires_at),
        jti: jti.to_string(),
        cnf: case.jkt.clone().map(|jkt| Confirmation { jkt }),
        act: decision.act.clone(),
        dlg: decision.path.last().cloned(),
        txn: txn.to_string(),
        sid: case.event.session_id.clone(),
        authorization_details: decision.details.clone(),
        login,
    };
    Ok(Plan { decision, claims, jti, txn, keyring: Arc::clone(&case.keyring), exchanged })
}

impl Plan {
    fn answer(self) -> Result<Issued, Fault> {
        Ok(Issued {
            access_token: mint::mint(&self.keyring, &self.claims)?,
            token_type: if self.claims.cnf.is_some() { "DPoP" } else { "Bearer" },
            expires_in: self.claims.exp - self.claims.iat,
            scope: self.decision.scopes,
            details: self.decision.details,
            exchanged: self.exchanged,
        })
    }
}

/// Everybody in the chain but the client itself, which is guarded by its version.
fn earlier_actors(plan: &Plan, client_id: &str) -> Vec<String> {
    let actors = plan.decision.act.iter().flat_map(Act::newest_first);
    let mut earlier: Vec<String> = actors.map(|act| act.sub.clone()).collect();
    // The root of a chain may be a client of ours too.
    if plan.claims.idp.is_none() {
        earlier.push(plan.claims.sub.clone());
    }
    earlier.retain(|id| id != client_id);
    earlier
}

fn chain(act: Option<&Act>, newest: Option<&Client>) -> Vec<ChainLink> {
    let mut links: Vec<ChainLink> = act
        .into_iter()
        .flat_map(Act::newest_first)
        .map(|act| ChainLink {
            sub: act.sub.clone(),
            iss: act.iss.clone(),
            label: newest.filter(|client| client.client_id == act.sub).map(|client| client.name.clone()),
            jkt: act.cnf.as_ref().map(|cnf| cnf.jkt.clone()),
        })
        .collect();
    links.reverse();
    links
}

fn describe(event: &mut Event, plan: &Plan, client: &Client) {
    event.act_chain = chain(plan.decision.act.as_ref(), Some(client));
    event.txn = Some(plan.txn.to_string());
    event.delegation_id = plan.decision.path.last().cloned();
    event.delegation_path.clone_from(&plan.decision.path);
    event.jti = Some(plan.jti.to_string());
    event.scope = Some(plan.claims.scope.clone());
    event.audience = plan.claims.aud.values().to_vec();
    event.detail = Some(json!({"exp": plan.claims.exp, "kid": plan.keyring.active.kid()}));
}
