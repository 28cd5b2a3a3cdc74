//! Properties of the decision, over generated tokens, clients, delegations and requests. A decision never exceeds an
//! input, and a chain grows by exactly one actor or not at all (RFC 8693 §4.1).

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use time::{Duration, OffsetDateTime};

use super::{DecisionInput, decide};
use crate::domain::capability::{CapabilityLevels, Ceiling};
use crate::domain::client::{
    AssertionAudience, AuthMethod, Client, ClientKind, DpopPolicy, GrantType, TokenBinding,
};
use crate::domain::delegation::{Delegation, DelegationLimits, DelegationPath, DelegationRecord, Provenance};
use crate::domain::limit::Limit;
use crate::domain::principal::Principal;
use crate::domain::registry::Registry;
use crate::domain::resource::Resource;
use crate::domain::subject::{TokenSource, VerifiedSubject};
use crate::platform::clock::from_seconds;
use actchain_protocol::access_token::{Act, AuthenticationContext, Confirmation};
use actchain_protocol::jwt_time::Validity;
use actchain_protocol::token_exchange::RequestedAccess;

const ISSUER: &str = "https://as.example.com";
const SCOPES: [&str; 3] = ["a", "b", "c"];
const TARGETS: [&str; 2] = ["x", "y"];
const AGENTS: [&str; 3] = ["one", "two", "three"];

fn now() -> OffsetDateTime {
    from_seconds(1_767_225_600).unwrap()
}

fn alice() -> Principal {
    Principal::new("https://idp.example.com", "alice")
}

/// Often all names, sometimes none: otherwise hardly any request would be granted, or none refused.
fn names(of: &'static [&'static str]) -> impl Strategy<Value = BTreeSet<String>> {
    let all = Just(of.to_vec());
    let some = proptest::sample::subsequence(of, 0..=of.len());
    prop_oneof![3 => all, 2 => some].prop_map(|names| names.into_iter().map(str::to_owned).collect())
}

fn capability_levels() -> CapabilityLevels {
    CapabilityLevels::new(&["observe", "mutate", "admin"].map(str::to_owned)).unwrap()
}

fn capability() -> impl Strategy<Value = Ceiling> {
    let names = proptest::sample::select(&["observe", "mutate", "admin"][..]);
    proptest::option::weighted(0.3, names).prop_map(|name| name.map(str::to_owned))
}

fn limit(of: &'static [&'static str]) -> impl Strategy<Value = Limit> {
    proptest::option::of(names(of)).prop_map(|some| some.map_or(Limit::Any, Limit::Only))
}

fn client() -> impl Strategy<Value = Client> {
    (proptest::sample::select(&AGENTS[..]), names(&SCOPES), names(&TARGETS), proptest::option::of(1u32..900))
        .prop_map(|(id, scopes, audiences, max_token_ttl)| Client {
            client_id: id.to_owned(),
            version: 1,
            kind: ClientKind::Agent,
            name: id.to_owned(),
            auth: AuthMethod::PrivateKeyJwt,
            secrets: Vec::new(),
            declared_secret: None,
            jwks: None,
            keys: Vec::new(),
            jwks_uri: None,
            scopes,
            audiences,
            detail_types: BTreeSet::new(),
            grant_types: BTreeSet::from([GrantType::TokenExchange]),
            dpop: DpopPolicy::Required,
            token_type: TokenBinding::Dpop,
            assertion_audience: AssertionAudience::Issuer,
            dpop_keys: BTreeSet::new(),
            dpop_restricted: false,
            removed_keys: BTreeSet::new(),
            actor_subjects: Vec::new(),
            max_token_ttl,
            disabled_at: None,
            ephemeral: None,
        })
}

fn act(actors: &[&str]) -> Option<Act> {
    actors.iter().fold(None, |inner, sub| {
        Some(Act {
            sub: (*sub).to_owned(),
            iss: ISSUER.to_owned(),
            cnf: Some(Confirmation { jkt: "k".to_owned() }),
            act: inner.map(Box::new),
        })
    })
}

