//! `actchain delegation tree`: delegations drawn as a tree of parents and children.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::ArgAction::SetTrue;
use serde_json::{Value, json};

use super::output::{OutputFormat, print_json, text, to_value};
use crate::domain::delegation::list::DelegationFilter;
use crate::domain::refusal::{Error, Refusal};
use crate::services::delegations;
use crate::services::page::{Page, PageRequest};
use crate::services::request_context::RequestContext;

/// The most delegations that are drawn.
const MOST: usize = 5_000;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The delegation to draw; all roots if absent
    id: Option<String>,
    /// Only delegations that this user granted
    #[arg(long, value_name = "SUB")]
    delegator: Option<String>,
    #[arg(long = "json", action = SetTrue)]
    format: OutputFormat,
}

/// Children by the id of their parent.
type Children = BTreeMap<String, Vec<Value>>;

/// The position of a delegation among its siblings.
#[derive(Clone, Copy)]
enum Branch {
    Middle,
    /// The vertical line ends here.
    Last,
}

/// Draws the descendants of one delegation, all delegations, or all delegations of a user.
pub(super) async fn run(ctx: &RequestContext<'_>, args: &Args) -> Result<ExitCode, Error> {
    let Args { id, delegator, format } = args;
    let mut found = match (id, delegator) {
        (Some(id), _) => vec![to_value(&delegations::show(ctx, id).await?)?],
        (None, Some(sub)) => {
            let filter = DelegationFilter { delegator_sub: Some(sub.clone()), ..DelegationFilter::default() };
            let mut granted = all(ctx, &filter).await?;
            granted.retain(is_root);
            granted
        }
        (None, None) => all(ctx, &DelegationFilter::default()).await?,
    };
    if id.is_some() || delegator.is_some() {
        let mut parents: Vec<String> = found.iter().map(|one| text(one, "/id").to_owned()).collect();
        while let Some(parent) = parents.pop() {
            let filter = DelegationFilter { parent: Some(parent), ..DelegationFilter::default() };
            let children = all(ctx, &filter).await?;
            parents.extend(children.iter().map(|one| text(one, "/id").to_owned()));
            found.extend(children);
            drawable(&found)?;
        }
    }
    let of_user = |one: &Value| delegator.as_ref().is_none_or(|sub| text(one, "/root/sub") == sub);
    let mut children = Children::new();
    let mut roots = Vec::new();
    for one in found.into_iter().filter(of_user) {
        let drawn_first = is_root(&one) || id.as_deref() == Some(text(&one, "/id"));
        if drawn_first {
            roots.push(one);
        } else {
            children.entry(text(&one, "/parent").to_owned()).or_default().push(one);
        }
    }
    if *format == OutputFormat::Json {
        let trees: Vec<Value> = roots.into_iter().map(|root| nested(root, &mut children)).collect();
        print_json(&json!({"trees": trees}))?;
        return Ok(ExitCode::SUCCESS);
    }
    fn delegator_of(root: &Value) -> [&str; 2] {
        ["/delegator/iss", "/delegator/sub"].map(|pointer| text(root, pointer))
    }
    // The sort is stable: the newest delegation of each delegator stays first.
    roots.sort_by(|one, other| delegator_of(one).cmp(&delegator_of(other)));
    for trees in roots.chunk_by(|one, next| delegator_of(one) == delegator_of(next)) {
        if let Some(first) = trees.first() {
            println!("{} ({})", text(first, "/delegator/sub"), text(first, "/delegator/iss"));
        }
        draw_all(trees, &children, "");
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

fn draw_all(siblings: &[Value], children: &Children, indent: &str) {
    let Some((last, others)) = siblings.split_last() else { return };
    for one in others {
        draw(one, children, indent, Branch::Middle);
    }
    draw(last, children, indent, Branch::Last);
}

fn draw(one: &Value, children: &Children, indent: &str, branch: Branch) {
    let (sign, line) = match branch {
        Branch::Middle => ("├─ ", "│  "),
        Branch::Last => ("└─ ", "   "),
    };
    draw_one(one, &format!("{indent}{sign}"));
    let below = children.get(text(one, "/id")).map(Vec::as_slice).unwrap_or_default();
    draw_all(below, children, &format!("{indent}{line}"));
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

fn nested(mut one: Value, children: &mut Children) -> Value {
    let below = children.remove(text(&one, "/id")).unwrap_or_default();
    let below: Vec<Value> = below.into_iter().map(|child| nested(child, children)).collect();
    if let Value::Object(members) = &mut one {
        members.insert("below".into(), Value::Array(below));
    }
    one
}
