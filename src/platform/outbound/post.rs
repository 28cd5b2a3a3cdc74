//! Posts secrets, and reads as much of the response as possible: a response can contain a single-use token.

use std::time::Duration;

use futures_util::StreamExt as _;
use reqwest::header::{HeaderMap, HeaderValue};
use url::Url;
use zeroize::Zeroizing;

use super::Outbound;
use super::content_coding::{MAX_BYTES, content_coding, decoded};
use crate::platform::fault::{Context, Fault};

const TIMEOUT_OF_POSTS: Duration = Duration::from_secs(10);
/// Largest value of `Retry-After` that is used, in seconds.
const LONGEST_REST: u64 = 86_400;

#[derive(Clone, Copy)]
pub struct PostRequest<'a> {
    pub content_type: &'static str,
    /// The accepted media type.
    pub accept: &'static str,
    /// The value of the `Authorization` field.
    pub authorization: Option<&'a str>,
    pub body: &'a str,
}

pub struct PostResponse {
    pub status: u16,
    /// Seconds until the server wants the next request, at most a day (RFC 9110 §10.2.3).
    pub retry_after: Option<u64>,
    /// The body as far as it was read, without its content coding; its memory is cleared on drop.
    pub body: Zeroizing<Vec<u8>>,
    /// The reason that the body is incomplete; `None` for a complete body.
    pub incomplete: Option<String>,
}

impl Outbound {
    /// Posts, and reads the response whatever its status, within ten seconds: at most 256 KiB of its body, both
    /// encoded and decoded. After the status has arrived, a body that is too long, breaks off or cannot be decoded
    /// makes an incomplete response and not a fault.
    ///
    /// # Errors
    /// A fault for a forbidden address, and if there is no status in time. Its text never contains what was posted.
    pub async fn post(&self, url: &str, post: PostRequest<'_>) -> Result<PostResponse, Fault> {
        let parsed = Url::parse(url).context(&format!("posting to {url:?}"))?;
        if !self.reach.allows_url(&parsed) {
            return Err(Fault::new(format!("posting to {url:?}: this address may not be talked to")));
        }
        let request = self.client.post(parsed).timeout(TIMEOUT_OF_POSTS);
        let mut request = request.header("accept", post.accept);
        request = request.header("content-type", post.content_type).body(post.body.as_bytes().to_vec());
        if let Some(authorization) = post.authorization {
            let mut value = HeaderValue::from_str(authorization)
                .map_err(|_| Fault::new("a secret that fits no header"))?;
            value.set_sensitive(true);
            request = request.header("authorization", value);
        }
        let response = request.send().await.context(&format!("posting to {url}"))?;
        let status = response.status().as_u16();
        let retry_after = retry_after(response.headers());
        let coding = content_coding(response.headers());
        // Allocated in full at once: a buffer that grows leaves copies in memory.
        let mut body = Zeroizing::new(Vec::with_capacity(MAX_BYTES));
        let mut incomplete = None;
        let mut chunks = response.bytes_stream();
        while let Some(chunk) = chunks.next().await {
            match chunk {
                Ok(chunk) => {
                    let room = MAX_BYTES - body.len();
                    body.extend(chunk.iter().take(room));
                    if chunk.len() > room {
                        incomplete = Some(format!("the answer is longer than {MAX_BYTES} bytes"));
                        break;
                    }
                }
                Err(error) => {
                    incomplete = Some(format!("the answer breaks off: {}", error.without_url()));
                    break;
                }
            }
        }
        let (body, undecoded) = decoded(body, coding.as_deref());
        Ok(PostResponse { status, retry_after, body, incomplete: incomplete.or(undecoded) })
    }
}

/// Reads `Retry-After` (RFC 9110 §10.2.3): seconds, or a date, which is compared with the `Date` of the response.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<u64> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let wanted = text("retry-after")?;
    let seconds = wanted.parse().ok().or_else(|| {
        let (until, now) =
            (httpdate::parse_http_date(wanted).ok()?, httpdate::parse_http_date(text("date")?).ok()?);
        Some(until.duration_since(now).map_or(0, |rest| rest.as_secs()))
    });
    seconds.map(|seconds: u64| seconds.min(LONGEST_REST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rest_is_asked_for_in_seconds_or_by_a_date() {
        let rest = |wanted: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("retry-after", wanted.parse().unwrap());
            headers.insert("date", "Sun, 06 Nov 1994 08:49:37 GMT".parse().unwrap());
            retry_after(&headers)
        };
        assert_eq!(rest("30"), Some(30));
        assert_eq!(rest("Sun, 06 Nov 1994 08:50:07 GMT"), Some(30));
        assert_eq!(rest("Sun, 06 Nov 1994 08:00:00 GMT"), Some(0));
        assert_eq!(rest("999999999"), Some(86_400));
        for wanted in ["", "-1", "soon", "99999999999999999999999"] {
            assert_eq!(rest(wanted), None, "{wanted}");
        }
        let mut dateless = HeaderMap::new();
        dateless.insert("retry-after", "Sun, 06 Nov 1994 08:50:07 GMT".parse().unwrap());
        assert_eq!(retry_after(&dateless), None);
    }
}
