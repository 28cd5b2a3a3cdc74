//! The cost of what happens while the user is away: requests within a standing grant, beside delegations that the user
//! creates; and refreshes, beside exchanges of a token of the user.

use serde_json::{Value, json};

use crate::generator::{Run, is_200};
use crate::stage::{IDP, MAIL, Stage};
use crate::table::{head, row, size};

const CONNECTIONS: usize = 16;
/// Standing grants of one user.
const MANY: i32 = 10_000;

fn is_201(status: u16, _: &[u8]) -> bool {
    status == 201
}

/// What an agent requests, or a user creates.
fn terms(whose: Value) -> Value {
    let mut body = json!({"scopes": ["mail.read"], "audiences": [MAIL], "expires_in": 600});
    body.as_object_mut().unwrap().extend(whose.as_object().unwrap().clone());
    body
}

pub async fn bench() {
    let (requests, rounds) = (size("BENCH_REQUESTS", 1_000), size("BENCH_ROUNDS", 5));
    let stage = Stage::set().await;
    let token = stage.reporting().await;
    for user in ["dave", "erin"] {
        let grant = json!({"client_id": "proxy", "scopes": ["mail.read"], "audiences": [MAIL]});
        assert_eq!(stage.as_user(user, "/api/v1/standing-grants", grant).await.status, 201);
    }
    many_grants(&stage).await;
    let created = terms(json!({"delegate": "proxy"}));
    let own = json!({"delegate": "proxy", "expires_in": 3600});
    let own = stage.as_user("carol", "/delegate", terms(own)).await;
    let child = terms(json!({"parent": own.json["id"], "delegate": "by-secret"}));
    let requested = |user: &str| terms(json!({"delegator": {"iss": IDP, "sub": user}}));
    let rows: [(&str, &dyn Fn() -> Vec<u8>); 4] = [
        ("created by the user", &|| stage.posted_by_user("carol", "/delegate", &created)),
        ("passed on by the agent", &|| stage.posted("/delegate", &token, &child)),
        ("within a standing grant", &|| stage.posted("/delegate", &token, &requested("dave"))),
        ("within one of 10,000", &|| stage.posted("/delegate", &token, &requested("erin"))),
    ];
    head(&format!("{requests} delegations a row, {CONNECTIONS} connections; medians of {rounds} rounds"));
    measure(&stage, (requests, rounds), &rows, is_201).await;

    let refresh_token = stage.offline("frank").await;
    let (alice, frank) = (stage.user("alice"), stage.user("frank"));
    let rows: [(&str, &dyn Fn() -> Vec<u8>); 3] = [
        ("exchanges", &|| stage.first_exchange(&alice)),
        ("exchanges with a refresh token", &|| stage.first_exchange(&frank)),
        ("refreshes", &|| stage.refresh(&refresh_token)),
    ];
    println!();
    head(&format!("{requests} tokens a row, {CONNECTIONS} connections; medians of {rounds} rounds"));
    measure(&stage, (requests, rounds), &rows, is_200).await;
    stage.strike().await;
}

/// Runs the rows in turn, for several rounds, so that other load on the machine affects all alike.
async fn measure(
    stage: &Stage,
    (requests, rounds): (usize, usize),
    rows: &[(&str, &dyn Fn() -> Vec<u8>)],
    good: fn(u16, &[u8]) -> bool,
) {
    let mut runs: Vec<Vec<Run>> = rows.iter().map(|_| Vec::new()).collect();
    for (_, request) in rows {
        // The first requests open connections, plan statements and verify secrets.
        stage.send((0..requests / 4).map(|_| request()).collect(), CONNECTIONS, good).await;
    }
    for _ in 0..rounds {
        for ((_, request), runs) in rows.iter().zip(&mut runs) {
            let signed = (0..requests).map(|_| request()).collect();
            runs.push(stage.send(signed, CONNECTIONS, good).await);
        }
    }
    for ((name, _), runs) in rows.iter().zip(&runs) {
        row(name, runs);
    }
}

/// Gives Erin as many standing grants, for other agents.
async fn many_grants(stage: &Stage) {
    let mut sql = stage.sql().await;
    sqlx::query(
        "INSERT INTO standing_grant (id, grantor_iss, grantor_sub, client_id, keys, scopes, audiences, max_ttl, created_at,
                                     created_by, expires_at, created_epoch, mac)
         SELECT 'g' || n, grantor_iss, grantor_sub, 'by-secret', keys, scopes, audiences, max_ttl, created_at, created_by,
                expires_at, created_epoch, mac
         FROM standing_grant, generate_series(1, $1) n WHERE grantor_sub = 'erin'",
    )
    .bind(MANY)
    .execute(&mut sql)
    .await
    .unwrap();
    sqlx::query("ANALYZE standing_grant").execute(&mut sql).await.unwrap();
}
