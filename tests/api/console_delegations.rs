//! Delegations in the console: list, tree and filters, what a cut affects, and giving again what has ended.

use actchain::domain::console::ConsoleRole;
use actchain::domain::principal::Principal;
use serde_json::{Value, json};
use sqlx::Executor as _;

use crate::support::browser::{Browser, fields, form};
use crate::support::world::{IDP, MAIL, World};

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_shows_roots_by_user_and_what_was_not_passed_on() {
    let world = World::new().await;
    let mut browser = Browser::of_operator(&world.server).await;
    let tree = browser.get("/console/delegations?view=tree").await.text;
    let place = |text: &str| tree.find(text).unwrap_or_else(|| panic!("{text} in {tree}"));
    assert!(
        place(">alice<") < place("/delegations/D\"") && place("/delegations/D\"") < place("/delegations/E\"")
    );
    assert!(place("/delegations/E\"") < place("/delegations/F\""), "nested");
    let (_, below_e) = tree.split_once("/delegations/F\"").unwrap();
    let dropped = below_e.split("<s class=\"dropped\">").nth(1).unwrap();
    assert!(dropped.starts_with("<code class=\"scope\">mail.send"), "{dropped}");
    assert!(tree.contains("1 active"), "{tree}");
    // Filters are of roots; each is removed by a link that keeps the others.
    let none = browser.get("/console/delegations?view=tree&delegate=user-proxy&state=revoked").await.text;
    assert!(none.contains("Nothing matches."), "{none}");
    for without in ["?view=tree&amp;state=revoked\"", "?view=tree&amp;delegate=user-proxy\""] {
        assert!(none.contains(without), "{without} in {none}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_are_in_the_url_and_what_cannot_be_read_is_named() {
    let world = World::new().await;
    world.server.pass(7_200);
    let mut browser = Browser::of_operator(&world.server).await;
    for (query, found) in [
        ("window=1h", false),
        ("window=24h", true),
        ("window=all", true),
        ("from=2020-01-01&to=2020-01-02", false),
        ("from=2020-01-01", true),
        ("delegator_iss=https%3A%2F%2Fidp.example.com&delegator_sub=alice", true),
        ("delegator_iss=https%3A%2F%2Fother.example.com", false),
        ("state=&delegate=&delegator_sub=&parent=&task=", true),
        ("parent=D", false),
        ("task=none", false),
    ] {
        let page = browser.get(&format!("/console/delegations?{query}")).await;
        assert_eq!(
            (page.status, page.text.contains("/delegations/D\"")),
            (200, found),
            "{query}: {}",
            page.text
        );
    }
    for view in ["list", "tree"] {
        let page = browser.get(&format!("/console/delegations?view={view}&parent=D")).await.text;
        assert!(page.contains("/delegations/E\""), "{view}: {page}");
    }
    let page = browser.get("/console/delegations?window=24h").await.text;
    let link = page.split("data-link").next().unwrap().rsplit("href=\"").next().unwrap();
    assert!(link.contains("from=") && link.contains("&amp;to=") && !link.contains("window"), "{link}");
    for (query, field) in
        [("from=yesterday", "from"), ("to=x", "to"), ("window=2h", "window"), ("state=x", "state")]
    {
        let page = browser.get(&format!("/console/delegations?{query}")).await;
        assert_eq!(page.status, 422, "{query}");
        assert!(page.text.contains(&format!("data-field=\"{field}\"")), "{query}: {}", page.text);
    }
    assert_eq!(browser.get("/console/delegations?unknown=x").await.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_ten_thousand_children_twenty_are_shown() {
    let world = World::new().await;
    let mut sql = world.server.sql().await;
    // Copies of E. Those that no page may read have no MAC.
    let columns: Vec<String> = sqlx::query_scalar(
        "SELECT column_name::text FROM information_schema.columns WHERE table_name = 'delegation'
           AND column_name NOT IN ('id', 'path', 'requested_at', 'mac') ORDER BY ordinal_position",
    )
    .fetch_all(&mut sql)
    .await
    .unwrap();
    let columns = columns.join(", ");
    let copy = |from: u32, to: u32| {
        format!(
            "INSERT INTO delegation (id, path, requested_at, {columns})
             SELECT 'c' || n, ARRAY['D', 'c' || n], requested_at - n * interval '1 second', {columns}
             FROM delegation, generate_series({from}, {to}) n WHERE id = 'E';
             INSERT INTO delegation_usage (delegation_id, uses) SELECT 'c' || n, 0 FROM generate_series({from}, {to}) n;
             ANALYZE delegation"
        )
    };
    sql.execute(sqlx::AssertSqlSafe(copy(1, 45))).await.unwrap();
    world.server.seal_rows().await;
    sql.execute(sqlx::AssertSqlSafe(copy(46, 10_000))).await.unwrap();
    let mut browser = Browser::of_operator(&world.server).await;
    for path in ["/console/delegations?view=tree", "/console/delegations/D"] {
        let page = browser.get(path).await;
        assert_eq!(page.status, 200, "{path}: {}", page.text);
        let children = page.text.matches("email-svc").count();
        assert!((20..=21).contains(&children), "{path}: {children} children");
        assert!(page.text.contains("more below"), "{path}");
    }
    let tree = browser.get("/console/delegations?view=tree").await.text;
    let more = tree.split("more below").next().unwrap().rsplit("href=\"").next().unwrap();
    let more = more.split('"').next().unwrap().replace("&amp;", "&");
    let next = browser.get(&more).await;
    assert!(
        next.text.contains("/delegations/c20\"") && !next.text.contains("/delegations/c19\""),
        "{}",
        next.text
    );
    // The children of a page come from an index, not from a sort of all.
    let plan: Vec<String> = sqlx::query_scalar(
        "EXPLAIN SELECT requested_at, id FROM delegation WHERE parent = 'D' ORDER BY requested_at DESC, id DESC LIMIT 21",
    )
    .fetch_all(&mut sql)
    .await
    .unwrap();
    assert!(plan.iter().all(|line| !line.contains("Sort") && !line.contains("Seq Scan")), "{plan:?}");
    let cut = browser.get("/console/delegations/D/cut").await;
    assert!(cut.text.contains("Ends at least 1000 delegations"), "{}", cut.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_of_many_branches_has_at_most_two_hundred_lines() {
    let world = World::new().await;
    let mut sql = world.server.sql().await;
    let columns: Vec<String> = sqlx::query_scalar(
        "SELECT column_name::text FROM information_schema.columns WHERE table_name = 'delegation'
           AND column_name NOT IN ('id', 'path', 'parent', 'requested_at', 'mac') ORDER BY ordinal_position",
    )
    .fetch_all(&mut sql)
    .await
    .unwrap();
    let columns = columns.join(", ");
    // Ten roots, eighteen children of each, and five children of each child.
    let copies = format!(
        "INSERT INTO delegation (id, path, parent, requested_at, {columns})
         SELECT 'r' || r, ARRAY['r' || r], NULL::text, requested_at - r * interval '1 second', {columns}
         FROM delegation, generate_series(1, 10) r WHERE id = 'D';
         INSERT INTO delegation (id, path, parent, requested_at, {columns})
         SELECT 'r' || r || '-' || c, ARRAY['r' || r, 'r' || r || '-' || c], 'r' || r,
                requested_at - c * interval '1 second', {columns}
         FROM delegation, generate_series(1, 10) r, generate_series(1, 18) c WHERE id = 'E';
         INSERT INTO delegation (id, path, parent, requested_at, {columns})
         SELECT 'r' || r || '-' || c || '-' || g,
                ARRAY['r' || r, 'r' || r || '-' || c, 'r' || r || '-' || c || '-' || g], 'r' || r || '-' || c,
                requested_at - g * interval '1 second', {columns}
         FROM delegation, generate_series(1, 10) r, generate_series(1, 18) c, generate_series(1, 5) g WHERE id = 'F';
         INSERT INTO delegation_usage (delegation_id, uses) SELECT id, 0 FROM delegation WHERE id LIKE 'r%'"
    );
    sql.execute(sqlx::AssertSqlSafe(copies)).await.unwrap();
    world.server.seal_rows().await;
    let mut browser = Browser::of_operator(&world.server).await;
    let tree = browser.get("/console/delegations?view=tree").await;
    assert_eq!(tree.status, 200, "{}", tree.text);
    let lines = tree.text.matches("data-row").count() + tree.text.matches("more below").count();
    assert!((150..=200).contains(&lines), "{lines} lines");
    for root in 1..=10 {
        assert!(tree.text.contains(&format!("/delegations/r{root}-")), "r{root} has a share");
    }
    assert!(tree.text.contains("what is below"), "{}", tree.text);
    let feed = tree.text.split("hx-sse:connect=\"").nth(1).unwrap().split('"').next().unwrap();
    let stream = browser.stream(&world.server, &feed.replace("&amp;", "&"), None).await;
    assert_eq!(stream.status(), 200, "the stream follows all rows that are shown");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_that_affects_much_has_the_agent_typed_and_keeps_what_was_typed() {
    let world = World::new().await;
    let mut sql = world.server.sql().await;
    let columns =
        "parent, root_iss, root_sub, delegator_iss, delegator_sub, delegate, scopes, audiences, origin,
                   requested_at, activated_at, expires_at";
    let copy = format!(
        "INSERT INTO delegation (id, path, {columns})
         SELECT 'c' || n, ARRAY['D', 'c' || n], {columns} FROM delegation, generate_series(1, 100) n WHERE id = 'E';
         INSERT INTO delegation_usage (delegation_id, uses) SELECT 'c' || n, 0 FROM generate_series(1, 100) n"
    );
    sql.execute(sqlx::AssertSqlSafe(copy)).await.unwrap();
    world.server.seal_rows().await;
    let mut browser = Browser::of_operator(&world.server).await;
    let page = browser.get("/console/delegations/D/cut").await;
    assert!(page.text.contains("Ends 103 delegations of 3 agents"), "{}", page.text);
    let sent = form(&page, "/cut").with("typed", "user-prox").with("reason", "an <incident>");
    let refused = browser.submit(&sent).await;
    assert_eq!(refused.status, 422);
    for kept in [
        "value=\"user-prox\"",
        "value=\"an &lt;incident&gt;\"",
        "aria-invalid=\"true\"",
        "aria-describedby=\"wrong\"",
        "id=\"wrong\"",
    ] {
        assert!(refused.text.contains(kept), "{kept} in {}", refused.text);
    }
    // The script of the page keeps its form: it gets the field and the sentence alone.
    let own = world.server.app.issuer.clone();
    let headers = fields(&[("sec-fetch-site", "same-origin"), ("origin", &own), ("hx-request", "true")]);
    let part = browser.post_with(&sent.action, &sent.fields, headers).await;
    assert_eq!(part.status, 422);
    assert!(part.text.contains("data-field=\"typed\"") && !part.text.contains("<form"), "{}", part.text);
    assert_eq!(world.as_admin("GET", "/delegate/D", Value::Null).await.json["state"], "active");
    let again = form(&refused, "/cut").with("typed", "user-proxy");
    let done = browser.submit(&again).await;
    assert!(done.status == 200 && done.text.contains("Ended 103 delegations and 0 tokens"), "{}", done.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_gives_again_what_has_ended_within_its_limits() {
    let world = World::new().await;
    let server = &world.server;
    let alice = Principal::new(IDP, "alice");
    let limits = json!({"delegate": "user-proxy", "scopes": ["mail.read", "mail.send"], "audiences": [MAIL],
                        "max_uses": 5, "max_depth": 2, "expires_in": 600});
    let made = world.as_alice("POST", "/delegate", limits).await.with_status(201);
    let id = made.json["id"].as_str().unwrap().to_owned();
    let path = format!("/console/delegations/{id}");
    let mut browser = Browser::of(server, ConsoleRole::User, Some(&alice)).await;
    assert_eq!(browser.get(&format!("{path}/again")).await.status, 404, "it is active");
    world.as_alice("POST", &format!("/delegate/{id}/revoke"), json!({})).await.with_status(200);
    let shown = browser.get(&path).await;
    assert!(shown.text.contains("Give again…") && !shown.text.contains("Give it longer"), "{}", shown.text);
    let page = browser.get(&format!("{path}/again")).await;
    let filled = form(&page, "/again");
    assert_eq!((filled.value("max_uses"), filled.value("max_depth")), ("5", "2"));
    for (wider, status) in [
        (filled.clone().with("max_uses", "6"), 422),
        (filled.clone().with("max_uses", ""), 422),
        (filled.clone().with("max_depth", "3"), 422),
        (filled.clone().with("expires_in", "99999999"), 400),
        (filled.clone().with("scope:calendar.read", "on"), 400),
        (filled.clone().without("scope:mail.read").without("scope:mail.send"), 400),
    ] {
        assert_eq!(browser.submit(&wider).await.status, status, "{:?}", wider.fields);
    }
    let less = filled.without("scope:mail.send").with("max_uses", "2");
    let made_again = browser.submit(&less).await;
    assert_eq!(made_again.status, 200, "{}", made_again.text);
    let delegations =
        world.as_alice("GET", "/delegate?state=active&delegate=user-proxy", Value::Null).await.json;
    let new =
        delegations["items"].as_array().unwrap().iter().find(|one| one["max_uses"] == 2).unwrap().clone();
    assert_eq!(
        (&new["scopes"], &new["audiences"], &new["max_depth"]),
        (&json!(["mail.read"]), &json!([MAIL]), &json!(2))
    );
    // Not for others, and not without a fresh sign-in.
    let mut admin = Browser::of_operator(server).await;
    assert_eq!(admin.get(&format!("{path}/again")).await.status, 404);
    let mut eve = Browser::of(server, ConsoleRole::User, Some(&Principal::new(IDP, "eve"))).await;
    assert_eq!(eve.get(&format!("{path}/again")).await.status, 404);
    server.pass(901);
    let page = browser.get(&format!("{path}/again")).await;
    let late = browser.submit(&form(&page, "/again")).await;
    assert!(late.status == 403 && late.text.contains("Sign in once more"), "{}", late.text);
}
