//! A message to one recipient: what waits, and where to decide it. It has no secret and no text of an agent.

use serde::Serialize;

use super::waiting::WaitingItem;
use crate::domain::principal::Principal;
use crate::domain::sink::WaitingKind;
use crate::platform::fault::{Context, Fault};

/// What one recipient reads.
#[derive(Debug)]
pub(super) struct Message {
    /// The same in all attempts.
    pub(super) id: String,
    /// The user who decides; `None` in a message to administrators.
    pub(super) user: Option<Principal>,
    /// Empty for a webhook.
    pub(super) to: Vec<String>,
    /// The newest requests that wait, in the order of the log.
    pub(super) items: Vec<WaitingItem>,
    /// Number of requests that the message does not name.
    pub(super) more: i64,
    /// The page with all of them.
    pub(super) url: String,
    /// The time of the newest request.
    pub(super) at: String,
}

/// The body of a webhook; its form is that of Standard Webhooks.
#[derive(Serialize)]
struct WebhookBody<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    timestamp: &'a str,
    data: WebhookData<'a>,
}

#[derive(Serialize)]
struct WebhookData<'a> {
    user: Option<&'a Principal>,
    items: &'a [WaitingItem],
    more: i64,
    url: &'a str,
}

impl Message {
    /// The body of a webhook, in JSON.
    pub(super) fn webhook(&self) -> Result<String, Fault> {
        let data =
            WebhookData { user: self.user.as_ref(), items: &self.items, more: self.more, url: &self.url };
        let body = WebhookBody { kind: "decision.waiting", timestamp: &self.at, data };
        serde_json::to_string(&body).context("writing a notification")
    }

    /// The id of a mail: one event can be in a mail to a user and in one to administrators.
    pub(super) fn mail_id(&self) -> String {
        match self.user {
            Some(_) => self.id.clone(),
            None => format!("{}.administrators", self.id),
        }
    }

    pub(super) fn subject(&self) -> String {
        let count = i64::try_from(self.items.len()).unwrap_or(i64::MAX).saturating_add(self.more);
        match (count, &self.user) {
            (1, Some(_)) => "A request waits for your decision".to_owned(),
            (1, None) => "A request waits for a decision".to_owned(),
            (count, Some(_)) => format!("{count} requests wait for your decision"),
            (count, None) => format!("{count} requests wait for a decision"),
        }
    }

    /// Plain text: each request on two lines.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for one in &self.items {
            let client = &one.client_id;
            let asks = match one.kind {
                WaitingKind::Request => format!("The agent {client} asks for a delegation"),
                WaitingKind::Key => format!("The agent {client} asks for a new key"),
                WaitingKind::Use => format!("The agent {client} asks to use a delegation once"),
                WaitingKind::Suspended => {
                    format!("The delegation to the agent {client} is suspended until it is approved again")
                }
            };
            let of = match self.user {
                Some(_) => String::new(),
                None => format!(" ({} at {})", plain(&one.delegator.sub), plain(&one.delegator.iss)),
            };
            text.push_str(&format!("{asks}{of}. It waits until {}.\n{}\n\n", one.expires_at, one.url));
        }
        match (self.more, self.items.is_empty()) {
            (0, _) => {}
            (more, true) => text.push_str(&format!("{more} requests wait:\n{}\n\n", self.url)),
            (more, false) => text.push_str(&format!("And {more} more:\n{}\n\n", self.url)),
        }
        text.push_str("No link decides anything: approve or deny in the console. Without a decision, a request expires.\n");
        text
    }
}

/// A name of an issuer, on one line.
fn plain(text: &str) -> String {
    text.chars().map(|one| if one.is_control() { ' ' } else { one }).collect()
}
