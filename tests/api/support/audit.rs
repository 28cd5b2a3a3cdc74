//! A log with many events of many kinds, and callers that read it.

use actchain::domain::audit::detail::{DeclaredChange, TokenRefusal};
use actchain::domain::audit::{Action, Actor, ChainLink, Event, EventKind, RequestOrigin};
use actchain::domain::principal::Principal;
use actchain::services::audit::index;
use actchain::services::transaction::AuditedTransaction;
use serde_json::{Value, json};
use time::Duration;

use super::Answer;
use super::agent::{Agent, Auth};
use super::management::Api;
use super::world::{IDP, World};

/// Pseudorandom numbers that are the same in every run.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// Registers an auditor; returns the client and its access token.
pub async fn auditor(world: &World) -> (Agent, String) {
    let auditor = Agent::new("auditor", Auth::Assertion);
    let yaml = format!(
        "clients:\n  - {{id: auditor, kind: auditor, auth: private_key_jwt, jwks: {{keys: [{}]}}, \
         grant_types: [client_credentials]}}\n",
        auditor.key.public_jwk()
    );
    world.server.apply(&yaml).await.unwrap();
    let token = world.management_token(&auditor).await;
    (auditor, token)
}

/// Reads as a client with a DPoP key.
pub async fn read(world: &World, (who, token): (&Agent, &str), path: &str) -> Answer {
    Api::get(&world.server, path).client(who, token).send().await
}

/// A random event: few subjects, clients, actions and delegations; short chains; clocks that disagree.
pub fn event(world: &World, dice: &mut Dice, number: u64) -> Event {
    let kind = match dice.roll(4) {
        0 => EventKind::TokenExchanged {
            exp: 0,
            kid: "k".into(),
            introspected: None,
            refresh_token: None,
            exceptions: Vec::new(),
        },
        1 => EventKind::TokenRefused(TokenRefusal::default()),
        2 => EventKind::VaultTokenRetrieved {
            provider: "mail".into(),
            version: 1,
            scopes: None,
            sealed: false,
        },
        _ => EventKind::ClientChanged {
            change: DeclaredChange::Update,
            members: Vec::new(),
            removed_keys: Vec::new(),
        },
    };
    let action = kind.action();
    let client = format!("agent-{}", dice.roll(5));
    let at =
        world.server.clock.now() + Duration::seconds(number as i64) - Duration::seconds(dice.roll(90) as i64);
    let refused = action == Action::TokenRefused;
    let link = |name: &str| ChainLink {
        who: Principal::new(&world.server.app.issuer, name),
        jkt: Some(format!("key-{name}")),
    };
    let chained = action != Action::ClientChanged;
    Event {
        reason: refused.then_some("delegation_revoked"),
        subject: chained.then(|| Principal::new(IDP, format!("user-{}", dice.roll(4)))),
        act_chain: if chained { vec![link("agent-0"), link(&client)] } else { Vec::new() },
        txn: chained.then(|| format!("chain-{}", number / 4 - dice.roll(2).min(number / 4))),
        delegation_path: if chained { vec!["D".into(), format!("D-{}", dice.roll(3))] } else { Vec::new() },
        target: (!chained || action == Action::VaultTokenRetrieved)
            .then(|| format!("thing-{}", dice.roll(3))),
        jti: (action == Action::TokenExchanged).then(|| format!("token-{number}")),
        parent_jti: chained.then(|| format!("token-{}", dice.roll(number + 1))),
        session_id: chained.then(|| format!("session-{}", dice.roll(7))),
        origin: RequestOrigin {
            request_id: Some(format!("request-{number}")),
            trace_id: chained.then(|| format!("{number:032x}")),
            ip: Some(format!("192.0.2.{}", dice.roll(4)).parse().unwrap()),
            user_agent: Some("quotes \",\"txn\":\"chain-1\" and \u{1f980}".into()),
            stopwatch: None,
        },
        ..Event::new(at, kind, Actor::client(client.clone(), Some(format!("key-{client}"))))
    }
}

/// Appends this many random events.
pub async fn fill(world: &World, dice: &mut Dice, count: u64) {
    let mut number = 0;
    while number < count {
        let portion: Vec<Event> = (number..count.min(number + 500)).map(|n| event(world, dice, n)).collect();
        number += portion.len() as u64;
        AuditedTransaction::begin(&world.server.app.pool).await.unwrap().commit(&portion).await.unwrap();
    }
}

/// Indexes all complete blocks; returns the number of indexed events.
pub async fn cover(world: &World) -> u64 {
    index::run_once(&world.server.app.pool).await.unwrap()
}

/// All pages of a list, in order; checks that no page repeats an item or has a wrong cursor.
pub async fn all_pages(world: &World, who: (&Agent, &str), path: &str) -> Vec<Value> {
    let mut items: Vec<Value> = Vec::new();
    let mut cursor = None::<String>;
    for _ in 0..10_000 {
        let join = if path.contains('?') { '&' } else { '?' };
        let at =
            cursor.as_ref().map_or_else(|| path.to_owned(), |cursor| format!("{path}{join}cursor={cursor}"));
        let page = read(world, who, &at).await;
        assert_eq!(page.status, 200, "{at}: {}", page.text);
        items.extend(page.json["items"].as_array().unwrap().iter().cloned());
        match page.json["next"].as_str() {
            None => return items,
            Some(next) => {
                assert_ne!(cursor.as_deref(), Some(next), "a page that leads to itself");
                cursor = Some(next.to_owned());
            }
        }
    }
    panic!("pages without end: {}", json!(cursor));
}
