//! `actchain delegation tree`: delegations drawn as a tree of parents and children.

use std::collections::BTreeMap;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::{print_json, to_value};
use crate::domain::delegation::list::DelegationFilter;
use crate::domain::refusal::{Error, Refusal};
use crate::services::delegations;
use crate::services::page::{Page, PageRequest};
use crate::services::request_context::RequestContext;

/// The most delegations that are drawn.
const MOST: usize = 5_000;

/// Draws the descendants of one delegation, all delegations, or all delegations of a user.
pub(super) async fn run(
    ctx: &RequestContext<'_>,
    (id, delegator): (Option<String>, Option<String>),
    json: bool,
) -> Result<ExitCode, Error> {
    let mut found = match (&id, &delegator) {
        (Some(id), _) => vec![to_value(&delegations::show(ctx, id).await?)?],
        (None, Some(sub)) => {
            let given = DelegationFilter { delegator_sub: Some(sub.clone()), ..DelegationFilter::default() };
            let mut given = all(ctx, &given).await?;
            given.retain(is_root);
            given
        }
        (None, None) => all(ctx, &DelegationFilter::default()).await?,
    };
    if id.is_some() || delegator.is_some() {
        let mut parents: Vec<String> = found.iter().map(|one| text(one, "/id")).collect();
        while let Some(parent) = parents.pop() {
            let below =
                all(ctx, &DelegationFilter { parent: Some(parent), ..DelegationFilter::default() }).await?;
            parents.extend(below.iter().map(|one| text(one, "/id")));
            found.extend(below);
            drawable(&found)?;
        }
    }
    let of_user = |one: &Value| delegator.as_ref().is_none_or(|sub| text(one, "/root/sub") == *sub);
    let mut below: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let mut roots = Vec::new();
    for one in found.into_iter().filter(of_user) {
        let drawn_first = is_root(&one) || id.as_deref() == Some(&text(&one, "/id"));
        if drawn_first { roots.push(one) } else { below.entry(text(&one, "/parent")).or_default().push(one) }
    }
    if json {
        let trees: Vec<Value> = roots.into_iter().map(|root| nested(root, &mut below)).collect();
        print_json(&json!({"trees": trees}))?;
        return Ok(ExitCode::SUCCESS);
    }
    let given_by = |root: &Value| (text(root, "/delegator/iss"), text(root, "/delegator/sub"));
    // The sort is stable: the newest delegation of each delegator stays first.
    roots.sort_by_key(given_by);
    for trees in roots.chunk_by(|one, next| given_by(one) == given_by(next)) {
        if let Some(first) = trees.first() {
            println!("{} ({})", text(first, "/delegator/sub"), text(first, "/delegator/iss"));
        }
        draw_all(trees, &below, "");
    }
    Ok(ExitCode::SUCCESS)
}

fn is_root(one: &Value) -> bool {
    one.get("parent").is_none_or(Value::is_null)
}

/// An incomplete tree would seem complete, so too many delegations are refused.
fn drawable(found: &[Value]) -> Result<(), Refusal> {
    if found.len() > MOST {
        return Err(Refusal::Malformed("The tree is too large to draw: name a descendant"));
    }
    Ok(())
}

async fn all(ctx: &RequestContext<'_>, filter: &DelegationFilter) -> Result<Vec<Value>, Error> {
    let mut found = Vec::new();
    let mut page = PageRequest { cursor: None, limit: Some(100) };
    loop {
        let Page { items, next } = delegations::list(ctx, filter, &page).await?;
        for item in &items {
            found.push(to_value(item)?);
        }
        page.cursor = next;
        drawable(&found)?;
        if page.cursor.is_none() {
            return Ok(found);
        }
    }
}

/// Draws siblings; the last sibling ends the vertical line.
fn draw_all(siblings: &[Value], below: &BTreeMap<String, Vec<Value>>, indent: &str) {
    let Some((last, others)) = siblings.split_last() else { return };
    for one in others {
        draw(one, below, (indent, "├─ ", "│  "));
    }
    draw(last, below, (indent, "└─ ", "   "));
}

fn draw(one: &Value, below: &BTreeMap<String, Vec<Value>>, (indent, branch, line): (&str, &str, &str)) {
    draw_one(one, &format!("{indent}{branch}"));
    let children = below.get(&text(one, "/id")).map(Vec::as_slice).unwrap_or_default();
    draw_all(children, below, &format!("{indent}{line}"));
}

fn draw_one(one: &Value, branch: &str) {
    let names = |name: &str| match one.get(name).and_then(Value::as_array) {
        None => "as above".to_owned(),
        Some(list) => list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "),
    };
    let state = text(one, "/state");
    let by = one.get("ended_by").and_then(Value::as_str).map(|by| format!(" by {by}")).unwrap_or_default();
    println!(
        "{branch}{}  {state}{by}  [{}]  scopes {}, until {}",
        text(one, "/delegate"),
        text(one, "/id"),
        names("scopes"),
        text(one, "/expires_at")
    );
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
