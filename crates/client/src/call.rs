//! Calls of the server's own API, with an access token for the server and a proof.

use std::time::Duration;

use reqwest::Method;
use reqwest::header::AUTHORIZATION;

use crate::client::Client;
use crate::error::Error;
use crate::key::ProofOf;
use crate::token::Token;

/// Longest response that is read, in bytes.
const MOST_BYTES: usize = 64 * 1024 * 1024;
const TIMEOUT: Duration = Duration::from_secs(120);

/// A request to the management API.
#[derive(Debug, Clone, Default)]
pub struct ApiCall<'a> {
    /// The method, such as `POST`.
    pub method: &'a str,
    /// The path below the issuer, with the query.
    pub path: &'a str,
    /// Further header fields: names in lower case, and values.
    pub headers: Vec<(&'a str, &'a str)>,
    /// The body; none where empty.
    pub body: Vec<u8>,
}

/// A response of the management API, whatever its status.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ApiAnswer {
    /// The status of the HTTP response.
    pub status: u16,
    /// The body: the result, or a problem (RFC 9457).
    pub body: Vec<u8>,
}

impl Client {
    /// Calls the management API with a token for the server itself. The request is repeated once if the server demands a
    /// nonce.
    ///
    /// # Errors
    /// [`Error::Unreachable`] or [`Error::Response`] if there is no whole response. A refusal is an answer.
    pub async fn call(&self, token: &Token, call: &ApiCall<'_>) -> Result<ApiAnswer, Error> {
        let first = self.call_once(token, call, self.nonce()).await?;
        match first {
            (answer, Some(nonce)) if answer.status == 401 && self.remember(&nonce) => {
                Ok(self.call_once(token, call, Some(nonce)).await?.0)
            }
            (answer, _) => Ok(answer),
        }
    }

    /// One request; with the nonce of the answer.
    async fn call_once(
        &self,
        token: &Token,
        call: &ApiCall<'_>,
        nonce: Option<String>,
    ) -> Result<(ApiAnswer, Option<String>), Error> {
        let method = Method::from_bytes(call.method.as_bytes())
            .map_err(|_| Error::Usage("the method is not a method of HTTP"))?;
        let uri = format!("{}{}", self.issuer().trim_end_matches('/'), call.path);
        let request = ProofOf {
            method: call.method,
            uri: &uri,
            access_token: Some(&token.access_token),
            nonce: nonce.as_deref(),
        };
        let mut sent = self.http().request(method, &uri).timeout(TIMEOUT);
        sent = sent.header("dpop", self.key().proof(&request, self.now())?);
        sent = sent.header(AUTHORIZATION, format!("DPoP {}", token.secret()));
        for (name, value) in &call.headers {
            sent = sent.header(*name, *value);
        }
        if !call.body.is_empty() {
            sent = sent.body(call.body.clone());
        }
        let mut response = sent.send().await.map_err(Error::Unreachable)?;
        let nonce = response.headers().get("dpop-nonce").and_then(|nonce| nonce.to_str().ok());
        let nonce = nonce.map(str::to_owned);
        let status = response.status().as_u16();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(Error::Unreachable)? {
            if body.len() + chunk.len() > MOST_BYTES {
                return Err(Error::Response("it is too long"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok((ApiAnswer { status, body }, nonce))
    }
}
