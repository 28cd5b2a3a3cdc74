//! The answers of the OAuth endpoints about refresh tokens, checked against the description.

use serde_json::{Value, json};

use super::{Held, Who};
use crate::support::offline::{refresh_token, refreshing};
use crate::support::world::MAIL;

pub(super) async fn refresh_tokens_are_issued_used_and_revoked(held: &Held<'_>) {
    let world = held.world;
    let granted = held.done(
        Who::User("olga"),
        ("POST", "/delegate"),
        json!({"delegate": "user-proxy", "offline_access": true}),
    );
    let granted = granted.await.with_status(201);
    assert_eq!(granted.json["offline_access"], true);
    let body = json!({"delegate": "email-svc", "parent": granted.id(), "offline_access": true});
    let below = held.done(Who::Client(&world.user_proxy), ("POST", "/delegate"), body).await;
    held.done(Who::User("olga"), ("POST", &format!("/delegate/{}/revoke", below.id())), json!({})).await;
    let first = held.oauth("/oauth/token", world.first_hop_of("olga"), (200, "")).await;
    let token = refresh_token(&first);
    let refresh = || refreshing(&world.user_proxy, &world.server, &token);
    held.oauth("/oauth/token", refresh().param("scope", "mail.read").param("audience", MAIL), (200, ""))
        .await;
    for (request, expected) in [
        (refresh().param("scope", "nothing"), (400, "invalid_scope")),
        (refresh().param("audience", "https://unknown.example.com"), (400, "invalid_target")),
        (refresh().without("refresh_token"), (400, "invalid_request")),
        (refresh().without("dpop"), (400, "invalid_dpop_proof")),
        (refresh().set("refresh_token", "x"), (400, "invalid_grant")),
        (refreshing(&world.stranger, &world.server, &token), (400, "unauthorized_client")),
        (refreshing(&world.email_svc, &world.server, &token), (400, "invalid_grant")),
    ] {
        held.oauth("/oauth/token", request, expected).await;
    }
    let at = |path| world.user_proxy.at(&world.server, path).param("token", &token);
    let shown = held.oauth("/oauth/introspect", at("/oauth/introspect"), (200, "")).await;
    assert_eq!(shown.json["active"], true);
    held.oauth("/oauth/revoke", at("/oauth/revoke"), (200, "")).await;
    let shown = held.oauth("/oauth/introspect", at("/oauth/introspect"), (200, "")).await;
    assert_eq!(shown.json["active"], Value::Bool(false));
    held.oauth("/oauth/token", refresh(), (400, "invalid_grant")).await;
}
