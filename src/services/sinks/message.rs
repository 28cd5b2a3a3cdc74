//! A message to one recipient: what waits, and where to decide it. It has no secret and no text of an agent.

use serde::Serialize;

use super::waiting::WaitingItem;
use crate::domain::decision::MatterKind;
use crate::domain::principal::Principal;
use crate::platform::fault::{Context, Fault};
use actchain_protocol::digest::{hex, sha256};

/// What one recipient reads.
#[derive(Debug)]
pub(super) struct Message {
    /// The same in all attempts.
    pub(super) id: String,
    /// The user who decides; `None` in a message to administrators.
    pub(super) user: Option<Principal>,
    /// The address; `None` for a webhook.
    pub(super) to: Option<String>,
    /// The newest requests that wait, in the order of the log.
    pub(super) items: Vec<WaitingItem>,
    /// Number of requests that the message does not name, with the unchecked ones.
    pub(super) more: i64,
    /// Number of older requests of which it is not known whether they still wait.
    pub(super) unchecked: i64,
    /// The page with all requests.
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

    /// The id of a mail: one event can be in a mail to a user and in mails to administrators.
    pub(super) fn mail_id(&self) -> String {
        match (&self.user, &self.to) {
            (None, Some(address)) => {
                let digest: String = hex(&sha256(&[address.as_bytes()])).chars().take(16).collect();
                format!("{}.{digest}", self.id)
            }
            _ => self.id.clone(),
        }
    }

    pub(super) fn subject(&self) -> String {
        let count = i64::try_from(self.items.len()).unwrap_or(i64::MAX).saturating_add(self.more);
        let whose = if self.user.is_some() { "your" } else { "a" };
        match (count, self.unchecked) {
            (1, 0) => format!("A request waits for {whose} decision"),
            (count, 0) => format!("{count} requests wait for {whose} decision"),
            (count, _) => format!("Up to {count} requests wait for {whose} decision"),
        }
    }

    /// Plain text: each request on two lines.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for one in &self.items {
            let client = &one.client_id;
            let asks = match one.kind {
                MatterKind::Request => format!("The agent {client} asks for a delegation"),
                MatterKind::KeyRotation => format!("The agent {client} asks for a new key"),
                MatterKind::Use => format!("The agent {client} asks to use a delegation once"),
                MatterKind::Review => {
                    format!("The delegation to the agent {client} is suspended until it is approved again")
                }
            };
            let of = match self.user {
                Some(_) => String::new(),
                None => format!(" ({} at {})", plain(&one.delegator.sub), plain(&one.delegator.iss)),
            };
            text.push_str(&format!("{asks}{of}. It waits until {}.\n{}\n\n", one.expires_at, one.url));
        }
        let others = match (self.more, self.unchecked) {
            (0, _) => None,
            (more, 0) => Some(format!("And {more} more")),
            (more, _) if self.items.is_empty() => Some(format!("Up to {more} requests wait")),
            (more, _) => Some(format!("And up to {more} more")),
        };
        if let Some(others) = others {
            text.push_str(&format!("{others}:\n{}\n\n", self.url));
        }
        text.push_str("No link decides anything: approve or deny in the console. Without a decision, a request expires.\n");
        text
    }
}

/// A name of an issuer, on one line.
fn plain(text: &str) -> String {
    text.chars().map(|one| if one.is_control() { ' ' } else { one }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(more: i64, unchecked: i64) -> Message {
        let (id, url, at) = ("event".to_owned(), "https://as.example.com/all".to_owned(), String::new());
        let to = Some("security@example.com".to_owned());
        Message { id, user: None, to, items: Vec::new(), more, unchecked, url, at }
    }

    #[test]
    fn a_number_that_may_be_too_large_is_said_to_be_one() {
        let unknown = message(5, 5);
        assert_eq!(unknown.subject(), "Up to 5 requests wait for a decision");
        assert!(unknown.text().starts_with("Up to 5 requests wait:\nhttps://as.example.com/all\n\n"));
        assert_eq!(message(2, 0).subject(), "2 requests wait for a decision");
    }

    #[test]
    fn mails_about_one_event_to_two_addresses_have_two_ids() {
        let other = Message { to: Some("second@example.com".to_owned()), ..message(1, 0) };
        assert_eq!(message(1, 0).mail_id(), message(2, 0).mail_id());
        assert_ne!(message(1, 0).mail_id(), other.mail_id());
    }
}
