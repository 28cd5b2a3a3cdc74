//! Exports of a session: each caller gets the items of its trace, and spreadsheets execute none of the cells.

use actchain::domain::audit::EventKind;
use actchain::services::transaction::AuditedTransaction;
use serde_json::{Value, json};

use crate::support::agent::JWT;
use crate::support::audit::{Dice, all_pages, auditor, cover, event, read};
use crate::support::world::{IDP, MAIL, World};

const SESSION: &str = "/api/v1/sessions/session-1";

type Row = std::collections::BTreeMap<String, String>;

/// The lines about the file, and the rows by the names of the columns.
fn parsed(text: &str) -> (Vec<(String, String)>, Vec<Row>) {
    let about = text.lines().filter(|line| line.starts_with("# ")).map(|line| {
        let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(line.as_bytes());
        let record = reader.records().next().unwrap().unwrap();
        (record[0].to_owned(), record[1].to_owned())
    });
    let mut reader = csv::ReaderBuilder::new().comment(Some(b'#')).from_reader(text.as_bytes());
    let rows = reader.deserialize().map(Result::unwrap).collect();
    (about.collect(), rows)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_has_the_session_and_all_items_of_its_trace() {
    let world = World::new().await;
    let (auditor, token) = auditor(&world).await;
    let mut dice = Dice(6);
    // More than one piece, in the index and after it.
    let events: Vec<_> = (0..1_500_u64)
        .map(|n| {
            let mut one = event(&world, &mut dice, n);
            if one.session_id.is_some() && n % 4 > 0 {
                one.session_id = Some("session-1".into());
            }
            one
        })
        .collect();
    AuditedTransaction::begin(&world.server.app.pool).await.unwrap().commit(&events).await.unwrap();
    cover(&world).await;
    let trace = all_pages(&world, (&auditor, &token), &format!("{SESSION}/trace")).await;
    assert!(trace.len() > 600, "{}", trace.len());
    let session = read(&world, (&auditor, &token), SESSION).await.json;
    let size = world.server.documents().await.len();
    let file = read(&world, (&auditor, &token), &format!("{SESSION}/export")).await.with_status(200);
    assert_eq!(file.header("content-type"), Some("application/json"));
    assert_eq!(file.json["items"], json!(trace));
    let mut summary = session.clone();
    summary.as_object_mut().unwrap().remove("people");
    assert_eq!(file.json["session"], summary);
    assert_eq!(file.json["export"]["size"], json!(size));
    let recorded = world.server.documents().await.pop().unwrap();
    assert_eq!(recorded["action"], "admin.audit_exported");
    assert_eq!(
        recorded["detail"],
        json!({"format": "json", "filter": {"session_id": null}, "from_seq": 0, "people": false, "size": size}),
        "an id that an issuer chose is not kept for ever"
    );

    let file = read(&world, (&auditor, &token), &format!("{SESSION}/export?format=csv")).await;
    let (about, rows) = parsed(&file.text);
    let said =
        |name: &str| about.iter().find(|(own, _)| own.trim_start_matches("# ") == name).unwrap().1.clone();
    assert_eq!((said("session"), said("events")), ("session-1".to_owned(), session["events"].to_string()));
    assert_eq!(rows.len(), trace.len());
    for (row, item) in rows.iter().zip(&trace) {
        for (name, pointer) in [
            ("seq", "/seq"),
            ("gap_ms", "/gap_ms"),
            ("depth", "/depth"),
            ("kind", "/kind"),
            ("actor_client_id", "/actor/client_id"),
            ("actor_jkt", "/actor/jkt"),
            ("txn", "/txn"),
            ("jti", "/jti"),
        ] {
            let value = item.pointer(pointer).cloned().unwrap_or_default();
            let text = value.as_str().map_or_else(|| value.to_string().replace("null", ""), str::to_owned);
            assert_eq!(row[name], text, "{name} of {item}");
        }
    }
    let marked = read(&world, (&auditor, &token), &format!("{SESSION}/export?format=csv&bom=true")).await;
    assert!(marked.text.starts_with("\u{feff}# session,"));

    // A user gets its own items.
    let own = world.as_user("user-3", "GET", &format!("{SESSION}/export"), Value::Null).await.json;
    let wanted = trace.len() > own["items"].as_array().unwrap().len();
    assert!(wanted && own["session"]["subjects"].as_array().unwrap().len() == 1, "{}", own["session"]);
    assert_eq!(own["session"]["events"], json!(own["items"].as_array().unwrap().len()));
    for path in ["", "?format=csv"].map(|query| format!("{SESSION}/export{query}")) {
        assert_eq!(world.as_user("mallory", "GET", &path, Value::Null).await.status, 404);
        let agent = world.as_agent(&world.user_proxy, "GET", &path, Value::Null).await;
        assert_eq!((agent.status, agent.reason()), (403, "insufficient_scope"));
    }
    let refused = world
        .server
        .documents()
        .await
        .iter()
        .filter(|event| event["action"] == "admin.audit_exported")
        .count();
    assert_eq!(refused, 4, "what was refused exported nothing");
    for query in ["format=sql", "bom=true", "format=csv&bom=yes", "people=true"] {
        let bad = read(&world, (&auditor, &token), &format!("{SESSION}/export?{query}")).await;
        assert_eq!((bad.status, bad.reason()), (400, "malformed_request"), "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_cell_is_a_formula_and_no_name_leaves_its_line() {
    let world = World::new().await;
    let (auditor, token) = auditor(&world).await;
    let sid = "=HYPERLINK(\"http://evil\")\r\n@SUM(1)";
    let user = world.user_token_with(|claims| claims["sid"] = json!("=1+1,@x"));
    world
        .user_proxy
        .exchange(&world.server, &user, JWT)
        .param("audience", MAIL)
        .send()
        .await
        .with_status(200);
    let mut one = event(&world, &mut Dice(1), 1);
    one.kind = EventKind::TokenExchanged {
        exp: 0,
        kid: "k".into(),
        introspected: None,
        refresh_token: None,
        exceptions: Vec::new(),
    };
    (one.session_id, one.target) = (Some("=1+1,@x".into()), Some(sid.into()));
    one.subject = Some(actchain::domain::principal::Principal::new(IDP, "=cmd"));
    AuditedTransaction::begin(&world.server.app.pool).await.unwrap().commit(&[one]).await.unwrap();
    let path = "/api/v1/sessions/%3D1%2B1%2C%40x/export?format=csv";
    let file = read(&world, (&auditor, &token), path).await.with_status(200);
    let (about, rows) = parsed(&file.text);
    assert!(about.contains(&("# session".to_owned(), "'=1+1,'@x".to_owned())), "{about:?}");
    assert_eq!((rows.len(), rows[1]["target"].as_str()), (2, "'=HYPERLINK(\"http://evil\")\r\n'@SUM(1)"));
    assert!(!file.text.contains("=cmd"), "users are pseudonyms");
    let first = file.header("content-disposition").unwrap();
    let (seq, size) = (&rows[0]["seq"], file.header("actchain-audit-size").unwrap());
    assert_eq!(first, format!("attachment; filename=\"session-{seq}-{size}.csv\""));
}
