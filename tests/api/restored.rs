//! After a backup was restored: all tokens of before are revoked, also those that the database has lost, and delegations
//! wait for their delegators.

use actchain::domain::audit::tree;
use actchain::domain::key::{self, KeyPurpose};
use actchain::platform::seal::SealingKey;
use actchain::services::audit::{log_keys, origin};
use actchain::services::restored::{ReviewScope, review_restored};
use actchain_protocol::merkle::Hash;
use actchain_protocol::signed_note::{self, Checkpoint};
use serde_json::{Value, json};
use sqlx::Executor as _;
use time::Duration;

use crate::support::Answer;
use crate::support::agent::{ACCESS_TOKEN, JWT};
use crate::support::management::Api;
use crate::support::world::{MAIL, World};
use crate::transparency::checkpoint;

const DAY: ReviewScope = ReviewScope::Within(Duration::days(1));

fn refused(answer: &Answer) -> (u16, &str) {
    (answer.status, answer.reason())
}

async fn exchange(world: &World) -> Answer {
    world.user_proxy.exchange(&world.server, &world.user_token(), JWT).param("audience", MAIL).send().await
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_before_are_revoked_everywhere_also_the_lost_ones() {
    let world = World::new().await;
    let [own, lost] = [world.first_hop().await, world.first_hop().await];
    let admin = world.management_token(&world.admin).await;
    // What the restored database does not have.
    let jti = lost.claims()["jti"].as_str().unwrap().to_owned();
    let mut sql = world.server.sql().await;
    let delete = format!("DELETE FROM issued_token WHERE jti = '{jti}'");
    sql.execute(sqlx::AssertSqlSafe(delete)).await.unwrap();
    for token in [&own, &lost] {
        assert_eq!(world.status_of(token.token()).await, 0);
    }
    let report = review_restored(&world.server.operator(), DAY, None).await.unwrap();
    assert_eq!((report.missing_events, report.refreshable_connections), (None, 0));
    for token in [&own, &lost] {
        assert!(!world.is_active(token.token()).await);
        assert_eq!(world.status_of(token.token()).await, 1, "invalid");
        let next = world.email_svc.exchange(&world.server, token.token(), ACCESS_TOKEN).send().await;
        assert_eq!(next.status, 400, "{}", next.text);
    }
    let call = Api::get(&world.server, "/api/v1/clients").client(&world.admin, &admin).send().await;
    assert_eq!(call.status, 401, "{}", call.text);
    // The running server goes on, with other indices of status lists.
    for id in ["D", "E", "F"] {
        world.as_admin("POST", &format!("/delegate/{id}/approve"), json!({})).await.with_status(200);
    }
    let new = exchange(&world).await.with_status(200);
    assert!(world.is_active(new.token()).await);
    assert_eq!(world.status_of(new.token()).await, 0, "valid");
    let list = |token: &Answer| token.claims()["status"]["status_list"]["uri"].clone();
    assert_ne!(list(&new), list(&own), "indices of lost tokens are used by no other token");
}

#[tokio::test(flavor = "multi_thread")]
async fn delegations_that_changed_lately_wait_for_their_delegator() {
    let world = World::new().await;
    world.server.pass(60);
    let renewed = world.as_alice("POST", "/delegate/D/renew", json!({"expires_in": 7200})).await;
    renewed.with_status(200);
    let token = world.first_hop().await;
    let scope = ReviewScope::Within(Duration::seconds(30));
    let report = review_restored(&world.server.operator(), scope, None).await.unwrap();
    assert_eq!(report.suspended, ["D"], "renewed within the time; the others are older");
    let shown = world.as_alice("GET", "/delegate/D", Value::Null).await.with_status(200);
    assert_eq!(shown.json["state"], "requested");
    assert!(shown.json["suspended_at"].is_string(), "{}", shown.text);
    assert_eq!(refused(&exchange(&world).await), (400, "delegation_requested"));
    drop(token);
    let events = world.server.events().await;
    let of = |action: &str| events.iter().filter(|event| event["action"] == action).collect::<Vec<_>>();
    let [restored] = of("admin.backup_restored")[..] else { panic!("one event") };
    assert_eq!(
        (&restored["actor"]["type"], &restored["detail"]["suspended"]),
        (&json!("operator"), &json!(1))
    );
    let [suspended] = of("delegation.suspended")[..] else { panic!("one event") };
    assert_eq!(
        (&suspended["delegation_id"], &suspended["detail"]["cause"]),
        (&json!("D"), &json!("backup_restored"))
    );
    // Others decide nothing, and an approval changes no limit.
    let approve = "/delegate/D/approve";
    assert_eq!(refused(&world.as_user("mallory", "POST", approve, json!({})).await), (404, "not_found"));
    let widened = world.as_alice("POST", approve, json!({"expires_in": 60})).await;
    assert_eq!(refused(&widened), (400, "malformed_request"));
    assert_eq!(
        refused(&world.as_alice("POST", "/delegate/D/renew", json!({"expires_in": 9000})).await).0,
        409
    );
    world.as_alice("POST", approve, json!({})).await.with_status(200);
    assert_eq!(world.server.last_event().await["action"], "delegation.resumed");
    exchange(&world).await.with_status(200);
    assert_eq!(refused(&world.as_alice("POST", approve, json!({})).await), (409, "invalid_state_transition"));
    // With --all nothing is left out; a denial ends a suspended delegation.
    let report = review_restored(&world.server.operator(), ReviewScope::All, None).await.unwrap();
    assert_eq!(report.suspended, ["D", "E", "F"]);
    world.as_alice("POST", "/delegate/D/deny", json!({})).await.with_status(200);
    assert_eq!(refused(&exchange(&world).await), (400, "delegation_revoked"));
}

/// A checkpoint of the world's log with any size and root, signed with the key of the log.
async fn signed(world: &World, size: u64, root: Hash) -> String {
    let server = &world.server;
    let name = origin(&server.app.issuer);
    let text = Checkpoint { origin: name.clone(), size, root }.text();
    let mut sql = server.sql().await;
    let keys = key::store::list(&mut sql).await.unwrap();
    let key = keys.iter().find(|key| key.purpose == KeyPurpose::Checkpoint).unwrap();
    let signature = key.open(&SealingKey::of(&server.master)).unwrap().sign_raw(text.as_bytes()).unwrap();
    let verifier = log_keys(&mut sql, &name).await.unwrap().remove(0);
    signed_note::note(&text, &verifier.signature_line(&signature))
}

/// Size and root of the log.
async fn head(world: &World) -> (u64, Hash) {
    let head = actchain::domain::audit::store::head(&mut world.server.sql().await).await.unwrap();
    (head.size(), head.root())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_checkpoint_says_how_much_of_the_log_is_lost() {
    let world = World::new().await;
    world.first_hop().await;
    let older = checkpoint(&world.server).await;
    world.first_hop().await;
    let (size, root) = head(&world).await;
    let newer = signed(&world, size + 7, [7; 32]).await;
    for note in [older, signed(&world, size, root).await, newer] {
        let kept: u64 = note.lines().nth(1).unwrap().parse().unwrap();
        let report = review_restored(&world.server.operator(), DAY, Some(&note)).await.unwrap();
        let missing = kept.saturating_sub(report.events);
        assert_eq!((report.checkpoint, report.missing_events), (Some(kept), Some(missing)));
        assert_eq!(missing > 0, kept > size, "{kept} of {}", report.events);
        let events = world.server.events().await;
        let restored = events.iter().rfind(|event| event["action"] == "admin.backup_restored").unwrap();
        let detail = &restored["detail"];
        assert_eq!(
            (&detail["checkpoint"], &detail["missing_events"]),
            (&json!(report.checkpoint), &json!(report.missing_events))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_is_not_of_the_restored_log_changes_nothing() {
    let (world, other) = (World::new().await, World::new().await);
    let token = world.first_hop().await;
    let (size, root) = head(&world).await;
    let good = signed(&world, size, root).await;
    let frontier = tree::frontier(&mut world.server.sql().await, size - 1).await.unwrap();
    let foreign = signed(&other, size + 7, root).await;
    let own_name = foreign.replace(&origin(&other.server.app.issuer), &origin(&world.server.app.issuer));
    for (note, why) in [
        (signed(&world, size, [7; 32]).await, "is not the log of the checkpoint"),
        (signed(&world, size - 1, root).await, "is not the log of the checkpoint"),
        (foreign, "no key of the restored log"),
        (own_name, "no key of the restored log"),
        // A changed size below the signature.
        (
            good.replacen(&format!("\n{size}\n"), &format!("\n{}\n", size + 7), 1),
            "no key of the restored log",
        ),
        (good.lines().take(4).collect::<Vec<_>>().join("\n"), "no key of the restored log"),
        (String::new(), "no key of the restored log"),
        ("no checkpoint".to_owned(), "no key of the restored log"),
    ] {
        let fault = review_restored(&world.server.operator(), DAY, Some(&note)).await.unwrap_err();
        assert!(fault.to_string().contains(why), "{note}: {fault}");
        assert_eq!(head(&world).await, (size, root));
        assert!(world.is_active(token.token()).await, "{note}");
    }
    let earlier = signed(&world, size - 1, frontier.root()).await;
    review_restored(&world.server.operator(), DAY, Some(&earlier)).await.unwrap();
    assert!(!world.is_active(token.token()).await);
}
