//! What a hook gets on standard input: the JSON of Claude Code's hooks, or one step as `POST /delegate/{id}/steps` has it.

use serde_json::{Map, Value};

use crate::platform::fault::Fault;

/// The longest text that is sent, in bytes: the limit of the server.
const MAX_TEXT: usize = 16 * 1024;
/// What is sent of the end of a longer text.
const TAIL: usize = 4 * 1024;
/// Between the beginning and the end of a longer text.
const GAP: &str = "\n[…]\n";
/// The longest name of a tool, and of its use.
const MAX_NAME: usize = 128;

/// What the agent's program expects of the hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HookFormat {
    ClaudeCode,
    /// One step as JSON; the answer is JSON, too.
    Plain,
}

/// An occurrence in the agent's work.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum HookEvent {
    /// The agent is about to use a tool.
    Before(Value),
    /// The agent is about to use a tool with more text than rules examine. The step has the beginning and the end.
    TooLong(Value),
    /// The agent used a tool.
    After(Value),
    /// Nothing to report: the agent stopped, or it is another event.
    Other,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct HookInput {
    pub(super) format: HookFormat,
    pub(super) event: HookEvent,
    /// The program's name for the piece of work.
    pub(super) session: Option<String>,
}

impl HookInput {
    /// # Errors
    /// A fault if the text is neither.
    pub(super) fn read(input: &[u8]) -> Result<Self, Fault> {
        let text = String::from_utf8_lossy(input);
        let mut value: Value =
            serde_json::from_str(&text).map_err(|error| Fault::caused("reading standard input", error))?;
        replace_nul(&mut value);
        let Value::Object(members) = value else {
            return Err(Fault::new("standard input is no JSON object"));
        };
        let session = members.get("session_id").and_then(Value::as_str).map(str::to_owned);
        match members.get("hook_event_name").and_then(Value::as_str) {
            Some(name) => {
                let event = of_claude_code(name, &members);
                Ok(Self { format: HookFormat::ClaudeCode, event, session })
            }
            None => Ok(Self { format: HookFormat::Plain, event: plain(members)?, session }),
        }
    }
}

fn of_claude_code(name: &str, members: &Map<String, Value>) -> HookEvent {
    let text = |name: &str| members.get(name).and_then(Value::as_str);
    let Some(tool) = text("tool_name") else { return HookEvent::Other };
    let outcome = match name {
        "PreToolUse" => "proposed",
        "PostToolUse" => "succeeded",
        "PostToolUseFailure" => "failed",
        _ => return HookEvent::Other,
    };
    let mut step = Map::new();
    step.insert("tool".into(), as_name(tool).into());
    step.insert("outcome".into(), outcome.into());
    step.extend(text("tool_use_id").map(|id| ("tool_use_id".into(), as_name(id).into())));
    step.extend(members.get("tool_input").map(|input| ("input".into(), bounded(input))));
    if outcome == "proposed" {
        return before(step, members.get("tool_input"));
    }
    let output = members.get("tool_response").or_else(|| members.get("error"));
    step.extend(output.map(|output| ("output".into(), bounded(output))));
    HookEvent::After(step.into())
}

/// A step that rules do not examine whole is not asked about: what it leaves out could be what they forbid.
fn before<'a>(step: Map<String, Value>, texts: impl IntoIterator<Item = &'a Value>) -> HookEvent {
    match texts.into_iter().any(is_long) {
        true => HookEvent::TooLong(step.into()),
        false => HookEvent::Before(step.into()),
    }
}

fn plain(mut members: Map<String, Value>) -> Result<HookEvent, Fault> {
    members.remove("session_id");
    let whole = members.clone();
    for name in ["input", "output", "reasoning"] {
        if let Some(text) = members.get_mut(name) {
            *text = bounded(text);
        }
    }
    match members.get("outcome").and_then(Value::as_str) {
        Some("proposed") => {
            let texts = ["input", "output", "reasoning"].map(|name| whole.get(name));
            Ok(before(members, texts.into_iter().flatten()))
        }
        Some(_) => Ok(HookEvent::After(members.into())),
        None => Err(Fault::new("standard input has neither hook_event_name nor outcome")),
    }
}

/// The text of a value as it is sent.
fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn is_long(value: &Value) -> bool {
    text_of(value).len() > MAX_TEXT
}

/// The text of the value, or the beginning and the end of it.
fn bounded(value: &Value) -> Value {
    let text = text_of(value);
    if text.len() <= MAX_TEXT {
        return text.into();
    }
    let head = floor(&text, MAX_TEXT - TAIL - GAP.len());
    let tail = ceil(&text, text.len() - TAIL);
    let parts = text.get(..head).zip(text.get(tail..));
    parts.map_or(Value::Null, |(head, tail)| format!("{head}{GAP}{tail}").into())
}

/// The end of the last character before a byte.
fn floor(text: &str, byte: usize) -> usize {
    (0..=byte).rev().find(|place| text.is_char_boundary(*place)).unwrap_or_default()
}

fn ceil(text: &str, byte: usize) -> usize {
    (byte..=text.len()).find(|place| text.is_char_boundary(*place)).unwrap_or(text.len())
}

/// A name that the server accepts.
fn as_name(text: &str) -> String {
    let valid = |one: char| match one {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '.' | ':' | '/' | '-' => one,
        _ => '_',
    };
    text.chars().map(valid).take(MAX_NAME).collect()
}

/// The server refuses the character NUL.
fn replace_nul(value: &mut Value) {
    match value {
        Value::String(text) if text.contains('\0') => *text = text.replace('\0', "\u{fffd}"),
        Value::Array(items) => items.iter_mut().for_each(replace_nul),
        Value::Object(members) => members.values_mut().for_each(replace_nul),
        _ => {}
    }
}
