//! Decisions in the console: what was shown is what is approved, and what waits for whom.

use actchain::domain::console::ConsoleRole;
use actchain::domain::decision::{self, MatterFilter, MatterKind};
use actchain::domain::principal::Principal;
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::support::Answer;
use crate::support::browser::{Browser, form};
use crate::support::ends::ClosedGate;
use crate::support::world::{IDP, MAIL, World};

/// A request of `user-proxy` for Bob's authority.
async fn asked(world: &World, more: Value) -> String {
    let mut body = json!({"delegator": {"iss": IDP, "sub": "bob"}, "scopes": ["mail.read", "mail.send"],
                          "audiences": [MAIL], "expires_in": 7200, "max_uses": 5});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    world.as_agent(&world.user_proxy, "POST", "/delegate", body).await.with_status(202).id()
}

/// Bob's delegation, whose `mail.send` is confirmed each time, with a use that waits for it.
async fn reserved(world: &World) -> (String, String) {
    let terms = json!({"scopes": ["mail.send"], "ceremony_required_for": ["mail.send"]});
    let id = world.granted("bob", terms).await.with_status(201).id();
    let answer = world.first_hop_of("bob").param("scope", "mail.send").send().await;
    answer.assert_refused(400, "insufficient_user_authentication", "ceremony_required");
    (id, answer.json["ceremony"].as_str().unwrap().to_owned())
}

/// Waits until a transaction of this database waits for a row that another one has locked.
async fn waits_for_a_row(sql: &mut PgConnection) {
    let waiting = "SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid)
                                  WHERE a.datname = current_database() AND NOT l.granted AND l.locktype = 'transactionid')";
    while !sqlx::query_scalar::<_, bool>(waiting).fetch_one(&mut *sql).await.unwrap() {
        tokio::task::yield_now().await;
    }
}

/// Writes that change the terms of a request, as a writer of the program would: with the MAC of the row.
async fn widen(world: &World, id: &str) {
    let mut sql = world.server.sql().await;
    sqlx::query("UPDATE delegation SET max_uses = 50, mac = NULL WHERE id = $1")
        .bind(id)
        .execute(&mut sql)
        .await
        .unwrap();
    world.server.seal_rows().await;
}

