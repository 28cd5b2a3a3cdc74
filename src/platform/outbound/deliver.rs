//! Posts webhooks. Of the response, only the status and `Retry-After` are read.

use std::time::Duration;

use url::Url;

use super::Outbound;
use super::post::retry_after;
use crate::platform::fault::{Context, Fault};

/// Time limit for one delivery.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct WebhookRequest<'a> {
    pub content_type: &'static str,
    /// Additional header fields.
    pub fields: Vec<(&'static str, String)>,
    pub body: &'a str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WebhookResponse {
    pub status: u16,
    /// Seconds until the receiver wants the next request.
    pub retry_after: Option<u64>,
}

impl Outbound {
    /// Posts within ten seconds, without following redirects. The body of the response is not read.
    ///
    /// # Errors
    /// A fault for a forbidden address, and if there is no response in time.
    pub async fn deliver(&self, url: &str, delivery: WebhookRequest<'_>) -> Result<WebhookResponse, Fault> {
        let parsed = Url::parse(url).context("delivering an event")?;
        if !self.reach.allows_url(&parsed) {
            return Err(Fault::new("this address may not be talked to"));
        }
        let mut request =
            self.client.post(parsed).timeout(PATIENCE).header("content-type", delivery.content_type);
        for (name, value) in delivery.fields {
            request = request.header(name, value);
        }
        // The error may contain the URL, which may contain a secret of the receiver.
        let response =
            request.body(delivery.body.to_owned()).send().await.map_err(reqwest::Error::without_url);
        let response = response.context("no answer")?;
        Ok(WebhookResponse {
            status: response.status().as_u16(),
            retry_after: retry_after(response.headers()),
        })
    }
}
