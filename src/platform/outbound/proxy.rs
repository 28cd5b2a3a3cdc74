//! Passing on somebody else's request: bodies are streamed both ways and left as they are, redirects are not followed, and
//! the same addresses are out of reach as for requests of our own.

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
pub type Field = (String, Vec<u8>);

/// A body as it comes.
pub type Chunks = Pin<Box<dyn Stream<Item = Result<Bytes, Fault>> + Send>>;

/// A request that is passed on.
pub struct ProxyRequest<'a> {
    pub method: &'a str,
    pub url: Url,
    /// Header fields, without those that concern one connection only.
    pub fields: Vec<Field>,
    /// The field that nobody but the receiver may see.
    pub secret: (&'a str, Zeroizing<String>),
    /// The body, where there is one; its length, if it is known, is among the fields.
    pub body: Option<Chunks>,
    /// How long all of it may take, the body of the answer included.
    pub patience: Duration,
}

/// What was answered: the body is still to come.
pub struct ProxyResponse {
    pub status: u16,
    /// Header fields, all of them.
    pub fields: Vec<Field>,
    /// The length of the body, where that was said.
    pub length: Option<u64>,
    pub body: Chunks,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum UpstreamError {
    /// It did not come in time.
    Late(Fault),
    /// There is nobody, or nobody that speaks HTTP.
    Failed(Fault),
}

/// Why two readers may see two ends of an answer, where they may. RFC 9112 §6.3: `Transfer-Encoding` beside `Content-Length`
/// "might indicate an attempt to perform request smuggling or response splitting"; a coding other than `chunked` was not asked
/// for (RFC 9112 §7.4) and would not be undone.
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
    /// Passes a request on, and answers as soon as the head of the answer is there. Dropping either gives up the request.
    ///
    /// # Errors
    /// [`UpstreamError`]; also for an address that may not be talked to.
    pub async fn forward(&self, onward: ProxyRequest<'_>) -> Result<ProxyResponse, UpstreamError> {
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
        let fields: Vec<Field> = fields.collect();
        let length = response.headers().get("content-length").and_then(|value| value.to_str().ok());
        let length = length.and_then(|value| value.parse().ok());
        let chunks = response.bytes_stream();
        let body = chunks.map(move |chunk| {
            chunk.map_err(|error| Fault::caused("reading what was answered", error.without_url()))
        });
        Ok(ProxyResponse { status, fields, length, body: Box::pin(body) })
    }

    fn request(&self, onward: ProxyRequest<'_>, what: &str) -> Result<reqwest::RequestBuilder, Fault> {
        if !self.reach.allows_url(&onward.url) {
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
