//! Forwards a client's request to a provider. Bodies are streamed both ways unchanged, and redirects are not followed.
//! Networks of `outbound.allow` are not open to these requests, hosts that it names are.

use std::pin::Pin;
use std::time::Duration;

pub use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use reqwest::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING};
use reqwest::{Body, Method, StatusCode};
use url::Url;
use zeroize::Zeroizing;

use super::Outbound;
use crate::platform::fault::{Context, Fault};

/// A header field: its name in lower case, and its value.
pub type ForwardedField = (String, Vec<u8>);

/// A body, streamed in chunks.
pub type Chunks = Pin<Box<dyn Stream<Item = Result<Bytes, Fault>> + Send>>;

pub struct UpstreamRequest<'a> {
    pub method: &'a str,
    pub url: Url,
    /// Header fields, without hop-by-hop fields.
    pub fields: Vec<ForwardedField>,
    /// The field with the credential: marked as sensitive, so that it is not logged.
    pub secret: (&'a str, Zeroizing<String>),
    /// The body, if any; its length, if known, is among the fields.
    pub body: Option<Chunks>,
    /// Time limit for the whole exchange, including the body of the response.
    pub patience: Duration,
}

/// The head of the response, and its body as a stream.
pub struct UpstreamResponse {
    pub status: u16,
    pub fields: Vec<ForwardedField>,
    /// The length of the body, if the response states it.
    pub length: Option<u64>,
    pub body: Chunks,
}

/// The reason that there is no response.
#[derive(Debug)]
pub enum UpstreamError {
    /// The response did not arrive in time.
    Late(Fault),
    /// The address is forbidden, the connection failed, or the response is not sound HTTP.
    Failed(Fault),
}

/// The reason that two readers may disagree on where the response ends; `None` for sound framing. RFC 9112 §6.3:
/// `Transfer-Encoding` beside `Content-Length` "might indicate an attempt to perform request smuggling or response
/// splitting". Transfer codings other than `chunked` were not requested (RFC 9112 §7.4) and would not be decoded.
fn unsound_framing(headers: &HeaderMap) -> Option<&'static str> {
    let codings: Vec<&HeaderValue> = headers.get_all(TRANSFER_ENCODING).iter().collect();
    let lengths: Vec<&HeaderValue> = headers.get_all(CONTENT_LENGTH).iter().collect();
    match (codings.as_slice(), lengths.as_slice()) {
        ([], [] | [_]) => None,
        ([_, ..], [_, ..]) => Some("its answer has both Transfer-Encoding and Content-Length"),
        ([], _) => Some("its answer has several lengths"),
        ([coding], []) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => None,
        (_, []) => Some("its answer has a transfer coding besides chunked"),
    }
}

impl Outbound {
    /// Forwards a request, and returns as soon as the head of the response has arrived. Dropping the future or the
    /// response cancels the request.
    ///
    /// # Errors
    /// [`UpstreamError`], also for a forbidden address.
    pub async fn forward(&self, onward: UpstreamRequest<'_>) -> Result<UpstreamResponse, UpstreamError> {
        let what = format!("passing on to {}", onward.url.origin().ascii_serialization());
        let request = self.request(onward, &what).map_err(UpstreamError::Failed)?;
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) if error.is_timeout() => {
                return Err(UpstreamError::Late(Fault::caused(what, error.without_url())));
            }
            Err(error) => return Err(UpstreamError::Failed(Fault::caused(what, error.without_url()))),
        };
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(UpstreamError::Failed(Fault::new(format!("{what}: it switches protocols"))));
        }
        if let Some(why) = unsound_framing(response.headers()) {
            return Err(UpstreamError::Failed(Fault::new(format!("{what}: {why}"))));
        }
        let fields = response.headers().iter();
        let fields = fields.map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()));
        let status = response.status().as_u16();
        let fields: Vec<ForwardedField> = fields.collect();
        let length = response.headers().get("content-length").and_then(|value| value.to_str().ok());
        let length = length.and_then(|value| value.parse().ok());
        let chunks = response.bytes_stream();
        let body = chunks.map(move |chunk| {
            chunk.map_err(|error| Fault::caused("reading what was answered", error.without_url()))
        });
        Ok(UpstreamResponse { status, fields, length, body: Box::pin(body) })
    }

    fn request(&self, onward: UpstreamRequest<'_>, what: &str) -> Result<reqwest::RequestBuilder, Fault> {
        if !self.proxied_reach.allows_url(&onward.url) {
            return Err(Fault::new(format!("{what}: this address may not be talked to")));
        }
        let method = Method::from_bytes(onward.method.as_bytes()).context(what)?;
        let mut request = self.passing.request(method, onward.url).timeout(onward.patience);
        for (name, value) in &onward.fields {
            let name = HeaderName::from_bytes(name.as_bytes()).context(what)?;
            request = request.header(name, HeaderValue::from_bytes(value).context(what)?);
        }
        let (name, secret) = onward.secret;
        let mut value = HeaderValue::from_str(&secret)
            .map_err(|_| Fault::new(format!("{what}: a secret that fits no header")))?;
        value.set_sensitive(true);
        let name = HeaderName::from_bytes(name.as_bytes()).context(what)?;
        request = request.header(name, value);
        Ok(match onward.body {
            None => request,
            Some(chunks) => request.body(Body::wrap_stream(chunks)),
        })
    }
}