async fn refusals(world: &World, action: &str) -> Vec<Value> {
    let events = world.server.documents().await;
    events.into_iter().filter(|one| one["action"] == action).map(|one| one["reason"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_before_the_transaction_that_decides_is_not_approved() {
    let world = World::new().await;
    let server = &world.server;
    let id = asked(&world, json!({})).await;
    let mut browser = Browser::of_operator(server).await;
    let page = browser.get(&format!("/console/approvals/{id}")).await;
    let mut gate = ClosedGate::of(server).await;
    let approve = form(&page, "/approve");
    let changing = async {
        // The page was compared with the request; the transaction waits for its first lock.
        gate.has_waiting(1).await;
        widen(&world, &id).await;
        gate.open().await;
    };
    let (answer, ()) = tokio::join!(browser.submit(&approve), changing);
    assert_eq!(answer.status, 409, "{}", answer.text);
    assert!(answer.text.contains("<bdi>5</bdi>") && answer.text.contains("<bdi>50</bdi>"), "{}", answer.text);
    assert!(answer.text.contains(&format!("href=\"/console/approvals/{id}\"")), "{}", answer.text);
    assert_eq!(world.shown(&id).await["state"], "requested");
    assert_eq!(refusals(&world, "delegation.approval_refused").await, [json!("request_changed")]);
    let page = browser.get(&format!("/console/approvals/{id}")).await;
    assert_eq!(browser.submit(&form(&page, "/approve")).await.status, 200);
    assert_eq!(world.shown(&id).await["max_uses"], 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_commits_while_a_decision_waits_for_the_row_is_shown() {
    let world = World::new().await;
    let server = &world.server;
    let id = asked(&world, json!({})).await;
    let mut browser = Browser::of_operator(server).await;
    let page = browser.get(&format!("/console/approvals/{id}")).await;
    let approve = form(&page, "/approve");
    let (mut holding, mut watching) = (server.sql().await, server.sql().await);
    let mut change = holding.begin().await.unwrap();
    change
        .execute(sqlx::query("UPDATE delegation SET suspended_at = now() WHERE id = $1").bind(&id))
        .await
        .unwrap();
    let changing = async {
        waits_for_a_row(&mut watching).await;
        change.commit().await.unwrap();
    };
    let (answer, ()) = tokio::join!(browser.submit(&approve), changing);
    assert_eq!(answer.status, 409, "{}", answer.text);
    assert!(answer.text.contains("suspended since"), "{}", answer.text);
    assert_eq!(world.shown(&id).await["state"], "requested");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_use_that_changes_while_its_confirmation_waits_is_not_allowed() {
    let world = World::new().await;
    let server = &world.server;
    let (id, ceremony) = reserved(&world).await;
    let page = bob(&world).await.get(&format!("/console/delegations/{id}")).await.text;
    assert!(page.contains(&format!("/console/approvals/{id}/uses/{ceremony}\"")), "{page}");
    let bob = Principal::new(IDP, "bob");
    let mut browser = Browser::of(server, ConsoleRole::User, Some(&bob)).await;
    let page = browser.get(&format!("/console/approvals/{id}")).await;
    let approve = form(&page, &format!("/uses/{ceremony}/approve"));
    let (mut holding, mut watching) = (server.sql().await, server.sql().await);
    let mut change = holding.begin().await.unwrap();
    change.execute("UPDATE ceremony SET scopes = '{mail.read,mail.send}'").await.unwrap();
    let changing = async {
        waits_for_a_row(&mut watching).await;
        change.commit().await.unwrap();
    };
    let (answer, ()) = tokio::join!(browser.submit(&approve), changing);
    assert_eq!(answer.status, 409, "{}", answer.text);
    assert!(answer.text.contains("mail.read"), "{}", answer.text);
    assert_eq!(refusals(&world, "delegation.ceremony_approval_refused").await, [json!("request_changed")]);
    assert_eq!(world.first_hop_of("bob").param("scope", "mail.send").send().await.status, 400);
}

async fn bob(world: &World) -> Browser<'_> {
    Browser::of(&world.server, ConsoleRole::User, Some(&Principal::new(IDP, "bob"))).await
}

fn rows(page: &Answer) -> Vec<&str> {
    page.text.split("<tr data-row").skip(1).map(|row| row.split("</tr>").next().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_one_list_of_all_kinds_and_each_filter_is_a_link_that_removes_it() {
    let world = World::new().await;
    let request = asked(&world, json!({})).await;
    world.server.pass(1);
    let (granted, one_use) = reserved(&world).await;
    world.server.pass(1);
    let suspended = world.granted("bob", json!({"scopes": ["mail.read"]})).await.with_status(201).id();
    let mut sql = world.server.sql().await;
    sqlx::query("UPDATE delegation SET suspended_at = requested_at WHERE id = $1")
        .bind(&suspended)
        .execute(&mut sql)
        .await
        .unwrap();
    let mut browser = bob(&world).await;
    let list = browser.get("/console/approvals").await;
    let found = rows(&list);
    assert_eq!(found.len(), 3, "{}", list.text);
    for (row, id) in found.iter().zip([&suspended, &one_use, &request]) {
        assert!(row.contains(id.as_str()), "newest first: {}", list.text);
    }
    assert!(!list.text.contains("Waiting for all users"), "{}", list.text);
    for (kind, id) in [("request", &request), ("use", &one_use), ("review", &suspended)] {
        let page = browser.get(&format!("/console/approvals?kind={kind}&delegate=user-proxy&since=")).await;
        assert_eq!(rows(&page).len(), 1, "{kind}: {}", page.text);
        assert!(rows(&page)[0].contains(id.as_str()), "{kind}");
        let without_kind = "href=\"/console/approvals?tab=waiting&amp;delegate=user-proxy\"";
        assert!(page.text.contains(without_kind), "{}", page.text);
    }
    for nothing in ["kind=key_rotation", "delegate=unknown", "since=2100-01-01", "delegator_sub=alice"] {
        let page = browser.get(&format!("/console/approvals?{nothing}")).await;
        assert!(rows(&page).is_empty() && page.text.contains("Nothing matches"), "{nothing}: {}", page.text);
    }
    for wrong in ["kind=all", "since=yesterday", "cursor=x", "tab=mine", "page=2"] {
        assert_eq!(browser.get(&format!("/console/approvals?{wrong}")).await.status, 400, "{wrong}");
    }
    assert_eq!(browser.get("/console/approvals?tab=all").await.status, 403, "users see their own");
    let ada = Principal::new(IDP, "ada");
    let mut admin = Browser::of(&world.server, ConsoleRole::Admin, Some(&ada)).await;
    assert!(rows(&admin.get("/console/approvals").await).is_empty(), "nothing waits for Ada herself");
    assert_eq!(rows(&admin.get("/console/approvals?tab=all").await).len(), 3);
    let of_bob = admin.get("/console/approvals?tab=all&delegator_sub=bob&kind=use").await;
    assert_eq!(rows(&of_bob).len(), 1);
    let use_page = browser.get(&format!("/console/approvals/{granted}/uses/{one_use}")).await;
    assert!(use_page.text.contains("asks for one use"), "{}", use_page.text);
    let done = browser.submit(&form(&use_page, "/approve")).await;
    assert!(done.text.contains("approved</span> by <bdi>bob</bdi>"), "{}", done.text);
    assert!(!done.text.contains("Allow this use"), "{}", done.text);
    assert_eq!(rows(&browser.get("/console/approvals").await).len(), 2);
    let alice = Principal::new(IDP, "alice");
    let mut stranger = Browser::of(&world.server, ConsoleRole::User, Some(&alice)).await;
    assert_eq!(stranger.get(&format!("/console/approvals/{granted}/uses/{one_use}")).await.status, 404);
    assert!(rows(&stranger.get("/console/approvals?tab=decided").await).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_says_who_registered_the_agent_since_when_it_acts_and_what_was_refused() {
    let world = World::new().await;
    let id = asked(&world, json!({})).await;
    world.first_hop_of("bob").send().await.with_status(400);
    world.server.revoke("D").await;
    world.first_hop_of("alice").send().await.with_status(400);
    let path = format!("/console/approvals/{id}");
    let own = bob(&world).await.get(&path).await.text;
    assert!(own.contains(" registered by <bdi>an operator</bdi> "), "{own}");
    assert!(own.contains("first seen <time"), "{own}");
    assert!(own.contains(" 1 refusal</span> within a week, of requests for you"), "{own}");
    let mut admin = Browser::of(&world.server, ConsoleRole::Admin, Some(&Principal::new(IDP, "ann"))).await;
    let page = admin.get(&path).await.text;
    assert!(page.contains(" 2 refusals</span> within a week</dd>"), "{page}");
    // The key of its assertions is a key, too.
    assert!(page.contains(world.user_proxy.jkt()), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_are_denied_at_once_and_the_others_stay() {
    let world = World::new().await;
    let (first, second) = (asked(&world, json!({})).await, asked(&world, json!({"max_uses": 4})).await);
    let (third, others) = (asked(&world, json!({"max_uses": 3})).await, {
        let body =
            json!({"delegator": {"iss": IDP, "sub": "alice"}, "scopes": ["mail.read"], "audiences": [MAIL]});
        world.as_agent(&world.user_proxy, "POST", "/delegate", body).await.with_status(202).id()
    });
    let (granted, one_use) = reserved(&world).await;
    let mut browser = bob(&world).await;
    let page = browser.get("/console/approvals").await;
    let empty = form(&page, "/console/approvals/deny");
    assert_eq!(browser.submit(&empty).await.status, 400, "nothing is marked");
    assert!(!page.text.contains("Approve"), "several are not approved at once");
    let marked = empty
        .with(&format!("deny:{first}"), "on")
        .with(&format!("deny:{second}"), "on")
        .with(&format!("deny:{granted}/{one_use}"), "on")
        .with("reason", "not now");
    let done = browser.submit(&marked).await;
    assert_eq!((done.status, rows(&done).len()), (200, 1), "{}", done.text);
    for (id, state) in
        [(&first, "revoked"), (&second, "revoked"), (&third, "requested"), (&others, "requested")]
    {
        assert_eq!(world.state(id).await, state, "{id}");
    }
    assert_eq!(world.shown(&first).await["revoke_reason"], "not now");
    assert_eq!(browser.submit(&marked).await.status, 200, "a second click");
    assert_eq!(refusals(&world, "delegation.denial_refused").await, Vec::<Value>::new());
    let page = browser.get("/console/approvals").await;
    let late = form(&page, "/console/approvals/deny")
        .with(&format!("deny:{first}"), "on")
        .with(&format!("deny:{others}"), "on")
        .with(&format!("deny:{third}"), "on");
    let partly = browser.submit(&late).await;
    assert!(
        partly.text.contains("Denied: 1 of 3") && partly.text.contains("It is revoked now"),
        "{}",
        partly.text
    );
    assert_eq!(world.state(&others).await, "requested", "Alice's is none of Bob's");
    assert_eq!(world.state(&third).await, "revoked");
    let decided = browser.get("/console/approvals?tab=decided").await;
    assert_eq!(rows(&decided).len(), 4, "{}", decided.text);
    assert_eq!(rows(&browser.get("/console/approvals?tab=decided&kind=use").await).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_stays_listed_with_who_decided_what_it_narrowed_and_its_uses() {
    let world = World::new().await;
    let id = asked(&world, json!({})).await;
    let mut own = bob(&world).await;
    let mut second = Browser::of_operator(&world.server).await;
    let path = format!("/console/approvals/{id}");
    let late = second.get(&path).await;
    let page = own.get(&path).await;
    for part in ["above it allows", "ask me each time for", "registered", "2 h"] {
        assert!(page.text.contains(part), "{part}: {}", page.text);
    }
    let approve = form(&page, "/approve")
        .without("scope:mail.read")
        .with("each:mail.send", "on")
        .with("max_uses", "2")
        .with("expires_in", "900");
    assert_eq!(own.submit(&approve).await.status, 200);
    let stored = world.shown(&id).await;
    assert_eq!(
        (&stored["scopes"], &stored["ceremony_required_for"], &stored["max_uses"]),
        (&json!(["mail.send"]), &json!(["mail.send"]), &json!(2))
    );
    for action in ["/approve", "/deny"] {
        let refused = second.submit(&form(&late, action)).await;
        assert_eq!(refused.status, 409, "{}", refused.text);
        assert!(refused.text.contains("approved</span> by <bdi>bob</bdi>"), "{action}: {}", refused.text);
    }
    let list = own.get("/console/approvals?tab=decided").await;
    let row = rows(&list)[0];
    for part in ["approved</span> by <bdi>bob</bdi>", "never used", "uses: ", ">5<", ">2<", "mail.read"] {
        assert!(row.contains(part), "{part}: {row}");
    }
    let need = world.first_hop_of("bob").param("scope", "mail.send").send().await;
    let ceremony = need.json["ceremony"].as_str().unwrap().to_owned();
    let confirm = own.get(&format!("{path}/uses/{ceremony}")).await;
    own.submit(&form(&confirm, "/approve")).await;
    world.server.pass(60);
    world.first_hop_of("bob").param("scope", "mail.send").send().await.with_status(200);
    let used = own.get("/console/approvals?tab=decided&kind=request").await;
    assert!(rows(&used)[0].contains("once, "), "{}", used.text);
    world.server.pass(60);
    let need = world.first_hop_of("bob").param("scope", "mail.send").send().await;
    let ceremony = need.json["ceremony"].as_str().unwrap().to_owned();
    let confirm = own.get(&format!("{path}/uses/{ceremony}")).await;
    own.submit(&form(&confirm, "/approve")).await;
    world.first_hop_of("bob").param("scope", "mail.send").send().await.with_status(200);
    let used = own.get("/console/approvals?tab=decided&kind=request").await;
    let row = rows(&used)[0];
    assert!(row.contains("2 times, first ") && row.contains(", last "), "{row}");
    // An administrator sees the decisions about all delegators, with the name of who made each.
    let all = second.get("/console/approvals?tab=decided").await;
    assert_eq!(rows(&all).len(), 3, "{}", all.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_request_says_so_in_place_and_offers_nothing() {
    let world = World::new().await;
    let id = asked(&world, json!({})).await;
    let (granted, one_use) = reserved(&world).await;
    world.server.pass(86_400 * 400);
    let mut browser = bob(&world).await;
    let page = browser.get(&format!("/console/approvals/{id}")).await;
    assert!(page.text.contains("without a decision") && !page.text.contains("/approve\""), "{}", page.text);
    let page = browser.get(&format!("/console/approvals/{granted}/uses/{one_use}")).await;
    assert!(page.text.contains("It expired") && !page.text.contains("/approve\""), "{}", page.text);
    assert!(rows(&browser.get("/console/approvals").await).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_requests_for_one_person_are_a_page_of_twenty_and_few_rows_are_read() {
    let world = World::new().await;
    let id = asked(&world, json!({})).await;
    let mut sql = world.server.sql().await;
    // Older ones have no valid MAC: a page that read one of them would fail.
    let copies = "INSERT INTO delegation (id, path, root_iss, root_sub, delegator_iss, delegator_sub, delegate, scopes,
                      audiences, origin, requested_at, expires_at, requested_by_iss, requested_by_sub, requested_ttl, mac)
                  SELECT id || '-' || n, ARRAY[id || '-' || n], root_iss, root_sub, delegator_iss, delegator_sub, delegate,
                         scopes, audiences, origin, requested_at - n * interval '1 second', expires_at, requested_by_iss,
                         requested_by_sub, requested_ttl, CASE WHEN n > 25 THEN '\\x00'::bytea END
                  FROM delegation, generate_series(1, 10000) n WHERE id = $1";
    sqlx::query(copies).bind(&id).execute(&mut sql).await.unwrap();
    sql.execute("INSERT INTO delegation_usage (delegation_id, uses) SELECT id, 0 FROM delegation ON CONFLICT DO NOTHING")
        .await
        .unwrap();
    sql.execute("ANALYZE delegation").await.unwrap();
    world.server.seal_rows().await;
    let mut browser = bob(&world).await;
    let page = browser.get("/console/approvals").await;
    assert_eq!((page.status, rows(&page).len()), (200, 20), "{}", page.text);
    let older = page.text.split("rel=\"next\" href=\"").nth(1).unwrap().split('"').next().unwrap();
    let older = older.replace("&amp;", "&");
    assert!(older.contains("cursor="), "{older}");
    let bob = Principal::new(IDP, "bob");
    for filter in [
        MatterFilter { delegator: Some(bob.clone()), ..MatterFilter::default() },
        MatterFilter { delegator: Some(bob), kind: Some(MatterKind::Request), ..MatterFilter::default() },
        MatterFilter::default(),
    ] {
        // Counts of a session are flushed some time after its statements: a new one has none.
        let mut session = world.server.sql().await;
        let mut transaction = session.begin().await.unwrap();
        let now = world.server.clock.now();
        let found = decision::waiting(&mut transaction, &filter, None, 21, now).await.unwrap();
        assert_eq!(found.len(), 21);
        let read = "SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_xact_user_tables WHERE relname = 'delegation'";
        let read: i64 = sqlx::query_scalar(read).fetch_one(&mut *transaction).await.unwrap();
        assert!(read < 200, "{read} rows were read for {filter:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_request_is_not_offered_again() {
    let world = World::new().await;
    let bob = Principal::new(IDP, "bob");
    let payment = json!([{"type": "mailbox", "actions": ["pay"]}]);
    let denied = asked(&world, json!({"authorization_details": payment})).await;
    world.moves("bob", &denied, "deny", json!({})).await.with_status(200);
    let mut own = Browser::of(&world.server, ConsoleRole::User, Some(&bob)).await;
    let page = own.get(&format!("/console/delegations/{denied}")).await.with_status(200);
    assert!(!page.text.contains("/again") && page.text.contains("&quot;pay&quot;"), "{}", page.text);
    assert_eq!(own.get(&format!("/console/delegations/{denied}/again")).await.status, 404);

    let granted = world.granted("bob", json!({"authorization_details": payment})).await.with_status(201).id();
    world.moves("bob", &granted, "revoke", json!({"reason": "please <b>again</b>"})).await.with_status(200);
    let page = own.get(&format!("/console/delegations/{granted}")).await.with_status(200);
    assert!(page.text.contains("says the party that ended it"), "{}", page.text);
    let again = own.get(&format!("/console/delegations/{granted}/again")).await.with_status(200);
    assert!(
        again.text.contains("&quot;pay&quot;") && again.text.contains("any capability"),
        "{}",
        again.text
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_use_of_the_highest_capability_needs_a_fresh_sign_in() {
    let world = World::new().await;
    let bob = Principal::new(IDP, "bob");
    let mut own = Browser::of(&world.server, ConsoleRole::User, Some(&bob)).await;
    world.server.pass(899);
    let (id, ceremony) = reserved(&world).await;
    world.server.pass(2);
    let page = own.get(&format!("/console/approvals/{id}/uses/{ceremony}")).await.with_status(200);
    own.submit(&form(&page, &format!("/uses/{ceremony}/approve"))).await;
    let mut sql = world.server.sql().await;
    let decided = "SELECT approved_at IS NOT NULL, denied_at IS NOT NULL FROM ceremony";
    let now: (bool, bool) = sqlx::query_as(decided).fetch_one(&mut sql).await.unwrap();
    assert_eq!(now, (false, false));
    own.submit(&form(&page, &format!("/uses/{ceremony}/deny"))).await;
    let now: (bool, bool) = sqlx::query_as(decided).fetch_one(&mut sql).await.unwrap();
    assert_eq!(now, (false, true));
}
