//! A second hop as an exchange decides it: alice's token of `user-proxy`, passed on to `email-svc` for her mail.

use std::collections::{BTreeMap, BTreeSet};

use actchain::domain::authority::DecisionInput;
use actchain::domain::capability::CapabilityLevels;
use actchain::domain::client::{
    AssertionAudience, AuthMethod, Client, ClientKind, DpopPolicy, GrantType, TokenBinding,
};
use actchain::domain::delegation::{
    Delegation, DelegationLimits, DelegationPath, DelegationRecord, Provenance,
};
use actchain::domain::limit::Limit;
use actchain::domain::principal::Principal;
use actchain::domain::registry::Registry;
use actchain::domain::resource::Resource;
use actchain::domain::subject::{TokenSource, VerifiedSubject};
use actchain::platform::clock::from_seconds;
use actchain_protocol::access_token::{Act, AuthenticationContext, Confirmation};
use actchain_protocol::jwt_time::Validity;
use actchain_protocol::token_exchange::RequestedAccess;
use time::{Duration, OffsetDateTime};

pub(crate) const ISSUER: &str = "https://as.example.com";
pub(crate) const MAIL: &str = "https://mail.example.com";

pub(crate) fn now() -> OffsetDateTime {
    from_seconds(1_767_225_600).unwrap()
}

/// Everything that a decision reads.
pub(crate) struct SecondHop {
    client: Client,
    subject: VerifiedSubject,
    paths: [DelegationPath; 1],
    registry: Registry,
    wanted: RequestedAccess,
    capability_levels: CapabilityLevels,
}

impl SecondHop {
    pub(crate) fn new() -> Self {
        Self {
            client: client(),
            subject: subject(),
            paths: [DelegationPath(vec![
                delegation("D", &["D"], "user-proxy"),
                delegation("E", &["D", "E"], "email-svc"),
            ])],
            registry: Registry {
                resources: BTreeMap::from([(MAIL.to_owned(), mail())]),
                ..Registry::default()
            },
            wanted: RequestedAccess::default(),
            capability_levels: CapabilityLevels::new(&["observe".into(), "admin".into()]).unwrap(),
        }
    }

    pub(crate) fn input(&self) -> DecisionInput<'_> {
        DecisionInput {
            now: now(),
            issuer: ISSUER,
            client: &self.client,
            jkt: Some("k2"),
            subject: &self.subject,
            actor_expires_at: None,
            paths: &self.paths,
            named: None,
            registry: &self.registry,
            wanted: &self.wanted,
            capability_levels: &self.capability_levels,
            max_ttl: Duration::minutes(15),
            max_delegation_ttl: Duration::hours(1),
            max_depth: 5,
        }
    }
}

fn mail() -> Resource {
    Resource {
        id: MAIL.into(),
        scopes: BTreeSet::from(["mail.read".into(), "mail.send".into()]),
        detail_types: BTreeSet::new(),
        token_ttl: Some(300),
    }
}

fn subject() -> VerifiedSubject {
    VerifiedSubject {
        subject: Principal::new("https://idp.example.com", "alice"),
        source: TokenSource::Local { jti: "j".into(), txn: "t".into(), dlg: Some("D".into()) },
        act: Some(Act {
            sub: "user-proxy".into(),
            iss: ISSUER.into(),
            cnf: Some(Confirmation { jkt: "k".into() }),
            act: None,
        }),
        jkt: Some("k".into()),
        scopes: Limit::only(["mail.read", "mail.send"]),
        audiences: Limit::only([MAIL]),
        details: None,
        capability: None,
        validity: Validity {
            expires_at: now() + Duration::minutes(5),
            not_before: None,
            issued_at: Some(now()),
        },
        sid: None,
        login: AuthenticationContext::default(),
    }
}

fn client() -> Client {
    Client {
        client_id: "email-svc".into(),
        version: 1,
        kind: ClientKind::Agent,
        name: "E-mail".into(),
        auth: AuthMethod::PrivateKeyJwt,
        secrets: Vec::new(),
        declared_secret: None,
        jwks: None,
        keys: Vec::new(),
        jwks_uri: None,
        scopes: BTreeSet::from(["mail.read".into(), "mail.send".into()]),
        audiences: BTreeSet::from([MAIL.into()]),
        detail_types: BTreeSet::new(),
        grant_types: BTreeSet::from([GrantType::TokenExchange]),
        dpop: DpopPolicy::Required,
        token_type: TokenBinding::Dpop,
        assertion_audience: AssertionAudience::Issuer,
        dpop_keys: BTreeSet::new(),
        dpop_restricted: false,
        removed_keys: BTreeSet::new(),
        actor_subjects: Vec::new(),
        max_token_ttl: None,
        disabled_at: None,
        ephemeral: None,
    }
}

fn delegation(id: &str, path: &[&str], delegate: &str) -> Delegation {
    let alice = Principal::new("https://idp.example.com", "alice");
    Delegation {
        id: id.into(),
        path: path.iter().map(|id| (*id).to_owned()).collect(),
        parent: path.iter().rev().nth(1).map(|id| (*id).to_owned()),
        root: alice.clone(),
        delegator: alice,
        delegate: delegate.into(),
        terms: DelegationLimits {
            scopes: Limit::only(["mail.read"]),
            max_depth: Some(3),
            ..DelegationLimits::unrestricted()
        },
        requested_by: None,
        requested_ttl: None,
        reason: None,
        agent: None,
        origin: Provenance::Declared,
        requested_at: now(),
        facts: DelegationRecord {
            activated_at: Some(now()),
            expires_at: now() + Duration::hours(1),
            revoked_at: None,
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
}
