//! `actchain delegation tree`: delegations drawn as they hang below one another.

use std::collections::BTreeMap;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::print_json;
use crate::domain::delegation::list::Filter;
use crate::domain::refusal::{Refusal, Stop};
use crate::flows::delegations::{self, Page};
use crate::flows::desk::{Call, Desk};
use crate::platform::fault::Fault;

/// More than anybody looks at.
const MOST: usize = 5_000;

/// Draws what hangs below one delegation, or everything, or everything of a user.
pub(super) async fn run(
    desk: &Desk<'_>,
    call: &Call,
    (id, delegator): (Option<String>, Option<String>),
    json: bool,
) -> Result<ExitCode, Stop> {
    let mut found = Vec::new();
    match &id {
        Some(id) => {
            let (_, one) = delegations::show(desk, call, id).await?;
            found.push(one.body);
            let mut parents = vec![id.clone()];
            while let Some(parent) = parents.pop() {
                let below = all(desk, call, &Filter { parent: Some(parent), ..Filter::default() }).await?;
                parents.extend(below.iter().map(|one| text(one, "/id")));
                found.extend(below);
                if found.len() > MOST {
                    return Err(Refusal::Malformed(
                        "There is too much to draw: name a delegation further down",
                    )
                    .into());
                }
            }
        }
        None => found = all(desk, call, &Filter::default()).await?,
    }
    let of_user = |one: &Value| delegator.as_ref().is_none_or(|sub| text(one, "/root/sub") == *sub);
    let mut below: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let mut roots = Vec::new();
    for one in found.into_iter().filter(of_user) {
        let is_root =
            one.get("parent").is_none_or(Value::is_null) || id.as_deref() == Some(&text(&one, "/id"));
        if is_root { roots.push(one) } else { below.entry(text(&one, "/parent")).or_default().push(one) }
    }
    if json {
        let trees: Vec<Value> = roots.into_iter().map(|root| nested(root, &mut below)).collect();
        print_json(&json!({"trees": trees}))?;
        return Ok(ExitCode::SUCCESS);
    }
    for root in roots {
        println!("{} ({})", text(&root, "/delegator/sub"), text(&root, "/delegator/iss"));
        draw(&root, &below, "");
    }
    Ok(ExitCode::SUCCESS)
}

async fn all(desk: &Desk<'_>, call: &Call, filter: &Filter) -> Result<Vec<Value>, Stop> {
    let mut found = Vec::new();
    let mut page = Page { cursor: None, limit: Some(100) };
    loop {
        let done = delegations::list(desk, call, filter, &page).await?;
        let items = done.body.get("items").and_then(Value::as_array).cloned();
        found.extend(items.ok_or_else(|| Fault::new("a list without items"))?);
        page.cursor = done.body.get("next").and_then(Value::as_str).map(str::to_owned);
        if page.cursor.is_none() || found.len() > MOST {
            return Ok(found);
        }
    }
}

fn draw(one: &Value, below: &BTreeMap<String, Vec<Value>>, indent: &str) {
    let names = |name: &str| match one.get(name).and_then(Value::as_array) {
        None => "as above".to_owned(),
        Some(list) => list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "),
    };
    let state = text(one, "/state");
    let by = one.get("ended_by").and_then(Value::as_str).map(|by| format!(" by {by}")).unwrap_or_default();
    println!(
        "{indent}└─ {}  {state}{by}  [{}]  scopes {}, until {}",
        text(one, "/delegate"),
        text(one, "/id"),
        names("scopes"),
        text(one, "/expires_at")
    );
    for child in below.get(&text(one, "/id")).into_iter().flatten() {
        draw(child, below, &format!("{indent}   "));
    }
}

fn nested(mut one: Value, below: &mut BTreeMap<String, Vec<Value>>) -> Value {
    let children = below.remove(&text(&one, "/id")).unwrap_or_default();
    let children: Vec<Value> = children.into_iter().map(|child| nested(child, below)).collect();
    if let Value::Object(members) = &mut one {
        members.insert("below".into(), Value::Array(children));
    }
    one
}

fn text(one: &Value, pointer: &str) -> String {
    one.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}