/// A token of this server with a number of actors, under the delegation with as many ancestors.
fn subject() -> impl Strategy<Value = VerifiedSubject> {
    let parts = (1usize..3, limit(&SCOPES), limit(&TARGETS), -10i64..900, capability());
    parts.prop_map(|(depth, scopes, audiences, life, capability)| {
        let dlg = Some(format!("d{depth}"));
        VerifiedSubject {
            subject: alice(),
            source: TokenSource::Local { jti: "j".into(), txn: "t".into(), dlg },
            act: act(&AGENTS[..depth]),
            jkt: Some("k".into()),
            scopes,
            audiences,
            details: None,
            capability,
            validity: Validity {
                expires_at: now() + Duration::seconds(life),
                not_before: None,
                issued_at: None,
            },
            sid: None,
            login: AuthenticationContext::default(),
        }
    })
}

/// A path of delegations from Alice through the agents, each the child of the one before.
fn path() -> impl Strategy<Value = DelegationPath> {
    let terms = (limit(&SCOPES), limit(&TARGETS), proptest::option::of(0u32..6), capability()).prop_map(
        |(scopes, audiences, max_depth, ceiling)| {
            let ceremonies = ["b", "mutate"].map(str::to_owned).into();
            DelegationLimits {
                scopes,
                audiences,
                details: None,
                ceiling,
                ceremonies,
                max_depth,
                offline_access: false,
            }
        },
    );
    let one = (terms, -10i64..900, any::<bool>());
    (proptest::collection::vec(one, 3), proptest::sample::select(&AGENTS[..])).prop_map(|(terms, last)| {
        let ids: Vec<String> = (1..=terms.len()).map(|n| format!("d{n}")).collect();
        let delegations = terms.into_iter().enumerate().map(|(n, (terms, life, revoked))| {
            let delegator =
                n.checked_sub(1).map_or_else(alice, |above| Principal::new(ISSUER, AGENTS[above]));
            Delegation {
                id: ids[n].clone(),
                path: ids[..=n].to_vec(),
                parent: n.checked_sub(1).map(|above| ids[above].clone()),
                root: alice(),
                delegator,
                // The last delegation may lead back to an earlier actor, which the decision has to detect.
                delegate: if n == 2 { last.to_owned() } else { AGENTS[n].to_owned() },
                terms,
                origin: Provenance::Declared,
                requested_at: now(),
                requested_by: None,
                requested_ttl: None,
                reason: None,
                agent: None,
                facts: DelegationRecord {
                    activated_at: Some(now()),
                    expires_at: now() + Duration::seconds(life),
                    // Rarely: otherwise hardly any request would be granted.
                    revoked_at: (revoked && life % 5 == 0).then(now),
                    principal_revoked_at: None,
                    key_rotating: false,
                    suspended_at: None,
                    standing_grant_suspended_at: None,
                    max_uses: None,
                    uses: 0,
                    used_up_at: None,
                    exhausted_at: None,
                },
                revoke_reason: None,
                pending_jwk: None,
                standing_grant_id: None,
            }
        });
        DelegationPath(delegations.collect())
    })
}

/// The path and all its prefixes: the delegations that a store may return.
fn every_path(path: &DelegationPath) -> Vec<DelegationPath> {
    (1..=path.0.len()).map(|length| DelegationPath(path.0[..length].to_vec())).collect()
}

fn registry() -> Registry {
    let resource = |id: &str, scopes: &[&str]| Resource {
        id: id.to_owned(),
        scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
        detail_types: BTreeSet::new(),
        token_ttl: Some(600),
    };
    let resources = [resource("x", &["a", "b"]), resource("y", &["b", "c"])];
    Registry { resources: BTreeMap::from(resources.map(|one| (one.id.clone(), one))), ..Registry::default() }
}

