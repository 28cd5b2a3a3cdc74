//! Posts secrets, and reads as much of the response as possible: a response can contain a single-use token.

use std::io::Read as _;

use flate2::read::{MultiGzDecoder, ZlibDecoder};
use futures_util::StreamExt as _;
use reqwest::header::{HeaderMap, HeaderValue};
use url::Url;
use zeroize::Zeroizing;

use super::{MAX_BYTES, Outbound, TIMEOUT_OF_POSTS};
use crate::platform::fault::{Context, Fault};

/// Largest value of `Retry-After` that is used, in seconds.
const LONGEST_REST: u64 = 86_400;

#[derive(Clone, Copy)]
pub struct PostRequest<'a> {
    pub content_type: &'static str,
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
        let mut request = request.header("accept", "application/json");
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

/// The content coding of a response (RFC 9110 §8.4), if any.
pub(super) fn content_coding(headers: &HeaderMap) -> Option<String> {
    let named = headers.get_all("content-encoding").iter().filter_map(|value| value.to_str().ok());
    let named = named.collect::<Vec<_>>().join(", ").trim().to_ascii_lowercase();
    (!named.is_empty() && named != "identity").then_some(named)
}

/// Decodes the content coding of a body. Returns the body unchanged, with a reason, if that fails. Some servers
/// compress although the request refuses it (RFC 9110 §12.5.3).
pub(super) fn decoded(
    body: Zeroizing<Vec<u8>>,
    coding: Option<&str>,
) -> (Zeroizing<Vec<u8>>, Option<String>) {
    let mut reader: Box<dyn std::io::Read + '_> = match coding {
        None => return (body, None),
        Some("gzip" | "x-gzip") => Box::new(MultiGzDecoder::new(body.as_slice())),
        Some("deflate") => Box::new(ZlibDecoder::new(body.as_slice())),
        Some(other) => {
            let why = format!("the answer has the content coding {}", other.escape_default());
            return (body, Some(why));
        }
    };
    let mut plain = Zeroizing::new(Vec::with_capacity(MAX_BYTES));
    let mut piece = Zeroizing::new([0_u8; 4096]);
    let incomplete = loop {
        match reader.read(piece.as_mut_slice()) {
            Ok(0) => break None,
            Ok(read) if read > MAX_BYTES - plain.len() => {
                break Some(format!("the answer is longer than {MAX_BYTES} bytes"));
            }
            Ok(read) => plain.extend(piece.iter().take(read)),
            Err(_) => break Some("the content coding of the answer is broken".to_owned()),
        }
    };
    drop(reader);
    (plain, incomplete)
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
    use std::io::Write as _;

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

    #[test]
    fn content_codings_are_undone_within_the_limit() {
        let gzip = |plain: &[u8]| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(plain).unwrap();
            Zeroizing::new(encoder.finish().unwrap())
        };
        let plain = br#"{"access_token":"a"}"#;
        let (body, incomplete) = decoded(gzip(plain), Some("gzip"));
        assert_eq!((body.as_slice(), incomplete), (&plain[..], None));
        let (body, incomplete) = decoded(Zeroizing::new(plain.to_vec()), Some("br"));
        assert_eq!(body.as_slice(), plain);
        assert!(incomplete.unwrap().contains("content coding br"));
        let (body, incomplete) = decoded(gzip(&vec![b' '; 10 * MAX_BYTES]), Some("gzip"));
        assert!(body.len() <= MAX_BYTES && incomplete.is_some());
        let mut short = gzip(plain);
        short.truncate(12);
        assert!(decoded(short, Some("gzip")).1.is_some());
    }
}
