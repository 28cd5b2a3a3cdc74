//! Deletes what this server has made at another server.

use reqwest::header::HeaderValue;
use url::Url;

use super::Outbound;
use crate::platform::fault::{Context, Fault};

impl Outbound {
    /// Sends a DELETE, and returns the status, within the time limit for fetching a document.
    ///
    /// # Errors
    /// A fault for a forbidden address, and if there is no status in time.
    pub async fn delete(&self, url: &str, authorization: &str) -> Result<u16, Fault> {
        let parsed = Url::parse(url).context(&format!("deleting {url:?}"))?;
        if !self.reach.allows_url(&parsed) {
            return Err(Fault::new(format!("deleting {url:?}: this address may not be talked to")));
        }
        let mut value =
            HeaderValue::from_str(authorization).map_err(|_| Fault::new("a secret that fits no header"))?;
        value.set_sensitive(true);
        let request = self.client.delete(parsed).header("authorization", value);
        let response = request.send().await.context(&format!("deleting {url}"))?;
        Ok(response.status().as_u16())
    }
}
