//! Posting something that nobody answers anything to but whether it was taken.

use std::time::Duration;

use url::Url;

use super::Outbound;
use super::post::retry_after;
use crate::platform::fault::{Context, Fault};

/// How long one delivery may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is posted.
#[derive(Debug)]
pub struct WebhookRequest<'a> {
    /// Its media type.
    pub content_type: &'static str,
    /// Header fields besides.
    pub fields: Vec<(&'static str, String)>,
    pub body: &'a str,
}

/// What was said to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WebhookResponse {
    pub status: u16,
    /// So many seconds it wants to be left alone.
    pub retry_after: Option<u64>,
}

impl Outbound {
    /// Posts it, within ten seconds and without following anybody anywhere else; the body of the answer is not read.
    ///
    /// # Errors
    /// A fault for a forbidden address, and where there is no answer in time.
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
        // The error may name the URL, in which there may be a secret of theirs.
        let response =
            request.body(delivery.body.to_owned()).send().await.map_err(reqwest::Error::without_url);
        let response = response.context("no answer")?;
        Ok(WebhookResponse {
            status: response.status().as_u16(),
            retry_after: retry_after(response.headers()),
        })
    }
}
