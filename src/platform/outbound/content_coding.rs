//! Content codings of responses (RFC 9110 §8.4), decoded within the limit of size.

use std::io::Read as _;

use flate2::read::{MultiGzDecoder, ZlibDecoder};
use reqwest::header::HeaderMap;
use zeroize::Zeroizing;

/// Largest document that is fetched, in bytes.
pub(super) const MAX_BYTES: usize = 256 * 1024;

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

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

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