fn wanted() -> impl Strategy<Value = RequestedAccess> {
    let some = |of| proptest::option::of(names(of).prop_filter("something is named", |set| !set.is_empty()));
    (some(&SCOPES), some(&TARGETS), capability()).prop_map(|(scopes, audiences, capability)| {
        RequestedAccess { scopes, audiences, details: None, capability }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn what_comes_out_is_never_wider_than_anything_that_went_in(
        client in client(), subject in subject(), path in path(), wanted in wanted(), actor_life in 1i64..900,
    ) {
        let registry = registry();
        let actor_expires_at = Some(now() + Duration::seconds(actor_life));
        let paths = every_path(&path);
        let input = DecisionInput {
            now: now(),
            issuer: ISSUER,
            client: &client,
            jkt: Some("k"),
            subject: &subject,
            actor_expires_at,
            paths: &paths,
            named: None,
            registry: &registry,
            wanted: &wanted,
            capability_levels: &capability_levels(),
            max_ttl: Duration::seconds(800),
            max_delegation_ttl: Duration::seconds(600),
            max_depth: 3,
        };
        let Ok(decision) = decide(&input) else { return Ok(()) };
        let used: Vec<&Delegation> = path.0.iter().filter(|one| decision.path.contains(&one.id)).collect();
        prop_assert!(!used.is_empty() && used.iter().all(|one| one.facts.check(now()).is_ok()));
        let scopes = Limit::Only(decision.scopes.clone());
        let audiences = Limit::Only(decision.audiences.clone());
        prop_assert!(subject.scopes.covers(&scopes) && subject.audiences.covers(&audiences));
        prop_assert!(decision.scopes.is_subset(&client.scopes) && decision.audiences.is_subset(&client.audiences));
        prop_assert!(used.iter().all(|one| one.terms.scopes.covers(&scopes) && one.terms.audiences.covers(&audiences)));
        for target in &decision.audiences {
            prop_assert!(decision.scopes.is_subset(&registry.resources[target].scopes), "RFC 8693 §2.1.1");
        }
        let ends = used.iter().map(|one| one.facts.expires_at).chain([
            subject.validity.expires_at,
            now() + Duration::seconds(actor_life),
            now() + Duration::seconds(600),
        ]);
        prop_assert!(ends.into_iter().all(|end| decision.expires_at <= end) && decision.expires_at > now());
        let life = client.max_token_ttl.map(|ttl| now() + Duration::seconds(ttl.into()));
        prop_assert!(life.is_none_or(|end| decision.expires_at <= end));
        let ceilings = used.iter().map(|one| &one.terms.ceiling).chain([&subject.capability]);
        prop_assert!(ceilings.into_iter().all(|above| capability_levels().covers(above, &decision.capability)));
        prop_assert!(wanted.capability.is_none() || wanted.capability == decision.capability);
        let reserved = decision.scopes.contains("b") || capability_levels().reaches(&decision.capability, "mutate");
        prop_assert_eq!(&decision.ceremonies, &if reserved { decision.path.clone() } else { Vec::new() });
        // A requested value is granted exactly, never narrowed silently.
        prop_assert!(wanted.scopes.is_none() || wanted.scopes.as_ref() == Some(&decision.scopes));
        prop_assert!(wanted.audiences.is_none() || wanted.audiences.as_ref() == Some(&decision.audiences));
        let depth = decision.act.as_ref().map_or(0, Act::depth);
        prop_assert!(depth <= 3 && used.iter().all(|one| one.terms.max_depth.is_none_or(|most| depth <= most)));
        let before = subject.act.as_ref().unwrap();
        let after = decision.act.as_ref().unwrap();
        if subject.is_held_by(&client.client_id, ISSUER) {
            prop_assert_eq!(after, before, "narrowing keeps the chain");
        } else {
            prop_assert_eq!(&after.sub, &client.client_id);
            prop_assert_eq!(after.act.as_deref(), Some(before), "RFC 8693 §4.1: one more, the rest unchanged");
            prop_assert!(before.newest_first().all(|act| act.sub != client.client_id), "no cycle");
        }
    }
}

#[test]
fn the_property_is_tried_on_decisions_that_are_granted() {
    use proptest::strategy::ValueTree as _;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let registry = registry();
    let (mut narrowed, mut hopped) = (0, 0);
    for _ in 0..10_000 {
        let cases = (client(), subject(), path(), wanted()).new_tree(&mut runner).unwrap();
        let (client, subject, path, wanted) = cases.current();
        let paths = every_path(&path);
        let decided = decide(&DecisionInput {
            now: now(),
            issuer: ISSUER,
            client: &client,
            jkt: Some("k"),
            subject: &subject,
            actor_expires_at: None,
            paths: &paths,
            named: None,
            registry: &registry,
            wanted: &wanted,
            capability_levels: &capability_levels(),
            max_ttl: Duration::seconds(800),
            max_delegation_ttl: Duration::seconds(600),
            max_depth: 3,
        });
        let own = subject.is_held_by(&client.client_id, ISSUER);
        narrowed += u32::from(decided.is_ok() && own);
        hopped += u32::from(decided.is_ok() && !own);
    }
    assert!(narrowed > 100 && hopped > 100, "{narrowed} narrowed, {hopped} hopped");
}
